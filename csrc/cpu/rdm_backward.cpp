// Gradients of distances: of a pair's weight w_ij, its distance's gradient, pattern i gets w_ij times the difference of the prepared
// patterns. For all pairs that is r_i y_i - sum_j w_ij y_j with r_i = sum_j w_ij: one product of a block of rows of W, which is put
// together from pairs as it is needed, and the prepared patterns.
#include "cpu/covariance_gram.h"
#include "cpu/dense.h"
#include "cpu/rdm.h"
#include "cpu/rdm_item.h"

namespace nk::rdm {
namespace {

/// Patterns whose gradients are made at a time.
constexpr int64_t kRows = 64;
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

template <class S, class T>
class Gradient {
 public:
  Gradient(Metric metric, const In& in, int64_t item, bool square, const T* g, const T* d, S* dx, int threads)
      : metric_(metric), in_(in), item_(metric, in, item, threads), n_(in.rows), width_(item_.left_streams() * in.columns),
        stride_(dense::stride_of<T>(width_)), square_(square), g_(g), d_(d), dx_(dx), threads_(threads),
        patterns_(n_ * stride_) {}

  void run() {
    prepare();
    const int64_t rows = std::min(kRows, (n_ + kLine<T> - 1) / kLine<T> * kLine<T>), blocks = (n_ + rows - 1) / rows;
    parallel_for(blocks, kGrain / (rows * n_) + 1, threads_, [&](int64_t begin, int64_t end) {
      const int64_t across = dense::stride_of<T>(n_);
      const Numbers<T> weights(rows * across), sums(rows * stride_);
      std::vector<Close<T>> close;
      for (int64_t b = begin; b < end; ++b) {
        const int64_t first = b * rows, count = std::min(rows, n_ - first);
        std::fill_n(weights.data(), rows * across, T(0));
        close.clear();
        load(first, count, weights.data(), across, close);
        balance(first, count, weights.data(), across);
        multiply(count, weights.data(), across, sums.data());
        for (const Close<T>& pair : close) {
          add_difference(patterns_.data() + pair.i * stride_, patterns_.data() + pair.j * stride_, width_, -pair.weight,
                         sums.data() + (pair.i - first) * stride_);
        }
        for (int64_t i = 0; i < count; ++i) finish(first + i, sums.data() + i * stride_);
      }
    });
  }

 private:
  void prepare() {
    const int64_t d = item_.columns();
    if (metric_ == Metric::kEuclidean) sizes_.resize(n_);
    parallel_for(n_, kGrain / width_ + 1, threads_, [&](int64_t begin, int64_t end) {
      std::vector<double> work(d);
      for (int64_t i = begin; i < end; ++i) {
        T* row = patterns_.data() + i * stride_;
        for (int64_t stream = 0; stream < item_.left_streams(); ++stream) item_.fill(stream, i, 0, d, row + stream * d, work.data());
        std::fill(row + width_, row + stride_, T(0));
        if (metric_ == Metric::kEuclidean) sizes_[i] = dot_row(row, row, width_);
      }
    });
  }

  /// Rows of W but for its diagonal. Pairs of one row lie side by side to the right of the diagonal, those of one column below it.
  void load(int64_t first, int64_t count, T* weights, int64_t across, std::vector<Close<T>>& close) const {
    for (int64_t i = first; i < first + count; ++i) {
      T* to = weights + (i - first) * across;
      const int64_t at = square_ ? i * n_ : pairs_before(i, n_);
      if (square_) {
        for (int64_t j = 0; j < n_; ++j) to[j] = j == i ? T(0) : g_[at + j];
      } else {
        for (int64_t j = i + 1; j < n_; ++j) to[j] = g_[at + j];
      }
    }
    const int64_t last = square_ ? n_ : first + count;
    for (int64_t j = 0; j < last; ++j) {
      const T* from = g_ + (square_ ? j * n_ : pairs_before(j, n_));
      for (int64_t i = square_ ? first : std::max(first, j + 1); i < first + count; ++i) {
        if (i != j) weights[(i - first) * across + j] += from[i];
      }
    }
    if (metric_ != Metric::kEuclidean) return;
    for (int64_t i = first; i < first + count; ++i) {
      for (int64_t j = 0; j < n_; ++j) {
        if (i != j) divide(i, j, weights[(i - first) * across + j], close);
      }
    }
  }

  /// The derivative of a root, 0 at 0. Of two patterns that are close together it is large, and their difference small: those are taken
  /// out of the product.
  void divide(int64_t i, int64_t j, T& weight, std::vector<Close<T>>& close) const {
    const T d = d_[square_ ? i * n_ + j : pairs_before(std::min(i, j), n_) + std::max(i, j)];
    weight = d == 0 ? T(0) : weight / d;
    if (static_cast<double>(d) * d <= kNear * (sizes_[i] + sizes_[j])) {
      if (weight != 0) close.push_back({i, j, weight});
      weight = 0;
    }
  }

  void balance(int64_t first, int64_t count, T* weights, int64_t across) const {
    for (int64_t i = 0; i < count; ++i) {
      T* row = weights + i * across;
      double total = 0;
      for (int64_t j = 0; j < n_; ++j) total += row[j];
      row[first + i] = static_cast<T>(-total);
    }
  }

  /// sums = weights * patterns: minus the gradient.
  void multiply(int64_t count, const T* weights, int64_t across, T* sums) const {
    for (int64_t k = 0; k < width_; k += kLines * kLine<T>) {
      const int columns = static_cast<int>(std::min(kLines * kLine<T>, width_ - k)), rows = static_cast<int>(count);
      for (int64_t j = 0; j < n_; j += kDepth) {
        const moments::Product<T> part{weights + j, patterns_.data() + j * stride_ + k, sums + k, across, stride_, stride_, rows, columns,
                                       static_cast<int>(std::min(kDepth, n_ - j))};
        if (j == 0) moments::set_product(part);
        else moments::add_product(part, false);
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
  int64_t n_, width_, stride_;
  bool square_;
  const T *g_, *d_;
  S* dx_;
  int threads_;
  Numbers<T> patterns_;
  std::vector<double> sizes_;
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
