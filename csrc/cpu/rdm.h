// Dissimilarity matrices of patterns [rows, columns] and their gradients. All offsets are in elements.
//
// Every metric is a sum over channels of products of differences, d_ij = scale * sum_k (a_ik - a_jk)(b_ik - b_jk), of patterns that were
// prepared first: normalised, centred, their logarithm taken. So d_ij = scale * (k_ii + k_jj - 2 k_ij) with one symmetric product k = a b',
// of which the upper triangle is computed, by tiles. Subtracting one pattern from all changes nothing but the digits that are left: the
// mean pattern is taken out, and where a pair still lies close together its differences are summed up one by one.
#pragma once

#include <cstdint>

#include "common/element.h"

namespace nk::rdm {

/// In the order of METRICS in neurokernels/ops/rsa/rdm_leaves.py.
enum class Metric : int { kCorrelation, kCosine, kEuclidean, kSqeuclidean, kCrossnobis, kPoisson };

/// A batch of `items` times [folds, rows, columns], columns side by side; there is one fold unless the metric is crossnobis.
struct In {
  const void* x;
  int64_t items, folds, rows, columns, item, fold, row;
};

/// Distances of pairs i < j row by row, or with `square` all of them. Both are dense, and of the type that is computed in: float for half
/// precision.
void forward(Dtype dtype, Metric metric, In x, bool square, void* out, int threads);

/// The gradient of x, dense and of its type, from that of the distances g; d are the distances, read for euclidean alone.
void backward(Dtype dtype, Metric metric, In x, bool square, const void* g, const void* d, void* dx, int threads);

}  // namespace nk::rdm
