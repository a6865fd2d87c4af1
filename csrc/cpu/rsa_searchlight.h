// RDMs of many neighbourhoods, each compared with models as soon as it is there, and then forgotten.
#pragma once

#include <cstdint>

#include "cpu/rsa_ranks.h"

namespace nk::rsa {

/// In the order of METRICS in neurokernels/ops/rsa/inference_leaves.py.
enum class Metric : int { kCorrelation, kCosine, kEuclidean, kSqeuclidean, kPoisson, kCrossnobis };

/// Data by channel: [items, channels, parts, row], of `conditions` numbers in a row and zeros up to a whole cache line. Parts are folds of
/// crossnobis, or rates and their logarithms of poisson. Channels of centre c are indices[offsets[c]] to indices[offsets[c + 1]].
struct Volume {
  const void* data;
  int64_t items, channels, parts, row, conditions;
  const int64_t *indices, *offsets;
  int64_t centres;
};

/// Models [models, features_of(method)] of unit norm, float64; dissimilarities for a tau. out [items, centres, models].
void searchlight(Dtype dtype, const Volume& volume, Metric metric, const double* models, int64_t count, Method method, void* out,
                 int threads);

}  // namespace nk::rsa
