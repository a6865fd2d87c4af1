// Distances by tiles of the upper triangle. Every product is a sum over the same blocks of channels in the same order, whatever the
// tiles: results depend neither on the number of threads nor on where a pair stands, and patterns that are the same are 0 apart.
#include "cpu/rdm.h"

#include "cpu/rdm_item.h"
#include "cpu/rdm_products.h"
#include "cpu/tiles.h"

namespace nk::rdm {
namespace {

/// Channels that are added to a tile at a time.
constexpr int64_t kDepth = 128;
/// Lines of the widest tile: it and kDepth channels of its patterns fit a core's cache.
constexpr int64_t kWidest = 12;
/// Channels that are prepared at a time, for a line of patterns.
constexpr int64_t kChunk = 256;

/// Where the factors of a product begin, in channels of a packed pattern, and how many there are.
struct Segment {
  int64_t left, right, depth;
};

/// Patterns in groups of one width, in whole lines: the sides of tiles.
struct Groups {
  int64_t count, width;
};

template <class T>
Groups grouped(int64_t patterns, int threads) {
  const int64_t lines = (patterns + kLine<T> - 1) / kLine<T>;
  int64_t count = (lines + kWidest - 1) / kWidest;
  while (count > 1 && count * (count + 1) < 4 * threads && lines >= 4 * (count + 1)) ++count;  // two tiles for every thread
  const int64_t width = (lines + count - 1) / count;
  return {(lines + width - 1) / width, width * kLine<T>};
}

template <class S, class T>
class Distances {
 public:
  Distances(Metric metric, const In& in, int64_t item, bool square, T* out, int threads)
      : metric_(metric), item_(metric, in, item, threads), groups_(grouped<T>(in.rows, threads)), n_(in.rows), square_(square),
        scale_(static_cast<T>(scale_of(metric, in))), threads_(threads), sliver_(item_.streams() * in.columns * kLine<T>), out_(out),
        packed_((n_ + kLine<T> - 1) / kLine<T> * sliver_), sizes_(n_) {
    const int64_t d = in.columns, left = item_.left_streams() * d;
    if (metric == Metric::kPoisson) segments_ = {{0, d, d}, {d, 0, d}};
    else if (metric == Metric::kCrossnobis) segments_ = {{0, left, left}};
    else segments_ = {{0, 0, d}};
  }

  void run() {
    pack();
    // The diagonal first: from there come the sizes of the patterns.
    each_tile(groups_.count, [](int64_t t, int64_t& down, int64_t& across) { down = across = t; });
    each_tile(groups_.count * (groups_.count - 1) / 2, [](int64_t t, int64_t& down, int64_t& across) {
      across = 1;
      while (across * (across + 1) / 2 <= t) ++across;
      down = t - across * (across - 1) / 2;
    });
  }

 private:
  /// Where pattern i begins: its numbers are a line apart.
  const T* pattern(int64_t i) const { return packed_.data() + i / kLine<T> * sliver_ + i % kLine<T>; }
  int64_t rows_of(int64_t group) const { return std::min(groups_.width, n_ - group * groups_.width); }

  /// Prepared patterns, packed a line of them at a time.
  void pack() {
    const int64_t lines = (n_ + kLine<T> - 1) / kLine<T>;
    parallel_for(lines, kGrain / sliver_ + 1, threads_, [&](int64_t begin, int64_t end) {
      const Numbers<T> rows(kLine<T> * kChunk);
      double work[kChunk];
      for (int64_t line = begin; line < end; ++line) {
        for (int64_t stream = 0; stream < item_.streams(); ++stream) pack_line(line, stream, rows.data(), work);
      }
    });
  }

  void pack_line(int64_t line, int64_t stream, T* rows, double* work) {
    const int64_t first = line * kLine<T>, count = std::min(kLine<T>, n_ - first), d = item_.columns();
    T* to = packed_.data() + line * sliver_ + stream * d * kLine<T>;
    std::fill_n(rows + count * kChunk, (kLine<T> - count) * kChunk, T(0));
    for (int64_t k = 0; k < d; k += kChunk) {
      const int64_t here = std::min(kChunk, d - k);
      for (int64_t i = 0; i < count; ++i) item_.fill(stream, first + i, k, here, rows + i * kChunk, work);
      tiles::transpose(rows, kChunk, kLine<T>, here, to + k * kLine<T>, kLine<T>, false);
    }
  }

  template <class F>
  void each_tile(int64_t count, F&& place) {
    parallel_for(count, 1, threads_, [&](int64_t begin, int64_t end) {
      const Numbers<T> tile(groups_.width * groups_.width);
      for (int64_t t = begin; t < end; ++t) {
        int64_t down, across;
        place(t, down, across);
        multiply(down, across, tile.data());
        finish(down, across, tile.data());
      }
    });
  }

  void multiply(int64_t down, int64_t across, T* tile) const {
    const int64_t width = groups_.width;
    const T *a = pattern(down * width), *b = pattern(across * width);
    const int m = static_cast<int>(rows_of(down)), n = static_cast<int>(rows_of(across));
    std::fill_n(tile, width * width, T(0));
    for (const Segment& s : segments_) {
      for (int64_t k = 0; k < s.depth; k += kDepth) {
        const int here = static_cast<int>(std::min(kDepth, s.depth - k));
        add_slivers({a + (s.left + k) * kLine<T>, b + (s.right + k) * kLine<T>, tile, sliver_, width, m, n, here}, down == across);
      }
    }
  }

  void finish(int64_t down, int64_t across, T* tile) {
    const int64_t top = down * groups_.width, left = across * groups_.width, rows = rows_of(down), columns = rows_of(across);
    const bool diagonal = down == across;
    if (diagonal) {
      for (int64_t i = 0; i < rows; ++i) sizes_[top + i] = T(0.5) * tile[i * groups_.width + i];
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = top + i, first = diagonal ? i + 1 : 0;
      T* to = out_ + (square_ ? row * n_ : pairs_before(row, n_)) + left;
      if (diagonal && square_) to[i] = T(0);
      const T* k = tile + i * groups_.width;
      const T *sizes = sizes_.data() + left, h = sizes_[row], near = metric_ == Metric::kCrossnobis ? T(-1) : T(kNear);
      const int64_t close = distance_row(k + first, h, sizes + first, columns - first, near, scale_, to + first);
      if (close > 0 && metric_ != Metric::kCrossnobis) refine(down, across, i, first, columns, k, to);
      if (metric_ == Metric::kEuclidean) root_row(to + first, columns - first);
    }
    if (square_) {
      tiles::transpose(out_ + top * n_ + left, n_, rows, columns, out_ + left * n_ + top, n_, diagonal);
    }
  }

  /// Pairs of a tile's row that are close together, by their differences: a line of patterns takes no longer than one of them.
  void refine(int64_t down, int64_t across, int64_t i, int64_t first, int64_t columns, const T* k, T* to) const {
    const T *sizes = sizes_.data() + across * groups_.width, h = sizes_[down * groups_.width + i];
    const auto is_close = [&](int64_t j) {
      const T size = h + sizes[j];
      return size - k[j] <= T(kNear) * size;
    };
    for (int64_t line = first / kLine<T> * kLine<T>; line < columns; line += kLine<T>) {
      const int64_t begin = std::max(line, first), end = std::min(line + kLine<T>, columns);
      bool any = false;
      for (int64_t j = begin; j < end; ++j) any |= is_close(j);
      if (!any) continue;
      double sums[kLine<T>] = {};
      for (const Segment& s : segments_) {
        const T *a = pattern(down * groups_.width + i), *b = pattern(across * groups_.width + line);
        const int64_t left = s.left * kLine<T>, right = s.right * kLine<T>;
        direct_line(a + left, a + right, b + left, b + right, s.depth, sums);
      }
      for (int64_t j = begin; j < end; ++j) {
        if (!is_close(j)) continue;
        double half = sums[j - line];
        if (half <= kVeryNear * (h + sizes[j])) half = item_.apart(down * groups_.width + i, across * groups_.width + j);
        to[j] = static_cast<T>(static_cast<double>(scale_) * half);
      }
    }
  }

  Metric metric_;
  Item<S> item_;
  Groups groups_;
  int64_t n_;
  bool square_;
  T scale_;
  int threads_;
  int64_t sliver_;
  T* out_;
  Numbers<T> packed_;
  std::vector<T> sizes_;
  std::vector<Segment> segments_;
};

template <class S, class T>
void forward_of(Metric metric, const In& x, bool square, void* out, int threads) {
  const int64_t size = square ? x.rows * x.rows : x.rows * (x.rows - 1) / 2;
  for_items(x, threads, [&](int64_t begin, int64_t end, int left) {
    for (int64_t i = begin; i < end; ++i) Distances<S, T>(metric, x, i, square, static_cast<T*>(out) + i * size, left).run();
  });
}

}  // namespace

void forward(Dtype dtype, Metric metric, In x, bool square, void* out, int threads) {
  switch (dtype) {
    case Dtype::kFloat32: return forward_of<float, float>(metric, x, square, out, threads);
    case Dtype::kFloat64: return forward_of<double, double>(metric, x, square, out, threads);
    case Dtype::kBfloat16: return forward_of<Bfloat16, float>(metric, x, square, out, threads);
    case Dtype::kFloat16: return forward_of<Float16, float>(metric, x, square, out, threads);
  }
}

}  // namespace nk::rdm
