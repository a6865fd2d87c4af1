// Products, Cholesky factors and their inverses of small matrices in either layout.
#pragma once

#include "cpu/cca_layout.h"

namespace nk::cca::NK_LEVEL {

/// What is known to be zero, or not wanted, and left out: a triangle of the left factor, of the right one, or of the result.
enum class Skip { kNothing, kUpperLeft, kLowerLeft, kLowerRight, kLowerResult };

/// R registers of each of C columns: c = a b, or a b', over k from `begin` to `end`.
template <class L, bool kTransposed, int R, int C>
NK_INLINE void tile(Matrix a, Matrix b, Matrix c, int h, int j, int begin, int end) {
  V sum[C][R] = {};
  for (int k = begin; k < end; ++k) {
    V left[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) left[r] = a[k][h + r];
#pragma GCC unroll 4
    for (int q = 0; q < C; ++q) {
      const V right = kTransposed ? L::at(b[k], j + q) : L::at(b[j + q], k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[q][r] = fma(left[r], right, sum[q][r]);
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) c[j + q][h + r] = sum[q][r];
}

template <class L, bool kTransposed, Skip kSkip, int C>
NK_INLINE void tiles(int height, int inner, Matrix a, Matrix b, Matrix c, int j) {
  for (int h = 0; h < height;) {
    const int size = height - h >= 4 ? 4 : height - h >= 2 ? 2 : 1, row = h * L::kRows, below = row + size * L::kRows;
    if (kSkip == Skip::kLowerResult && row >= j + C) return;
    int begin = 0, end = inner;
    if (kSkip == Skip::kUpperLeft && below < end) end = below;
    if (kSkip == Skip::kLowerLeft) begin = row;
    if (kSkip == Skip::kLowerRight && j + C < end) end = j + C;
    if (size == 4) tile<L, kTransposed, 4, C>(a, b, c, h, j, begin, end);
    else if (size == 2) tile<L, kTransposed, 2, C>(a, b, c, h, j, begin, end);
    else tile<L, kTransposed, 1, C>(a, b, c, h, j, begin, end);
    h += size;
  }
}

/// c [rows, columns] = a b, or a b'; c is neither a nor b. Left out terms are zeros, and are exactly that in a sum.
template <class L, bool kTransposed, Skip kSkip = Skip::kNothing>
void product(int rows, int columns, int inner, Matrix a, Matrix b, Matrix c) {
  const int height = L::height(rows);
  int j = 0;
  for (; j + 4 <= columns; j += 4) tiles<L, kTransposed, kSkip, 4>(height, inner, a, b, c, j);
  for (; j + 2 <= columns; j += 2) tiles<L, kTransposed, kSkip, 2>(height, inner, a, b, c, j);
  for (; j < columns; ++j) tiles<L, kTransposed, kSkip, 1>(height, inner, a, b, c, j);
}

/// Zeros, where the layout needs them below the ends of columns.
template <class L>
void clear(int rows, int columns, Matrix a) {
  if (L::kRows == 1) return;
  for (int j = 0; j < columns; ++j)
    for (int h = 0; h < L::height(rows); ++h) a[j][h] = V{};
}

/// b [columns, rows] = a'.
template <class L>
void transpose(int rows, int columns, Matrix a, Matrix b) {
  clear<L>(columns, rows, b);
  for (int j = 0; j < columns; ++j)
    for (int i = 0; i < rows; ++i) L::set(b[i], j, L::at(a[j], i));
}

/// R registers of column j, less what the columns before it explain.
template <class L, int R>
NK_INLINE void explain(Matrix s, int j, int h) {
  V left[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) left[r] = s[j][h + r];
  for (int k = 0; k < j; ++k) {
    const V factor = L::at(s[k], j);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) left[r] = nfma(s[k][h + r], factor, left[r]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) s[j][h + r] = left[r];
}

/// S = L L': L replaces the lower triangle of S, zeros what a register holds above it; `inverse` is one over its diagonal. In exact
/// arithmetic no pivot of C + ridge I is below the ridge if C has no negative eigenvalue: one that is becomes the ridge. Pivots that are
/// not positive even so, or not numbers, spoil what follows.
template <class L>
void cholesky(int n, Matrix s, V ridge, V* inverse) {
  const int height = L::height(n);
  for (int j = 0; j < n; ++j) {
    const int top = j / L::kRows;
    int h = top;
    for (; h + 4 <= height; h += 4) explain<L, 4>(s, j, h);
    for (; h < height; ++h) explain<L, 1>(s, j, h);
    V pivot = L::at(s[j], j), length, over;
    pivot = pivot < ridge ? ridge : pivot;
    pivot = pivot > V{} ? pivot : all(0.0) / 0.0;
    lanes::roots<double>(pivot, length, over);
    L::set(inverse, j, over);
    s[j][top] = L::template put<true>(s[j][top] * over, top, j, length);
    for (h = top + 1; h < height; ++h) s[j][h] *= over;
  }
}

/// C columns of the inverse of a lower triangle, from column j on, by forward substitution.
template <class L, int C>
NK_INLINE void invert_columns(int n, Matrix l, const V* inverse, Matrix a, int j) {
  const int height = L::height(n);
  for (int c = 0; c < C; ++c)
    for (int h = 0; h < height; ++h) a[j + c][h] = L::template put<false>(V{}, h, j + c, all(1.0));
  for (int k = j; k < n; ++k) {
    const int top = k / L::kRows;
    const V over = L::at(inverse, k);
    V x[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      x[c] = L::at(a[j + c], k) * over;
      a[j + c][top] = L::template put<false>(nfma(l[k][top], x[c], a[j + c][top]), top, k, x[c]);
    }
    for (int h = top + 1; h < height; ++h) {
      const V below = l[k][h];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) a[j + c][h] = nfma(below, x[c], a[j + c][h]);
    }
  }
}

/// The inverse of what `cholesky` left, with zeros above its diagonal.
template <class L>
void invert(int n, Matrix l, const V* inverse, Matrix a) {
  int j = 0;
  for (; j + 4 <= n; j += 4) invert_columns<L, 4>(n, l, inverse, a, j);
  for (; j < n; ++j) invert_columns<L, 1>(n, l, inverse, a, j);
}

}  // namespace nk::cca::NK_LEVEL
