// One item of a batch, prepared: what is subtracted from its patterns and what they are multiplied by, and their rows as the products
// read them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/parallel.h"
#include "cpu/rdm.h"
#include "cpu/rdm_rows.h"
#include "cpu/scratch.h"

namespace nk::rdm {

/// A pair is close where its distance is below this share of the distances of both from the mean pattern: four bits are lost there.
constexpr double kNear = 1.0 / 16;
/// And below this share, what rounding of prepared patterns has taken shows too: a thousandth, five digits of float.
constexpr double kVeryNear = 1.0 / 1024;
/// Sums of a mean pattern that are added up in order: as many threads may take part in it, and none of them changes a bit.
constexpr int64_t kParts = 16;
/// Elements that are worth a thread.
constexpr int64_t kGrain = 32768;
/// rsatoolbox's prior of a Poisson rate: lambda 1 of weight 0.1.
constexpr double kPriorShift = -0.1, kPriorFactor = 1 / 1.1;

/// Where the offset of pair (i, j) begins: that of (i, j) is pairs_before(i, n) + j.
inline int64_t pairs_before(int64_t i, int64_t n) { return i * n - i * (i + 1) / 2 - i - 1; }

inline bool is_angle(Metric m) { return m == Metric::kCorrelation || m == Metric::kCosine; }

/// What half the sum of products of differences is multiplied by, before a root is taken.
inline double scale_of(Metric metric, const In& x) {
  const double channels = static_cast<double>(x.columns), folds = static_cast<double>(x.folds);
  switch (metric) {
    case Metric::kEuclidean: return 2;
    case Metric::kSqeuclidean: return 2 / channels;
    case Metric::kCrossnobis: return 2 / (folds * (folds - 1) * channels);
    case Metric::kPoisson: return 1 / channels;
    default: return 1;
  }
}

/// Rows of prepared patterns come in streams of `columns` numbers, one after the other: one stream; or the rates and their logarithms; or
/// for each fold the sum of the other ones, and then every fold itself.
template <class S>
class Item {
 public:
  Item(Metric metric, const In& in, int64_t item, int threads)
      : metric_(metric), in_(in), x_(static_cast<const S*>(in.x) + item * in.item), shift_(in.rows, 0.0), factor_(in.rows, 1.0),
        centre_(streams_of_centre() * in.columns, 0.0) {
    parallel_for(in.rows, kGrain / in.columns + 1, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) normalise(i);
    });
    take_mean(threads);
  }

  int64_t rows() const { return in_.rows; }
  int64_t columns() const { return in_.columns; }
  double shift(int64_t i) const { return shift_[i]; }
  double factor(int64_t i) const { return factor_[i]; }
  /// What was subtracted from all prepared patterns.
  const std::vector<double>& centre() const { return centre_; }
  const S* row(int64_t i, int64_t fold = 0) const { return x_ + fold * in_.fold + i * in_.row; }

  /// Streams of a product's left factor, and of both factors.
  int64_t left_streams() const { return metric_ == Metric::kPoisson ? 2 : in_.folds; }
  int64_t streams() const { return metric_ == Metric::kCrossnobis ? 2 * in_.folds : left_streams(); }

  /// Pattern i of a stream, `count` columns from `first` on. `work` holds as many numbers.
  template <class T>
  void fill(int64_t stream, int64_t i, int64_t first, int64_t count, T* out, double* work) const {
    const double* centre = centre_.data() + first;
    if (metric_ == Metric::kPoisson && stream == 1) {
      log_row(row(i) + first, count, kPriorShift, kPriorFactor, centre + in_.columns, out);
    } else if (metric_ != Metric::kCrossnobis) {
      affine_row(row(i) + first, count, shift_[i], factor_[i], centre, out);
    } else if (stream >= in_.folds) {
      const int64_t fold = stream - in_.folds;
      affine_row(row(i, fold) + first, count, 0, 1, centre + fold * in_.columns, out);
    } else {
      std::fill_n(work, count, 0.0);
      for (int64_t fold = 0; fold < in_.folds; ++fold) {
        if (fold != stream) add_row(row(i, fold) + first, count, centre + fold * in_.columns, work);
      }
      for (int64_t k = 0; k < count; ++k) out[k] = static_cast<T>(work[k]);
    }
  }

  /// Half the sum of products of differences, from the patterns as they came in: for one fold.
  double apart(int64_t i, int64_t j) const {
    if (metric_ == Metric::kPoisson) return rates_apart(row(i), row(j), in_.columns, kPriorShift, kPriorFactor);
    return 0.5 * squares_apart(row(i), row(j), in_.columns, shift_[i], factor_[i], shift_[j], factor_[j]);
  }

 private:
  int64_t streams_of_centre() const { return metric_ == Metric::kPoisson ? 2 : in_.folds; }

  void normalise(int64_t i) {
    if (metric_ == Metric::kPoisson) shift_[i] = kPriorShift, factor_[i] = kPriorFactor;
    if (!is_angle(metric_)) return;
    if (metric_ == Metric::kCorrelation) shift_[i] = mean_of(row(i), in_.columns);
    const double squares = squares_of(row(i), in_.columns, shift_[i]);
    // A pattern without variance has no direction: NaN, as in rsatoolbox, even where rounding leaves it some.
    factor_[i] = squares > 0 && std::isfinite(squares) ? 1 / std::sqrt(squares) : std::numeric_limits<double>::quiet_NaN();
  }

  /// The mean over patterns of what is finite: whatever is subtracted from all of them, a pattern that is not finite must not spoil it.
  void take_mean(int threads) {
    const int64_t n = in_.rows, d = in_.columns, span = (n + kParts - 1) / kParts, parts = (n + span - 1) / span;
    std::vector<double> sums(parts * d);
    for (int64_t fold = 0; fold < in_.folds; ++fold) {
      std::fill(sums.begin(), sums.end(), 0.0);
      parallel_for(parts, kGrain / (span * d) + 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * span; i < std::min(end * span, n); ++i) {
          add_finite(row(i, fold), d, shift_[i], factor_[i], sums.data() + i / span * d);
        }
      });
      double* centre = centre_.data() + fold * d;
      for (int64_t part = 0; part < parts; ++part) {
        for (int64_t k = 0; k < d; ++k) centre[k] += sums[part * d + k];
      }
      for (int64_t k = 0; k < d; ++k) centre[k] /= static_cast<double>(n);
    }
    if (metric_ != Metric::kPoisson) return;
    for (int64_t k = 0; k < d; ++k) centre_[d + k] = centre_[k] > 0 ? std::log(centre_[k]) : 0.0;  // of one rate: no term is negative
  }

  Metric metric_;
  In in_;
  const S* x_;
  std::vector<double> shift_, factor_, centre_;
};

/// Memory for numbers, taken once.
template <class T>
class Numbers {
 public:
  explicit Numbers(int64_t size) : memory_(std::max<int64_t>(size, 1) * static_cast<int64_t>(sizeof(T))) {}
  T* data() const { return static_cast<T*>(memory_.data()); }

 private:
  Scratch memory_;
};

/// Calls f(first item, end, threads that are left to each): items on several threads if there are enough of them.
template <class F>
void for_items(const In& x, int threads, F&& f) {
  const bool many = x.items >= threads;
  const int64_t work = std::max<int64_t>(x.rows * x.rows * x.columns / 16, 1);
  parallel_for(x.items, kGrain / work + 1, many ? threads : 1, [&](int64_t begin, int64_t end) { f(begin, end, many ? 1 : threads); });
}

}  // namespace nk::rdm
