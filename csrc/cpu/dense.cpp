#include "cpu/dense.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/multiversion.h"
#include "common/parallel.h"
#include "cpu/tiles.h"

namespace nk::dense {
namespace {

/// Rows of a product that are added to a tile at a time.
constexpr int64_t kDepth = 128;
/// Lines of the widest tile: two panels of kDepth rows and the tile fit a core's cache.
constexpr int64_t kWidest = 12;
/// The largest matrix whose root is taken row by row.
constexpr int64_t kBase = 32;
/// Operations that are worth a thread.
constexpr int64_t kGrain = 1 << 22;

/// Row by row: s = r' r, then u = r^-1, both upper triangular.
template <class T>
NK_INLINE T base_any(T* s, int64_t stride, T* u, int64_t u_stride, int64_t n, const T* variances) {
  T least = 1;
  for (int64_t i = 0; i < n; ++i) {
    T* row = s + i * stride;
    const T share = row[i] / variances[i];
    if (!(share >= least)) least = share;
    if (!(least > 0)) return least;
    const T inverse = 1 / std::sqrt(row[i]);
#pragma GCC ivdep
    for (int64_t j = i; j < n; ++j) row[j] *= inverse;
    for (int64_t k = i + 1; k < n; ++k) {
      T* below = s + k * stride;
      const T factor = row[k];
#pragma GCC ivdep
      for (int64_t j = k; j < n; ++j) below[j] -= factor * row[j];
    }
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    T* to = u + i * u_stride;
    const T inverse = 1 / s[i * stride + i];
    for (int64_t j = i; j < n; ++j) to[j] = 0;
    for (int64_t k = i + 1; k < n; ++k) {
      const T factor = s[i * stride + k] * -inverse;
      const T* below = u + k * u_stride;
#pragma GCC ivdep
      for (int64_t j = k; j < n; ++j) to[j] += factor * below[j];
    }
    to[i] = inverse;
  }
  return least;
}

template <class T>
NK_INLINE double inner_any(const T* a, int64_t a_stride, const T* b, int64_t b_stride, int64_t rows, int64_t columns) {
  constexpr int64_t kLanes = 16;
  double total = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const T *left = a + i * a_stride, *right = b + i * b_stride;
    double sums[kLanes] = {};
    int64_t j = 0;
    for (; j + kLanes <= columns; j += kLanes) {
#pragma GCC ivdep
      for (int64_t l = 0; l < kLanes; ++l) sums[l] += static_cast<double>(left[j + l]) * right[j + l];
    }
    for (; j < columns; ++j) sums[0] += static_cast<double>(left[j]) * right[j];
    for (const double sum : sums) total += sum;
  }
  return total;
}

NK_MULTIVERSION double inner_of(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows, int64_t columns) {
  return inner_any(a, a_stride, b, b_stride, rows, columns);
}
NK_MULTIVERSION double inner_of(const double* a, int64_t a_stride, const double* b, int64_t b_stride, int64_t rows, int64_t columns) {
  return inner_any(a, a_stride, b, b_stride, rows, columns);
}
NK_MULTIVERSION float base(float* s, int64_t stride, float* u, int64_t u_stride, int64_t n, const float* variances) {
  return base_any(s, stride, u, u_stride, n, variances);
}
NK_MULTIVERSION double base(double* s, int64_t stride, double* u, int64_t u_stride, int64_t n, const double* variances) {
  return base_any(s, stride, u, u_stride, n, variances);
}

/// One tile of a product, [rows, columns] from (i, j).
template <class T>
struct Tile {
  int64_t i, j, rows, columns;

  /// The part of the depth that is not known to be zero, in whole blocks.
  void span(const Product<T>& p, int64_t& begin, int64_t& end) const {
    begin = 0, end = p.transposed ? p.a.rows : p.a.columns;
    switch (p.zeros) {
      case Zeros::kNone: break;
      case Zeros::kRightOfLeft: end = std::min(end, i + rows); break;
      case Zeros::kLeftOfLeft: begin = i; break;
      case Zeros::kBelowRight: end = std::min(end, j + columns); break;
      case Zeros::kAboveRight: begin = j; break;
    }
    begin = begin / kDepth * kDepth;
  }

  void run(const Product<T>& p, T* memory, int64_t width) const {
    int64_t begin, end;
    span(p, begin, end);
    const bool direct = p.plain() && !p.transposed, upper = p.symmetric && i == j;
    T* to = direct ? p.c.row(i) + j : memory;
    const int64_t to_stride = direct ? p.c.stride : width;
    if (!direct) std::fill_n(memory, rows * width, T(0));
    for (int64_t k = begin; k < end; k += kDepth) {
      const T* a = p.transposed ? p.a.row(k) + i : p.a.row(i) + k;
      const moments::Product<T> part{a,        p.b.row(k) + j, to, p.a.stride, p.b.stride, to_stride, static_cast<int>(rows),
                                     static_cast<int>(columns), static_cast<int>(std::min(kDepth, end - k))};
      if (p.transposed) moments::add_gram(part, upper);
      else if (direct && k == begin) moments::set_product(part);
      else moments::add_product(part, upper);
    }
    if (!direct) store(p, memory, width);
  }

  void store(const Product<T>& p, const T* memory, int64_t width) const {
    T* to = p.c.row(i) + j;
    const T* added = p.added ? p.added->row(i) + j : nullptr;
    tiles::scale_rows(memory, width, rows, columns, p.scale, added, p.added ? p.added->stride : 0, p.by, to, p.c.stride);
    if (p.identity != 0 && i == j) {
      for (int64_t k = 0; k < std::min(rows, columns); ++k) to[k * p.c.stride + k] += p.identity;
    }
    if (p.symmetric) tiles::transpose(to, p.c.stride, rows, columns, p.c.row(j) + i, p.c.stride, i == j);
  }
};

/// Columns of a tile: whole lines, of equal tiles, and enough of them for the threads.
template <class T>
int64_t width_of(int64_t columns, int threads) {
  const int64_t lines = (columns + kLine<T> - 1) / kLine<T>;
  int64_t count = (lines + kWidest - 1) / kWidest;
  while (count * count < 2 * threads && lines >= 2 * (count + 1)) ++count;
  return (lines + count - 1) / count * kLine<T>;
}

/// `inverse_root` of a part; `variances` are the diagonal of s as it came in.
template <class T>
T root(const Matrix<T>& s, const Matrix<T>& u, T* work, const T* variances, int threads) {
  const int64_t n = s.rows;
  if (n <= kBase) return base(s.data, s.stride, u.data, u.stride, n, variances);
  const int64_t h = (n / 2 + kBase - 1) / kBase * kBase, rest = n - h;
  const T first = root(s.part(0, 0, h, h), u.part(0, 0, h, h), work, variances, threads);
  if (!(first > 0)) return first;
  const Matrix<T> s12 = s.part(0, h, h, rest), s22 = s.part(h, h, rest, rest), u11 = u.part(0, 0, h, h), u22 = u.part(h, h, rest, rest);
  const Matrix<T> r{work, h, rest, stride_of<T>(rest)};
  multiply<T>({u11, s12, r, true, false, Zeros::kRightOfLeft}, threads);
  multiply<T>({r, r, s22, true, true, Zeros::kNone, T(-1), &s22, T(1)}, threads);
  const T second = root(s22, u22, work + Arena<T>::size_of(h, rest), variances + h, threads);
  if (!(second > 0)) return second;
  multiply<T>({r, u22, s12, false, false, Zeros::kBelowRight}, threads);
  multiply<T>({u11, s12, u.part(0, h, h, rest), false, false, Zeros::kLeftOfLeft, T(-1)}, threads);
  return std::min(first, second);
}

}  // namespace

template <class T>
void multiply(const Product<T>& p, int threads) {
  const int64_t m = p.c.rows, n = p.c.columns, operations = m * n * (p.transposed ? p.a.rows : p.a.columns);
  const int useful = static_cast<int>(std::clamp<int64_t>(operations / kGrain, 1, threads));
  const int64_t height = width_of<T>(m, useful), width = p.symmetric ? height : width_of<T>(n, useful);
  const int64_t down = (m + height - 1) / height, across = (n + width - 1) / width;
  parallel_for(down * across, 1, useful, [&](int64_t begin, int64_t end) {
    const Scratch memory(height * width * static_cast<int64_t>(sizeof(T)));
    T* tile = static_cast<T*>(memory.data());
    for (int64_t t = begin; t < end; ++t) {
      const int64_t i = t / across * height, j = t % across * width;
      if (p.symmetric && j < i) continue;
      Tile<T>{i, j, std::min(height, m - i), std::min(width, n - j)}.run(p, tile, width);
    }
  });
}

template <class T>
double inner(const Matrix<T>& a, const Matrix<T>& b) {
  return inner_of(a.data, a.stride, b.data, b.stride, a.rows, a.columns);
}

template <class T>
void transpose(const Matrix<T>& from, const Matrix<T>& to) {
  tiles::transpose(from.data, from.stride, from.rows, from.columns, to.data, to.stride, false);
}

template <class T>
T inverse_root(const Matrix<T>& s, const Matrix<T>& u, const Matrix<T>& work, int threads) {
  std::vector<T> variances(s.rows);
  for (int64_t i = 0; i < s.rows; ++i) variances[i] = s.row(i)[i];
  return root(s, u, work.data, variances.data(), threads);
}

template void multiply(const Product<float>&, int);
template void multiply(const Product<double>&, int);
template double inner(const Matrix<float>&, const Matrix<float>&);
template double inner(const Matrix<double>&, const Matrix<double>&);
template void transpose(const Matrix<float>&, const Matrix<float>&);
template void transpose(const Matrix<double>&, const Matrix<double>&);
template float inverse_root(const Matrix<float>&, const Matrix<float>&, const Matrix<float>&, int);
template double inverse_root(const Matrix<double>&, const Matrix<double>&, const Matrix<double>&, int);

}  // namespace nk::dense
