// First and second moments of batches of samples: column means, centring, covariance and its gradient.
//
// Results do not depend on the number of threads: what is added up is partitioned by sizes alone.
#pragma once

#include <cstdint>

#include "common/element.h"

namespace nk::moments {

/// Matrices [items, rows, columns] of which each row is dense: one item after every `item` elements, one row after every `row`.
template <class Void>
struct Matrices {
  Void* data;
  int64_t items, rows, columns, item, row;
};
using In = Matrices<const void>;

/// `mean` [items, columns] in the type that is computed in (float64 for float64, else float32): taken relative to the first row, so that
/// the mean of a constant column is its value, whatever the rounding. `out` [items, rows, columns], one row after every `out_row` elements
/// and items without a gap, = x - mean rounded to `to`: bfloat16 or the type that is computed in. `total` [items] gets the sum of the squares of x - mean before that rounding.
///
/// Here and below what is subtracted is the mean to more digits than `mean` has.
void centre(Dtype dtype, In x, void* mean, Dtype to, void* out, int64_t out_row, double* total, int threads);

/// `mean` as above, and `out` [items, columns, columns], dense, = scale (x - mean)' (x - mean).
void covariance(Dtype dtype, In x, double scale, void* mean, void* out, int threads);

/// The same of x and y side by side, which have items and rows in common: `columns` are those of both.
void covariance(Dtype dtype, In x, In y, double scale, void* mean, void* out, int threads);

/// `dx` [items, rows, columns], dense, in the type of x, = scale (x - mean) (g + g') for `g` [items, columns, columns], dense.
void covariance_gradient(Dtype dtype, In x, double scale, const void* g, void* dx, int threads);

}  // namespace nk::moments
