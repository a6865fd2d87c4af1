// Gradients of distances: of a pair's weight w_ij, its distance's gradient, pattern i gets w_ij times the difference of the prepared
// patterns. For all pairs that is r_i y_i - sum_j w_ij y_j with r_i = sum_j w_ij: one product of a block of rows of W, which is put
// together from pairs as it is needed, and the prepared patterns.
#include "cpu/rdm.h"
#include "cpu/rdm_item.h"
#include "cpu/rdm_products.h"

namespace nk::rdm {
namespace {

/// Patterns whose gradients are made at a time.
constexpr int64_t kRows = 96;
/// Other patterns that are added to them at a time.
constexpr int64_t kDepth = 128;
/// Lines of channels that are worked on at a time: they and kDepth patterns fit a core's cache.
constexpr int64_t kLines = 12;

/// A pair of patterns that is close together, and its weight.
template <class T>
struct Close {
  int64_t i, j;
  T weight;
};

template <class T>
int64_t lines_of(int64_t n) {
  return (n + kLine<T> - 1) / kLine<T>;
}

template <class S, class T>
class Gradient {
 public:
  Gradient(Metric metric, const In& in, int64_t item, bool square, const T* g, const T* d, S* dx, int threads)
      : metric_(metric), in_(in), item_(metric, in, item, threads), n_(in.rows), width_(item_.left_streams() * in.columns),
        stride_(lines_of<T>(width_) * kLine<T>), sliver_(n_ * kLine<T>), square_(square), g_(g), d_(d), dx_(dx), threads_(threads),
        packed_(lines_of<T>(width_) * sliver_) {
    double squares = 0;
    for (const double c : item_.centre()) squares += c * c;
    by_mean_ = is_angle(metric) && squares < 0.5;
  }

  void run() {
    pack();
    const int64_t rows = std::min(kRows, lines_of<T>(n_) * kLine<T>), blocks = (n_ + rows - 1) / rows;
    parallel_for(blocks, kGrain / (rows * n_) + 1, threads_, [&](int64_t begin, int64_t end) {
      const Numbers<T> weights(rows * n_), sums(rows * stride_);
      double totals[kRows];
      std::vector<Close<T>> close;
      for (int64_t b = begin; b < end; ++b) {
        const int64_t first = b * rows, count = std::min(rows, n_ - first);
        close.clear();
        std::fill_n(weights.data(), rows * n_, T(0));
        std::fill_n(sums.data(), count * stride_, T(0));
        load(first, count, weights.data(), close);
        balance(first, count, weights.data(), totals);
        multiply(count, weights.data(), sums.data());
        for (const Close<T>& pair : close) {
          add_difference(item_.row(pair.i), item_.row(pair.j), width_, -pair.weight, sums.data() + (pair.i - first) * stride_);
        }
        for (int64_t i = 0; i < count; ++i) {
          if (by_mean_) add_mean(totals[i], sums.data() + i * stride_);
          finish(first + i, sums.data() + i * stride_);
        }
      }
    });
  }

 private:
  /// Prepared patterns by lines of channels, of which the numbers of one pattern follow those of the one before.
  void pack() {
    const int64_t d = item_.columns();
    if (metric_ == Metric::kEuclidean) sizes_.resize(n_);
    parallel_for(n_, kGrain / width_ + 1, threads_, [&](int64_t begin, int64_t end) {
      std::vector<double> work(d);
      std::vector<T> row(stride_, T(0));
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t stream = 0; stream < item_.left_streams(); ++stream) item_.fill(stream, i, 0, d, row.data() + stream * d, work.data());
        for (int64_t k = 0; k < stride_; k += kLine<T>) std::copy_n(row.data() + k, kLine<T>, packed_.data() + k * n_ + i * kLine<T>);
        if (metric_ == Metric::kEuclidean) sizes_[i] = squares_of(row.data(), d, 0.0);
      }
    });
  }

  /// Calls f(i, j, gradient of the pair, its offset) for all pairs of some rows, in an order in which memory is read and written in runs.
  template <class F>
  void each_pair(int64_t first, int64_t count, F&& f) const {
    const int64_t last = first + count;
    if (square_) {
      for (int64_t j = 0; j < n_; ++j) {
        for (int64_t i = first; i < last; ++i) {
          if (i != j) f(i, j, g_[i * n_ + j] + g_[j * n_ + i], i * n_ + j);
        }
      }
      return;
    }
    for (int64_t i = first; i < last; ++i) {
      const int64_t before = pairs_before(i, n_);
      for (int64_t j = i + 1; j < n_; ++j) f(i, j, g_[before + j], before + j);
    }
    for (int64_t j = 0; j < last; ++j) {
      const int64_t before = pairs_before(j, n_);
      for (int64_t i = std::max(first, j + 1); i < last; ++i) f(i, j, g_[before + i], before + i);
    }
  }

  /// Rows of W but for its diagonal, packed by lines as the patterns are. A root's derivative is 0 at 0; of two patterns that are close
  /// together it is large, and their difference small: those are left out of the product.
  void load(int64_t first, int64_t count, T* weights, std::vector<Close<T>>& close) const {
    const auto place = [&](int64_t i, int64_t j) -> T& {
      const int64_t row = i - first;
      return weights[row / kLine<T> * sliver_ + j * kLine<T> + row % kLine<T>];
    };
    if (metric_ != Metric::kEuclidean) return each_pair(first, count, [&](int64_t i, int64_t j, T g, int64_t) { place(i, j) = g; });
    each_pair(first, count, [&](int64_t i, int64_t j, T g, int64_t pair) {
      const T d = d_[pair], weight = d == 0 ? T(0) : g / d;
      if (static_cast<double>(d) * d > kNear * (sizes_[i] + sizes_[j])) place(i, j) = weight;
      else if (d != d) place(i, j) = d;
      else if (weight != 0) close.push_back({i, j, weight});
    });
  }

  /// The sums of rows, r; and minus them on the diagonal. Of a direction u = y + mean only what lies across it counts, so that r times the
  /// mean does instead of minus r times y: where the mean is short, adding that in the end costs fewer digits.
  void balance(int64_t first, int64_t count, T* weights, double* totals) const {
    for (int64_t i = 0; i < count; i += kLine<T>) {
      T* line = weights + i * n_;
      double sums[kLine<T>] = {};
      for (int64_t j = 0; j < n_; ++j) {
        for (int64_t l = 0; l < kLine<T>; ++l) sums[l] += line[j * kLine<T> + l];
      }
      for (int64_t l = 0; l < std::min(kLine<T>, count - i); ++l) {
        totals[i + l] = sums[l];
        if (!by_mean_) line[(first + i + l) * kLine<T> + l] = static_cast<T>(-sums[l]);
      }
    }
  }

  void add_mean(double total, T* sums) const {
    const double* mean = item_.centre().data();
    for (int64_t k = 0; k < item_.columns(); ++k) sums[k] = static_cast<T>(sums[k] + total * mean[k]);
  }

  /// sums = weights * patterns: minus the gradient.
  void multiply(int64_t count, const T* weights, T* sums) const {
    for (int64_t k = 0; k < stride_; k += kLines * kLine<T>) {
      const int columns = static_cast<int>(std::min(kLines * kLine<T>, stride_ - k)), rows = static_cast<int>(count);
      for (int64_t j = 0; j < n_; j += kDepth) {
        const int64_t at = j * kLine<T>;
        const int depth = static_cast<int>(std::min(kDepth, n_ - j));
        add_slivers({weights + at, packed_.data() + k * n_ + at, sums + k, sliver_, stride_, rows, columns, depth}, false);
      }
    }
  }

  /// From minus the gradient of a prepared pattern to that of the pattern.
  void finish(int64_t i, const T* sums) const {
    const int64_t d = item_.columns();
    S* to = dx_ + i * d;
    const double scale = -scale_of(metric_, in_), factor = item_.factor(i);
    switch (metric_) {
      case Metric::kCorrelation:
      case Metric::kCosine: {
        double mean = 0;
        if (metric_ == Metric::kCorrelation) mean = mean_of(sums, d);
        const double by = factor * factor * inner_row(item_.row(i), sums, d, item_.shift(i));
        return project_row(sums, d, mean, item_.row(i), item_.shift(i), by, scale * factor, to);
      }
      case Metric::kEuclidean: return scaled_row(sums, d, -1, to);
      case Metric::kSqeuclidean: return scaled_row(sums, d, scale, to);
      case Metric::kPoisson: return rate_row(sums + d, sums, d, item_.row(i), kPriorShift, kPriorFactor, scale * kPriorFactor, to);
      case Metric::kCrossnobis:
        for (int64_t fold = 0; fold < in_.folds; ++fold) scaled_row(sums + fold * d, d, scale, to + fold * n_ * d);
    }
  }

  Metric metric_;
  In in_;
  Item<S> item_;
  int64_t n_, width_, stride_, sliver_;
  bool square_;
  const T *g_, *d_;
  S* dx_;
  int threads_;
  Numbers<T> packed_;
  std::vector<double> sizes_;
  bool by_mean_ = false;
};

template <class S, class T>
void backward_of(Metric metric, const In& x, bool square, const void* g, const void* d, void* dx, int threads) {
  const int64_t size = square ? x.rows * x.rows : x.rows * (x.rows - 1) / 2, elements = x.folds * x.rows * x.columns;
  for_items(x, threads, [&](int64_t begin, int64_t end, int left) {
    for (int64_t i = begin; i < end; ++i) {
      const T *incoming = static_cast<const T*>(g) + i * size, *distances = d ? static_cast<const T*>(d) + i * size : nullptr;
      Gradient<S, T>(metric, x, i, square, incoming, distances, static_cast<S*>(dx) + i * elements, left).run();
    }
  });
}

}  // namespace

void backward(Dtype dtype, Metric metric, In x, bool square, const void* g, const void* d, void* dx, int threads) {
  switch (dtype) {
    case Dtype::kFloat32: return backward_of<float, float>(metric, x, square, g, d, dx, threads);
    case Dtype::kFloat64: return backward_of<double, double>(metric, x, square, g, d, dx, threads);
    case Dtype::kBfloat16: return backward_of<Bfloat16, float>(metric, x, square, g, d, dx, threads);
    case Dtype::kFloat16: return backward_of<Float16, float>(metric, x, square, g, d, dx, threads);
  }
}

}  // namespace nk::rdm
