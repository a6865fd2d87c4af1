// Canonical correlations of two small views, of one pair or of many, on the CPU: what bindings.cpp calls. From the covariance on
// everything is float64, and no size is iterated for but the singular values: see cca_solver.h.
//
// An item's results are the same bits whatever its neighbours in the batch and however many threads there are.
#pragma once

#include <cstdint>

#include "cpu/eigh.h"
#include "cpu/moments.h"

namespace nk::cca {

/// Views of more columns are for BLAS and LAPACK, which block for the cache.
constexpr int kLimit = 64;

using eigh::Level;
using moments::In;

/// The sum of the correlations, of the k largest, or of their squares.
enum class Objective : int { kNuclear = 0, kTopk = 1, kFro2 = 2 };

/// The same samples seen twice: as many items and rows, which may be laid out differently.
struct Views {
  In x, y;
  int64_t items() const { return x.items; }
  int64_t rows() const { return x.rows; }
  int columns() const { return static_cast<int>(x.columns + y.columns); }
};

/// What is added to the variances of either view, positive.
struct Ridge {
  double x, y;
};

/// `value` [items] is the objective; `weights` [items, columns, columns], symmetric, dense, may be null: the gradients are
/// [dX dY] = [Xc Yc] weights; `mean` [items, columns]. All in the type that is computed in: float64 for float64, else float32.
/// Correlations that are zero but for rounding count as zero: they add nothing to the value and nothing to the weights, fro2 apart.
void dcca(Dtype dtype, const Views& views, Ridge ridge, Objective objective, int k, void* value, void* weights, void* mean, int threads,
          Level level = Level::kBest);

/// `dx` and `dy`, dense, in the type of the views, = g [Xc Yc] weights. One g for every item, `g_item` elements apart.
void dcca_gradient(Dtype dtype, const Views& views, const void* g, int64_t g_item, const void* weights, void* dx, void* dy, int threads,
                   Level level = Level::kBest);

/// Where the derivatives of correlations go: of correlation i by x the outer product of the i-th columns of `ex` [items, rows, m] and `ax`
/// [items, columns of x, m], and likewise for y. All null if they are not wanted.
struct Factors {
  void *ex, *ax, *ey, *by;
};

/// `values` [items, m], descending, m the smaller number of columns. Correlations that are zero but for rounding are zero, and so are
/// their columns of the factors.
void correlations(Dtype dtype, const Views& views, Ridge ridge, void* values, Factors factors, int threads, Level level = Level::kBest);

/// `count` symmetric matrices of order n, of which the lower triangles are read, and their Cholesky factors.
template <class T>
struct Triangles {
  int64_t count;
  int n;
  const T* a;
  int64_t batch, row, column;  // strides of a, in elements
  double ridge;                // added to the diagonal; a pivot below it is rounding, and becomes it
  T* factor;                   // [count, n, n], lower triangular, zeros above; may be null
  T* inverse;                  // of the factor, likewise; may be null
};

/// Factors all matrices. One with a pivot that is not positive, or not a number, becomes NaN, alone.
template <class T>
void cholesky(const Triangles<T>& problem, int threads, Level level = Level::kBest);

}  // namespace nk::cca
