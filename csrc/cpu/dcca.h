// The objective of deep canonical correlation analysis for wide views, and the weights of its gradient.
#pragma once

#include <cstdint>

#include "cpu/moments.h"
#include "cpu/polar.h"

namespace nk::dcca {

enum class Objective { kNuclear, kSquares };

/// What is wanted, of matrices `x` and `y` with the same items and more rows than columns. The type that is computed in is that of the
/// covariance: float64 for float64, else float32.
struct Problem {
  Dtype dtype;
  moments::In x, y;
  double r1, r2;
  Objective objective;
  dense::Precision precision;
};

/// `value` [items]; `weights` [items, D1 + D2, D1 + D2], dense, symmetric, with [dX dY] = [x - mean, y - mean] weights, or null; `mean`
/// [items, D1 + D2]. Where digits do not suffice `failed` [items] is 1, and the rest of the item means nothing: units that others explain
/// but for rounding, correlations too small to tell from zero, samples that are not finite.
void solve(const Problem& p, void* value, void* weights, void* mean, uint8_t* failed, int threads);

}  // namespace nk::dcca
