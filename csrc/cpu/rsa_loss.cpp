#include "cpu/rsa_loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/log.h"
#include "common/multiversion.h"
#include "common/parallel.h"
#include "cpu/tiles.h"

namespace nk::rsa {
namespace {

// What a clone calls has to become part of it.
#define NK_LAMBDA __attribute__((always_inline))

constexpr int kLanes = 32;  // as many sums as keep the adders busy
constexpr int64_t kBlock = 2048;  // terms after which sums go to double
constexpr int64_t kGrain = 1 << 15;  // elements that are worth a thread

template <class T>
NK_INLINE double folded(T* lanes) {
  for (int width = kLanes / 2; width; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return static_cast<double>(lanes[0]);
}

/// The sum of term(j) for j below n: in lanes, a block at a time.
template <class T, class F>
NK_INLINE double sum_of(int64_t n, F&& term) {
  double total = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t end = std::min(start + kBlock, n);
    T lanes[kLanes] = {};
    int64_t j = start;
    for (; j + kLanes <= end; j += kLanes) {
#pragma GCC ivdep
      for (int l = 0; l < kLanes; ++l) lanes[l] += term(j + l);
    }
    for (int l = 0; l < end - j; ++l) lanes[l] += term(j + l);
    total += folded(lanes);
  }
  return total;
}

template <class S, class T>
NK_INLINE void unit_any(const S* x, const T* mean, const Layers& layers, const T* roots, T* f, T* norms) {
  for (int64_t k = 0; k < layers.count; ++k) {
    const int64_t n = layers.widths[k];
    T centre = T(0);
    if (mean) {
#pragma GCC ivdep
      for (int64_t j = 0; j < n; ++j) f[j] = widen(x[j]) - mean[j];
      mean += n;
    } else {
#pragma GCC ivdep
      for (int64_t j = 0; j < n; ++j) f[j] = widen(x[j]);
    }
    if (layers.centred) {  // relative to the first unit: a constant pattern is then centred to zeros, whatever the rounding
      const T first = f[0];
      centre = first + static_cast<T>(sum_of<T>(n, [=](int64_t j) NK_LAMBDA { return f[j] - first; }) / static_cast<double>(n));
    }
    const double norm = std::sqrt(sum_of<T>(n, [=](int64_t j) NK_LAMBDA { return (f[j] - centre) * (f[j] - centre); }));
    const T factor = static_cast<T>(static_cast<double>(roots[k]) / norm);
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) f[j] = (f[j] - centre) * factor;
    norms[k] = static_cast<T>(norm);
    x += n, f += n;
  }
}

template <class T>
NK_INLINE void gradient_any(const Layers& layers, const T* roots, const T* norms, const T* f, T* df, double* shares) {
  for (int64_t k = 0; k < layers.count; ++k) {
    const int64_t n = layers.widths[k];
    const double share = sum_of<T>(n, [=](int64_t j) NK_LAMBDA { return f[j] * df[j]; });
    const T factor = roots[k] / norms[k];
    const T along = static_cast<T>(roots[k] == T(0) ? 0.0 : share / roots[k] / norms[k]);
    T centre = T(0);
    if (layers.centred) {
      centre = static_cast<T>(sum_of<T>(n, [=](int64_t j) NK_LAMBDA { return df[j] * factor - f[j] * along; }) / static_cast<double>(n));
    }
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) df[j] = (df[j] * factor - f[j] * along) - centre;
    shares[k] = share;
    f += n, df += n;
  }
}

template <class S, class T>
struct UnitRows {
  moments::In x;
  const T* mean;
  int64_t mean_item;
  Layers layers;
  const T* roots;
  T *f, *norms;

  NK_INLINE void run(int64_t begin, int64_t end) const {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t b = r / x.rows, i = r % x.rows;
      unit_any(static_cast<const S*>(x.data) + b * x.item + i * x.row, mean ? mean + b * mean_item : nullptr, layers,
               roots + b * layers.count, f + r * x.columns, norms + r * layers.count);
    }
  }
};

template <class T>
struct UnitRowsGradient {
  int64_t rows, columns;
  Layers layers;
  const T *roots, *norms, *f;
  T* df;
  double* shares;

  NK_INLINE void run(int64_t begin, int64_t end) const {
    for (int64_t r = begin; r < end; ++r) {
      gradient_any(layers, roots + r / rows * layers.count, norms + r * layers.count, f + r * columns, df + r * columns,
                   shares + r * layers.count);
    }
  }
};

/// One pair: the square of the difference, and the derivative of it in place of the similarity.
template <class T>
struct Pair {
  T eps, slope, low, sign, bound;

  NK_INLINE T difference(T& s, T t) const {
    t = low + sign * t;
    t = t > bound ? bound : t, t = t < -bound ? -bound : t;
    s = s > T(1) ? T(1) : s, s = s < T(-1) ? T(-1) : s;  // the cosine of a duplicate, rounded
    const T up = (T(1) + s) + eps, down = (T(1) - s) + eps;
    const T gap = log_of(up * ((T(1) - t) + eps) / (down * ((T(1) + t) + eps)));
    s = slope * gap / (up * down);
    return gap;
  }
};

/// The sum of squares over a row of pairs, which become derivatives if there is a gradient.
template <class T>
NK_INLINE double log_odds_any(const Pair<T>& pair, T* s, const T* t, int64_t n, bool gradient) {
  if (!gradient) {
    return sum_of<T>(n, [&](int64_t j) NK_LAMBDA {
      T own = s[j];
      const T gap = pair.difference(own, t[j]);
      return gap * gap;
    });
  }
  return sum_of<T>(n, [&](int64_t j) NK_LAMBDA {
    T own = s[j];
    const T gap = pair.difference(own, t[j]);
    s[j] = own;
    return gap * gap;
  });
}

template <class T>
struct Rows {
  const Tile<T>& tile;
  const Target<T>& target;
  int64_t first_row, first_column;
  Pair<T> pair;
  bool gradient;
  double* sums;

  NK_INLINE void run(int64_t begin, int64_t end) const {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t b = r / tile.rows, i = r % tile.rows, j = tile.diagonal ? i + 1 : 0;
      T* row = tile.data + b * tile.item + i * tile.row;
      sums[r] = j < tile.columns
                    ? log_odds_any(pair, row + j, target.of(b, first_row + i, first_column + j), tile.columns - j, gradient)
                    : 0.0;
      if (gradient && tile.diagonal) row[i] = T(0);
    }
  }
};

}  // namespace

#define NK_UNIT(S, T) \
  NK_MULTIVERSION void run_rows(const UnitRows<S, T>& job, int64_t begin, int64_t end) { job.run(begin, end); }
#define NK_JOBS(T)                                                                                                       \
  NK_MULTIVERSION void run_rows(const UnitRowsGradient<T>& job, int64_t begin, int64_t end) { job.run(begin, end); }     \
  NK_MULTIVERSION void run_rows(const Rows<T>& job, int64_t begin, int64_t end) { job.run(begin, end); }

NK_UNIT(float, float)
NK_UNIT(Bfloat16, float)
NK_UNIT(Float16, float)
NK_UNIT(double, double)
NK_JOBS(float)
NK_JOBS(double)

namespace {

template <class S, class T>
void unit_typed(const moments::In& x, const void* mean, int64_t mean_item, const Layers& layers, const void* roots, void* f, void* norms,
                int threads) {
  const UnitRows<S, T> job{x,      static_cast<const T*>(mean),  mean_item, layers, static_cast<const T*>(roots),
                           static_cast<T*>(f), static_cast<T*>(norms)};
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(x.columns, 1));
  parallel_for(x.items * x.rows, grain, threads, [&](int64_t begin, int64_t end) { run_rows(job, begin, end); });
}

template <class T>
void gradient_typed(int64_t items, int64_t rows, int64_t columns, const Layers& layers, const void* roots, const void* norms,
                    const void* f, void* df, double* shares, int threads) {
  const UnitRowsGradient<T> job{rows, columns, layers, static_cast<const T*>(roots), static_cast<const T*>(norms),
                                static_cast<const T*>(f), static_cast<T*>(df), shares};
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(columns, 1));
  parallel_for(items * rows, grain, threads, [&](int64_t begin, int64_t end) { run_rows(job, begin, end); });
}

}  // namespace

void unit_rows(Dtype dtype, moments::In x, const void* mean, int64_t mean_item, const Layers& layers, const void* roots, void* f,
               void* norms, int threads) {
  switch (dtype) {
    case Dtype::kFloat64: return unit_typed<double, double>(x, mean, mean_item, layers, roots, f, norms, threads);
    case Dtype::kFloat32: return unit_typed<float, float>(x, mean, mean_item, layers, roots, f, norms, threads);
    case Dtype::kBfloat16: return unit_typed<Bfloat16, float>(x, mean, mean_item, layers, roots, f, norms, threads);
    case Dtype::kFloat16: return unit_typed<Float16, float>(x, mean, mean_item, layers, roots, f, norms, threads);
  }
}

void unit_rows_gradient(Dtype dtype, int64_t items, int64_t rows, int64_t columns, const Layers& layers, const void* roots,
                        const void* norms, const void* f, void* df, double* shares, int threads) {
  const auto run = dtype == Dtype::kFloat64 ? gradient_typed<double> : gradient_typed<float>;
  run(items, rows, columns, layers, roots, norms, f, df, shares, threads);
}

template <class T>
void log_odds(const Tile<T>& tile, const Target<T>& target, int64_t first_row, int64_t first_column, const LogOdds& how, bool gradient,
              double* sums, int threads) {
  const T eps = static_cast<T>(how.eps);
  const Pair<T> pair{eps, static_cast<T>(4 * (1 + how.eps) * how.weight), how.flipped ? T(1) : T(0), how.flipped ? T(-1) : T(1),
                     how.bounded ? T(1) : std::numeric_limits<T>::infinity()};
  std::vector<double> rows(tile.items * tile.rows);
  const Rows<T> job{tile, target, first_row, first_column, pair, gradient, rows.data()};
  const int64_t grain = std::max<int64_t>(1, kGrain / 8 / std::max<int64_t>(tile.columns, 1));
  parallel_for(tile.items * tile.rows, grain, threads, [&](int64_t begin, int64_t end) { run_rows(job, begin, end); });
  for (int64_t b = 0; b < tile.items; ++b) {
    double total = 0;
    for (int64_t i = 0; i < tile.rows; ++i) total += rows[b * tile.rows + i];
    sums[b] = total * how.weight;
    T* data = tile.data + b * tile.item;
    if (gradient && tile.diagonal) tiles::transpose(data, tile.row, tile.rows, tile.columns, data, tile.row, true);
  }
}

template void log_odds(const Tile<float>&, const Target<float>&, int64_t, int64_t, const LogOdds&, bool, double*, int);
template void log_odds(const Tile<double>&, const Target<double>&, int64_t, int64_t, const LogOdds&, bool, double*, int);

}  // namespace nk::rsa
