// Covariance by tiles of its upper triangle, each of them summed up in a core's own cache, and its gradient.
//
// Every element is the sum of one product per block of kBlock rows, in order, whatever the tiles: their size may depend on the threads.
#include <optional>

#include "cpu/covariance_gram.h"
#include "cpu/moments_items.h"
#include "cpu/scratch.h"
#include "cpu/tiles.h"

namespace nk::moments {
namespace {

/// Columns of the widest tile, in lines of 64 bytes: two panels of kBlock rows and the tile fill half of a cache of a megabyte.
constexpr int64_t kWidest = 15;
/// Rows of a narrow matrix that are worth a sum of their own, and so a thread.
constexpr int64_t kSegment = 8192;
/// Bytes of centred rows that are kept for all tiles of a wide matrix.
constexpr int64_t kPanelBytes = 32 << 20;

/// Memory for numbers, kept from one use to the next.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) { of(size); }
  T* get() const { return static_cast<T*>(memory_->data()); }
  T* of(int64_t size) {
    if (size > size_) {
      memory_.reset();
      memory_.emplace(size * static_cast<int64_t>(sizeof(T)));
      size_ = size;
    }
    return get();
  }

 private:
  std::optional<Scratch> memory_;
  int64_t size_ = 0;
};

/// Columns in groups of one width, in whole lines; each group is a panel whose rows lie `stride` apart.
struct Groups {
  int64_t count, width, stride;
};

template <class T>
int64_t lines_of(int64_t columns) {
  return (columns + kLine<T> - 1) / kLine<T>;
}

template <class T>
Groups grouped(int64_t columns, int threads) {
  const int64_t lines = lines_of<T>(columns);
  int64_t count = (lines + kWidest - 1) / kWidest;
  while (count > 1 && count * (count + 1) < 4 * threads && lines >= 4 * (count + 1)) ++count;  // two tiles for every thread
  const int64_t width = (lines + count - 1) / count;
  // An odd number of lines between rows spreads a column of a panel over all sets of a cache.
  return {(lines + width - 1) / width, width * kLine<T>, (count == 1 ? width : width | 1) * kLine<T>};
}

template <class T>
void add_rows(const T* a, const T* b, const Groups& g, int64_t depth, T* tile, int64_t rows, int64_t columns, bool upper) {
  const int m = static_cast<int>(rows), n = static_cast<int>(columns);
  for (int64_t k = 0; k < depth; k += kBlock) {
    const int here = static_cast<int>(std::min(kBlock, depth - k));
    add_gram({a + k * g.stride, b + k * g.stride, tile, g.stride, g.stride, g.width, m, n, here}, upper);
  }
}

/// A tile of c and its mirror image, [rows, columns] from its upper left corner; both are one on the diagonal.
template <class T>
struct Placed {
  T *c, *mirrored;
  int64_t rows, columns, stride, width;  // of c and of the tile

  bool diagonal() const { return c == mirrored; }
  void load(T* tile) const {
    for (int64_t i = 0; i < rows; ++i) std::copy_n(c + i * stride, columns, tile + i * width);
  }
  void store(const T* tile) const {
    for (int64_t i = 0; i < rows; ++i) std::copy_n(tile + i * width, columns, c + i * stride);
  }
  void finish(const T* tile, T scale) const {
    tiles::scale_rows(tile, width, rows, columns, scale, nullptr, 0, T(0), c, stride);
    tiles::transpose(c, stride, rows, columns, mirrored, stride, diagonal());
  }
};

/// One item of two views whose columns stand side by side; the second one may have none.
template <class S, class T>
struct Sides {
  const S *x, *y;
  int64_t x_row, y_row, x_columns;
  const T *mean, *low;  // of both

  /// Rows from `row` on and columns from `first` on, centred, with zeros from `columns` to `width`.
  void pack(int64_t row, int64_t rows, int64_t first, int64_t columns, T* out, int64_t stride, int64_t width) const {
    const int64_t left = std::clamp<int64_t>(x_columns - first, 0, columns);
    const int depth = static_cast<int>(rows);
    if (left > 0) {
      const int padded = static_cast<int>(left < columns ? left : width);
      pack_rows(x + row * x_row + first, x_row, depth, mean + first, low + first, out, stride, static_cast<int>(left), padded);
    }
    if (left < columns) {
      const int64_t next = first + left;
      pack_rows(y + row * y_row + next - x_columns, y_row, depth, mean + next, low + next, out + left, stride,
                static_cast<int>(columns - left), static_cast<int>(width - left));
    }
  }
};

/// Both sides of an item, and their means: in `mean`, and what that lacks in `low`.
template <class S, class T>
Sides<S, T> sides_of(In x, In y, int64_t item, T* mean, std::vector<T>& low, Sums<T>& sums, int threads) {
  const S *a = static_cast<const S*>(x.data) + item * x.item, *b = static_cast<const S*>(y.data) + item * y.item;
  low.resize(x.columns + y.columns);
  item_means(a, x, mean, sums, threads);
  std::copy(sums.low.begin(), sums.low.end(), low.begin());
  if (y.columns > 0) {
    item_means(b, y, mean + x.columns, sums, threads);
    std::copy(sums.low.begin(), sums.low.end(), low.begin() + x.columns);
  }
  return {a, b, x.row, y.row, x.columns, mean, low.data()};
}

/// One tile holds all of a narrow matrix: tile = (x - mean)' (x - mean), its upper triangle, by way of one panel.
template <class S, class T>
void add_segment(const Sides<S, T>& sides, int64_t first, int64_t rows, int64_t d, const Groups& g, T* panel, T* tile) {
  std::fill_n(tile, g.width * g.width, T(0));
  for (int64_t k = 0; k < rows; k += kBlock) {
    const int64_t depth = std::min(kBlock, rows - k);
    sides.pack(first + k, depth, 0, d, panel, g.stride, g.width);
    add_rows(panel, panel, g, depth, tile, d, d, true);
  }
}

/// Segments of rows on several threads, put together in order.
template <class S, class T>
void narrow_item(const Sides<S, T>& sides, In shape, T scale, T* out, Buffer<T>& scratch, int threads) {
  const int64_t d = shape.columns, segments = (shape.rows + kSegment - 1) / kSegment;
  const Groups g = grouped<T>(d, 1);
  const int64_t size = g.width * g.width, panel = kBlock * g.stride;
  T* tiles = scratch.of(segments * (size + panel));
  T* panels = tiles + segments * size;
  parallel_for(segments, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t first = s * kSegment, rows = std::min(kSegment, shape.rows - first);
      add_segment(sides, first, rows, d, g, panels + begin * panel, tiles + s * size);
    }
  });
  for (int64_t s = 1; s < segments; ++s) {
    for (int64_t i = 0; i < d * g.width; ++i) tiles[i] += tiles[s * size + i];
  }
  Placed<T>{out, out, d, d, d, g.width}.finish(tiles, scale);
}

/// Rows are centred once, as many as kPanelBytes hold, and then every tile reads its two panels of them.
template <class S, class T>
void wide_item(const Sides<S, T>& sides, In shape, T scale, T* out, Buffer<T>& scratch, int threads) {
  const int64_t d = shape.columns;
  const Groups g = grouped<T>(d, threads);
  const int64_t fitting = kPanelBytes / (g.count * g.stride * static_cast<int64_t>(sizeof(T)) * kBlock);
  const int64_t chunk = std::clamp<int64_t>(fitting, 1, blocks_of(shape.rows)) * kBlock, size = chunk * g.stride;
  T* panels = scratch.of(g.count * size);
  for (int64_t start = 0; start < shape.rows; start += chunk) {
    const int64_t here = std::min(chunk, shape.rows - start);
    parallel_for(blocks_of(here), grain_of(shape), threads, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin * kBlock; k < std::min(end * kBlock, here); k += kBlock) {
        for (int64_t i = 0, j = 0; i < g.count; ++i, j += g.width) {
          T* panel = panels + i * size + k * g.stride;
          sides.pack(start + k, std::min(kBlock, here - k), j, std::min(g.width, d - j), panel, g.stride, g.width);
        }
      }
    });
    parallel_for(g.count * (g.count + 1) / 2, 1, threads, [&](int64_t begin, int64_t end) {
      const Buffer<T> tile(g.width * g.width);
      for (int64_t t = begin; t < end; ++t) {
        int64_t across = 0;
        while ((across + 1) * (across + 2) / 2 <= t) ++across;
        const int64_t down = t - across * (across + 1) / 2, i = down * g.width, j = across * g.width;
        const Placed<T> placed{out + i * d + j, out + j * d + i, std::min(g.width, d - i), std::min(g.width, d - j), d, g.width};
        std::fill_n(tile.get(), g.width * g.width, T(0));
        if (start > 0) placed.load(tile.get());
        const T *a = panels + down * size, *b = panels + across * size;
        add_rows(a, b, g, here, tile.get(), placed.rows, placed.columns, placed.diagonal());
        start + here < shape.rows ? placed.store(tile.get()) : placed.finish(tile.get(), scale);
      }
    });
  }
}

/// Items, rows and all columns of two views side by side, for what asks for sizes alone.
In together(In x, In y) { return {nullptr, x.items, x.rows, x.columns + y.columns, 0, 0}; }

template <class S, class T>
void covariance_of(In x, In y, double scale, T* mean, T* out, int threads) {
  const In shape = together(x, y);
  const int64_t d = shape.columns;
  for_items(shape, threads, [&](int64_t begin, int64_t end, int left) {
    Sums<T> sums;
    std::vector<T> low;
    Buffer<T> scratch;
    const auto run = lines_of<T>(d) <= kWidest ? narrow_item<S, T> : wide_item<S, T>;
    for (int64_t item = begin; item < end; ++item) {
      const auto sides = sides_of<S>(x, y, item, mean + item * d, low, sums, left);
      run(sides, shape, static_cast<T>(scale), out + item * d * d, scratch, left);
    }
  });
}

/// scale (g + g'), with zeros up to a whole line of columns.
template <class T>
void symmetric(const T* g, int64_t d, T scale, T* out, int64_t stride) {
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j < d; ++j) out[i * stride + j] = scale * (g[i * d + j] + g[j * d + i]);
    std::fill(out + i * stride + d, out + (i + 1) * stride, T(0));
  }
}

/// One block of rows of an item: dx = (x - mean) factor.
template <class S, class T>
void gradient_rows(const S* x, int64_t row, int64_t rows, int64_t d, const T* mean, const T* low, const T* factor, int64_t stride, T* panel,
                   T* tile, S* dx) {
  pack_rows(x, row, static_cast<int>(rows), mean, low, panel, stride, static_cast<int>(d), static_cast<int>(stride));
  const int columns = static_cast<int>(d);
  set_product({panel, factor, tile, stride, stride, stride, static_cast<int>(rows), columns, columns});
  narrow_rows(tile, stride, static_cast<int>(rows), dx, d, columns);
}

template <class S, class T>
void gradient_of(In x, T scale, const T* g, S* dx, int threads) {
  const int64_t d = x.columns, stride = lines_of<T>(d) * kLine<T>, size = kBlock * stride;
  for_items(x, threads, [&](int64_t first, int64_t last, int left) {
    const Buffer<T> factor(d * stride);
    std::vector<T> mean(d);
    Sums<T> sums;
    for (int64_t item = first; item < last; ++item) {
      item_means(static_cast<const S*>(x.data) + item * x.item, x, mean.data(), sums, left);
      symmetric(g + item * d * d, d, scale, factor.get(), stride);
      parallel_for(blocks_of(x.rows), grain_of(x), left, [&](int64_t begin, int64_t end) {
        const Buffer<T> panels(2 * size);  // of products with rows beyond the last nothing is used, whatever they hold
        for (int64_t k = begin * kBlock; k < std::min(end * kBlock, x.rows); k += kBlock) {
          const S* from = static_cast<const S*>(x.data) + item * x.item + k * x.row;
          gradient_rows(from, x.row, std::min(kBlock, x.rows - k), d, mean.data(), sums.low.data(), factor.get(), stride, panels.get(),
                        panels.get() + size, dx + (item * x.rows + k) * d);
        }
      });
    }
  });
}

}  // namespace

void covariance(Dtype dtype, In x, In y, double scale, void* mean, void* out, int threads) {
  switch (dtype) {
    case Dtype::kFloat32: return covariance_of<float>(x, y, scale, static_cast<float*>(mean), static_cast<float*>(out), threads);
    case Dtype::kFloat64: return covariance_of<double>(x, y, scale, static_cast<double*>(mean), static_cast<double*>(out), threads);
    case Dtype::kBfloat16: return covariance_of<Bfloat16>(x, y, scale, static_cast<float*>(mean), static_cast<float*>(out), threads);
    case Dtype::kFloat16: return covariance_of<Float16>(x, y, scale, static_cast<float*>(mean), static_cast<float*>(out), threads);
  }
}

void covariance(Dtype dtype, In x, double scale, void* mean, void* out, int threads) {
  covariance(dtype, x, {x.data, x.items, x.rows, 0, 0, 0}, scale, mean, out, threads);
}

template <class S, class T>
void gradient_as(In x, double scale, const void* g, void* dx, int threads) {
  gradient_of<S, T>(x, static_cast<T>(scale), static_cast<const T*>(g), static_cast<S*>(dx), threads);
}

void covariance_gradient(Dtype dtype, In x, double scale, const void* g, void* dx, int threads) {
  switch (dtype) {
    case Dtype::kFloat32: return gradient_as<float, float>(x, scale, g, dx, threads);
    case Dtype::kFloat64: return gradient_as<double, double>(x, scale, g, dx, threads);
    case Dtype::kBfloat16: return gradient_as<Bfloat16, float>(x, scale, g, dx, threads);
    case Dtype::kFloat16: return gradient_as<Float16, float>(x, scale, g, dx, threads);
  }
}

}  // namespace nk::moments
