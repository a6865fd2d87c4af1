#include "cpu/rdm_rows.h"

#include <cmath>
#include <limits>

#include "common/multiversion.h"

namespace nk::rdm {
namespace {

/// Sums that keep the adders busy.
constexpr int64_t kLanes = 16;

/// The sum of f(i) for i below n, in kLanes sums.
template <class F>
NK_INLINE double summed(int64_t n, F&& f) {
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma GCC ivdep
    for (int64_t l = 0; l < kLanes; ++l) sums[l] += f(i + l);
  }
  double total = 0;
  for (; i < n; ++i) total += f(i);
  for (const double sum : sums) total += sum;
  return total;
}

template <class S>
NK_INLINE double mean_any(const S* x, int64_t n) {
  const double first = widen(x[0]);
  return first + summed(n, [=](int64_t i) { return widen(x[i]) - first; }) / static_cast<double>(n);
}

template <class S>
NK_INLINE double squares_any(const S* x, int64_t n, double shift) {
  return summed(n, [=](int64_t i) {
    const double value = widen(x[i]) - shift;
    return value * value;
  });
}

template <class S>
NK_INLINE void add_finite_any(const S* x, int64_t n, double shift, double factor, double* sums) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const double value = (widen(x[i]) - shift) * factor;
    sums[i] += value - value == 0 ? value : 0.0;
  }
}

template <class S>
NK_INLINE void add_row_any(const S* x, int64_t n, const double* centre, double* sums) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) sums[i] += widen(x[i]) - centre[i];
}

template <class S, class T>
NK_INLINE void affine_any(const S* x, int64_t n, double shift, double factor, const double* centre, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>((widen(x[i]) - shift) * factor - centre[i]);
}

template <class S, class T>
NK_INLINE double inner_any(const S* x, const T* c, int64_t n, double shift) {
  return summed(n, [=](int64_t i) { return (widen(x[i]) - shift) * c[i]; });
}

template <class T>
NK_INLINE int64_t distance_any(const T* k, T h, const T* hs, int64_t n, T near, T scale, T* out) {
  int64_t close = 0;
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) {
    const T size = h + hs[j], value = size - k[j];
    close += value <= near * size;
    out[j] = scale * value;
  }
  return close;
}

template <class T>
NK_INLINE void root_any(T* out, int64_t n) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) out[j] = std::sqrt(out[j]);
}

template <class T>
NK_INLINE void direct_any(const T* a, const T* b, const T* as, const T* bs, int64_t depth, double* sums) {
  constexpr int64_t kBlock = 64;
  for (int64_t start = 0; start < depth; start += kBlock) {
    const int64_t end = start + kBlock < depth ? start + kBlock : depth;
    T block[kLine<T>] = {};
    for (int64_t k = start; k < end; ++k) {
      const T left = a[k * kLine<T>], right = b[k * kLine<T>];
      const T *row = as + k * kLine<T>, *other = bs + k * kLine<T>;
#pragma GCC ivdep
      for (int64_t l = 0; l < kLine<T>; ++l) block[l] += (left - row[l]) * (right - other[l]);
    }
    for (int64_t l = 0; l < kLine<T>; ++l) sums[l] += 0.5 * static_cast<double>(block[l]);
  }
}

template <class S, class T>
NK_INLINE void add_difference_any(const S* x, const S* y, int64_t n, T w, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] += w * (widen(x[i]) - widen(y[i]));
}

template <class S>
NK_INLINE double squares_apart_any(const S* x, const S* y, int64_t n, double x_shift, double x_factor, double y_shift, double y_factor) {
  return summed(n, [=](int64_t i) {
    const double value = (widen(x[i]) - x_shift) * x_factor - (widen(y[i]) - y_shift) * y_factor;
    return value * value;
  });
}

template <class S, class T>
NK_INLINE void project_any(const T* c, int64_t n, double mean, const S* x, double shift, double by, double factor, S* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = narrow<S>(static_cast<T>(factor * ((c[i] - mean) - (widen(x[i]) - shift) * by)));
}

template <class S, class T>
NK_INLINE void rate_any(const T* c, const T* c2, int64_t n, const S* x, double shift, double rate, double factor, S* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = narrow<S>(static_cast<T>(factor * (c[i] + c2[i] / ((widen(x[i]) - shift) * rate))));
}

template <class S, class T>
NK_INLINE void scaled_any(const T* c, int64_t n, double factor, S* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = narrow<S>(static_cast<T>(factor * c[i]));
}

}  // namespace

template <class S, class T>
void log_row(const S* x, int64_t n, double shift, double factor, const double* centre, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(std::log((widen(x[i]) - shift) * factor) - centre[i]);
}

template <class S>
double rates_apart(const S* x, const S* y, int64_t n, double shift, double factor) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double p = (widen(x[i]) - shift) * factor, q = (widen(y[i]) - shift) * factor;
    total += (p - q) * std::log(p / q);
  }
  return total;
}

#define NK_STORED(S)                                                                                                        \
  template <>                                                                                                               \
  NK_MULTIVERSION double mean_of(const S* x, int64_t n) {                                                                   \
    return mean_any(x, n);                                                                                                  \
  }                                                                                                                         \
  template <>                                                                                                               \
  NK_MULTIVERSION double squares_of(const S* x, int64_t n, double shift) {                                                  \
    return squares_any(x, n, shift);                                                                                        \
  }                                                                                                                         \
  template <>                                                                                                               \
  NK_MULTIVERSION void add_finite(const S* x, int64_t n, double shift, double factor, double* sums) {                       \
    add_finite_any(x, n, shift, factor, sums);                                                                              \
  }                                                                                                                         \
  template <>                                                                                                               \
  NK_MULTIVERSION void add_row(const S* x, int64_t n, const double* centre, double* sums) {                                 \
    add_row_any(x, n, centre, sums);                                                                                        \
  }                                                                                                                         \
  template <>                                                                                                               \
  NK_MULTIVERSION double squares_apart(const S* x, const S* y, int64_t n, double x_shift, double x_factor, double y_shift,  \
                                       double y_factor) {                                                                   \
    return squares_apart_any(x, y, n, x_shift, x_factor, y_shift, y_factor);                                                \
  }                                                                                                                         \
  template double rates_apart(const S* x, const S* y, int64_t n, double shift, double factor);
#define NK_PAIR(S, T)                                                                                                                      \
  template <>                                                                                                                              \
  NK_MULTIVERSION void affine_row(const S* x, int64_t n, double shift, double factor, const double* centre, T* out) {                      \
    affine_any(x, n, shift, factor, centre, out);                                                                                          \
  }                                                                                                                                        \
  template <>                                                                                                                              \
  NK_MULTIVERSION double inner_row(const S* x, const T* c, int64_t n, double shift) {                                                      \
    return inner_any(x, c, n, shift);                                                                                                      \
  }                                                                                                                                        \
  template <>                                                                                                                              \
  NK_MULTIVERSION void add_difference(const S* x, const S* y, int64_t n, T w, T* out) {                                                    \
    add_difference_any(x, y, n, w, out);                                                                                                   \
  }                                                                                                                                        \
  template void log_row(const S* x, int64_t n, double shift, double factor, const double* centre, T* out);                                 \
  template <>                                                                                                                              \
  NK_MULTIVERSION void project_row(const T* c, int64_t n, double mean, const S* x, double shift, double by, double factor, S* out) {       \
    project_any(c, n, mean, x, shift, by, factor, out);                                                                                    \
  }                                                                                                                                        \
  template <>                                                                                                                              \
  NK_MULTIVERSION void rate_row(const T* c, const T* c2, int64_t n, const S* x, double shift, double rate, double factor, S* out) {        \
    rate_any(c, c2, n, x, shift, rate, factor, out);                                                                                       \
  }                                                                                                                                        \
  template <>                                                                                                                              \
  NK_MULTIVERSION void scaled_row(const T* c, int64_t n, double factor, S* out) {                                                          \
    scaled_any(c, n, factor, out);                                                                                                         \
  }
#define NK_COMPUTED(T)                                                                                            \
  template <>                                                                                                     \
  NK_MULTIVERSION int64_t distance_row(const T* k, T h, const T* hs, int64_t n, T near, T scale, T* out) {        \
    return distance_any(k, h, hs, n, near, scale, out);                                                           \
  }                                                                                                               \
  template <>                                                                                                     \
  NK_MULTIVERSION void root_row(T* out, int64_t n) {                                                              \
    root_any(out, n);                                                                                             \
  }                                                                                                               \
  template <>                                                                                                     \
  NK_MULTIVERSION void direct_line(const T* a, const T* b, const T* as, const T* bs, int64_t depth, double* sums) {\
    direct_any(a, b, as, bs, depth, sums);                                                                        \
  }

NK_STORED(float)
NK_STORED(double)
NK_STORED(Bfloat16)
NK_STORED(Float16)
NK_PAIR(float, float)
NK_PAIR(double, double)
NK_PAIR(Bfloat16, float)
NK_PAIR(Float16, float)
NK_COMPUTED(float)
NK_COMPUTED(double)

}  // namespace nk::rdm
