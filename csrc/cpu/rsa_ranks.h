// Comparators of dissimilarities: features of every kind, ranks, Kendall's tau, and ranks of resamples.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "common/element.h"

namespace nk::rsa {

/// In the order of METHODS in neurokernels/ops/rsa/inference_leaves.py.
enum class Method : int { kPearson, kCosine, kSpearman, kKendall, kRhoA, kTauA, kWhitenedCosine, kWhitenedPearson };

inline bool whitened(Method method) { return method == Method::kWhitenedCosine || method == Method::kWhitenedPearson; }
inline bool ranked(Method method) { return method == Method::kSpearman || method == Method::kRhoA; }
inline bool tau(Method method) { return method == Method::kKendall || method == Method::kTauA; }

/// N conditions have N (N - 1) / 2 pairs i < j, row by row.
inline int64_t pairs_of(int64_t conditions) { return conditions * (conditions - 1) / 2; }
/// Of a whitened method pairs and the diagonal; the others take any number of pairs, and no conditions.
inline int64_t features_of(Method method, int64_t pairs, int64_t conditions) { return pairs + (whitened(method) ? conditions : 0); }

/// Sorts numbers by the bits that order them as they are, a byte at a time. Equal numbers keep their order; there may be no NaN.
class Sorter {
 public:
  /// Fills `order` with the places of x from the smallest on.
  void sort(const double* x, int64_t n);
  std::vector<uint32_t> order;
  std::vector<double> ranks;  // for whoever ranks with it

 private:
  std::vector<uint64_t> keys_, other_;
  std::vector<uint32_t> spare_;
};

bool has_nan(const double* x, int64_t n);

/// Twice the mid-ranks without their mean, integers; NaN throughout if there is a NaN. In place is fine.
void doubled_ranks(const double* x, int64_t n, double* out, Sorter& sorter);

/// Dissimilarities, which are destroyed, to features, and the norm that they have yet to be divided by; `features` may be x unless the
/// method is a whitened one, and has room for features_of.
double raw_features(double* x, int64_t pairs, int64_t conditions, Method method, double* features, Sorter& sorter);

double inner(const double* x, const double* y, int64_t n);

/// What is known of one side of Kendall's tau.
struct Ranked {
  std::vector<uint32_t> order;  // from the smallest value on
  std::vector<uint32_t> rank;   // dense: equal values share one
  int64_t ties = 0;             // pairs of equal values
  bool nan = false;
};
Ranked ranked_side(const double* x, int64_t n, Sorter& sorter);

/// Memory that a thread needs to count with.
struct Counting {
  std::vector<uint32_t> now, next;
};
/// By Knight's method: sorted by a, and by b among equals; what merging then has to overtake are the discordant pairs.
double kendall(const Ranked& a, const Ranked& b, int64_t n, Method method, Counting& memory);

/// Rows of x [rows, pairs], dense, to rows of features and norms.
void features(Dtype dtype, const void* x, int64_t rows, int64_t pairs, int64_t conditions, Method method, void* out, void* norm, int threads);

/// a [items, A, pairs] and b [items, B, pairs] to out [items, A, B].
void concordance(Dtype dtype, const void* a, const void* b, int64_t items, int64_t rows_a, int64_t rows_b, int64_t pairs, Method method,
                 void* out, int threads);

/// One item: a [A, pairs] and b [B, pairs] under counts [n, conditions] to out [n, A, B], by a method of ranks or a tau.
void resample(Dtype dtype, const void* a, const void* b, int64_t rows_a, int64_t rows_b, int64_t conditions, const int64_t* counts,
              int64_t n, Method method, void* out, int threads);

}  // namespace nk::rsa
