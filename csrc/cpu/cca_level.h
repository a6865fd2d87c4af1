// One compilation of the solver: what it is called with. How it is compiled for each instruction set says eigh_level.h.
#pragma once

#include "common/element.h"
#include "cpu/cca_small.h"
#include "cpu/eigh_level.h"

namespace nk::cca {

/// What becomes of the second moments of a few items.
struct Small {
  int d1, d2;
  Ridge ridge;
  double scale;     // of the moments, to make covariances of them
  bool each;        // correlations one by one, not an objective
  Objective objective;
  int k;
  int64_t stride, item;  // elements from row to row and from item to item of `moments`, which has a register's width of room at its end
  double* moments;       // [items, d1 + d2, stride], upper triangles; with `derivative` the weights of an objective replace them
  bool derivative;
  double* values;  // [items], or [items, m] in descending order
  double *a, *b;   // [items, d1, m] and [items, d2, m], canonical directions in columns; only for correlations with `derivative`
};

/// Columns that are read at once, and so what arrays over columns have room for.
constexpr int kChunk = 8;

/// The type that is computed in.
template <class S>
using Compute = decltype(widen(S{}));

/// What is done with rows of a view of type S: see cca_rows.h.
template <class S>
struct Rows {
  /// sums[j] += sum over rows of x[row][j] - first[j].
  void (*add)(const S* x, int64_t stride, int rows, int columns, const double* first, double* sums);
  /// out[row][j] = x[row][j] - mean[j], rounded. What follows a row of `out`, up to a whole chunk, is touched.
  void (*centre)(const S* x, int64_t stride, int rows, int columns, const double* mean, double* out, int64_t out_stride);
  void (*centre_short)(const S* x, int64_t stride, int rows, int columns, const double* mean, Compute<S>* out, int64_t out_stride);
  /// out[row][j] = x[row][j], rounded.
  void (*narrow)(const Compute<S>* x, int64_t stride, int rows, int columns, S* out, int64_t out_stride);
};

/// Items that the solver takes at once, the doubles it needs to work in, and the solver, for up to that many.
struct Solver {
  int lanes;
  int64_t (*room)(int d1, int d2);
  void (*solve)(const Small& problem, int items, double* room);
  void (*cholesky32)(const Triangles<float>& problem, int64_t begin, int64_t end);
  void (*cholesky64)(const Triangles<double>& problem, int64_t begin, int64_t end);
  Rows<float> float32;
  Rows<double> float64;
  Rows<Bfloat16> bfloat16;
  Rows<Float16> float16;
};

#if NK_EIGH_LEVELS
namespace v4 {
extern const Solver kSolver;
}
namespace v3 {
extern const Solver kSolver;
}
#endif
namespace baseline {
extern const Solver kSolver;
}

}  // namespace nk::cca
