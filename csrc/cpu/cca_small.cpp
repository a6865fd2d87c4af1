// Shares the items among threads: second moments in float64, the solver of the best instruction set, and products with what it found.
#include "cpu/cca_small.h"

#include <algorithm>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "common/parallel.h"
#include "cpu/cca_level.h"
#include "cpu/covariance_gram.h"

namespace nk::cca {
namespace {

using moments::add_gram;
using moments::kLine;
using moments::set_product;

/// Samples that are centred at once: they stay in the L2 cache until they are multiplied.
constexpr int64_t kBlock = 128;
/// Room beyond an array that is read and written a register at a time.
constexpr int64_t kBeyond = 8;

const Solver& solver(Level level) {
  if (!eigh::has(level)) {
    throw std::invalid_argument("cca: this processor or build lacks instruction set level " + std::to_string(static_cast<int>(level)));
  }
#if NK_EIGH_LEVELS
  static const Level best = eigh::has(Level::kV4) ? Level::kV4 : eigh::has(Level::kV3) ? Level::kV3 : Level::kBaseline;
  level = level == Level::kBest ? best : level;
  if (level == Level::kV4) return v4::kSolver;
  if (level == Level::kV3) return v3::kSolver;
#endif
  return baseline::kSolver;
}

template <class S>
const Rows<S>& rows_of(const Solver& solver) {
  if constexpr (std::is_same_v<S, float>) return solver.float32;
  else if constexpr (std::is_same_v<S, double>) return solver.float64;
  else if constexpr (std::is_same_v<S, Bfloat16>) return solver.bfloat16;
  else return solver.float16;
}

void check(const Views& views) {
  const int64_t most = std::max(views.x.columns, views.y.columns), least = std::min(views.x.columns, views.y.columns);
  if (most > kLimit || least < 1) {
    throw std::invalid_argument("cca: views must have 1 to " + std::to_string(kLimit) + " columns, got " +
                                std::to_string(least) + " and " + std::to_string(most));
  }
  if (views.rows() < 2) throw std::invalid_argument("cca: views must have at least 2 rows, got " + std::to_string(views.rows()));
}

/// Memory in whole cache lines, as it comes.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(static_cast<T*>(::operator new(size * sizeof(T), kAlignment))) {}
  T* get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<T, Delete> data_;
};

template <class T>
int64_t whole_lines(int64_t columns) {
  return (columns + kLine<T> - 1) / kLine<T> * kLine<T>;
}

/// Both views side by side, centred, kBlock rows at a time: a row holds x, y, and what the last chunk of y touches.
template <class S, class T>
class Panel {
 public:
  Panel(const Views& views, const Solver& solver)
      : views_(views), do_(rows_of<S>(solver)), stride_(whole_lines<T>(views.columns() + kChunk)), data_(kBlock * stride_) {}
  const T* data() const { return data_.get(); }
  int64_t stride() const { return stride_; }
  const double* mean() const { return mean_; }

  /// Turns to an item and takes its means, relative to its first row: those of a constant column are exact.
  void turn_to(int64_t item) {
    x_ = static_cast<const S*>(views_.x.data) + item * views_.x.item, y_ = static_cast<const S*>(views_.y.data) + item * views_.y.item;
    average(x_, views_.x, mean_), average(y_, views_.y, mean_ + views_.x.columns);
  }

  /// Centres rows from `begin` on, and returns how many.
  int fill(int64_t begin) {
    const int rows = static_cast<int>(std::min(kBlock, views_.rows() - begin));
    const In &x = views_.x, &y = views_.y;
    centre(x_ + begin * x.row, x, rows, mean_, data_.get());
    centre(y_ + begin * y.row, y, rows, mean_ + x.columns, data_.get() + x.columns);
    return rows;
  }

 private:
  void centre(const S* x, const In& view, int rows, const double* mean, T* out) {
    const int columns = static_cast<int>(view.columns);
    if constexpr (std::is_same_v<T, double>) do_.centre(x, view.row, rows, columns, mean, out, stride_);
    else do_.centre_short(x, view.row, rows, columns, mean, out, stride_);
  }
  void average(const S* x, const In& view, double* mean) {
    const int columns = static_cast<int>(view.columns);
    double first[kLimit + kChunk] = {}, sums[kLimit + kChunk] = {};
    for (int j = 0; j < columns; ++j) first[j] = widen(x[j]);
    for (int64_t begin = 0; begin < view.rows; begin += kBlock) {
      do_.add(x + begin * view.row, view.row, static_cast<int>(std::min(kBlock, view.rows - begin)), columns, first, sums);
    }
    for (int j = 0; j < columns; ++j) mean[j] = first[j] + sums[j] / static_cast<double>(view.rows);
  }

  Views views_;
  const Rows<S>& do_;
  int64_t stride_;
  Buffer<T> data_;
  const S *x_ = nullptr, *y_ = nullptr;
  double mean_[2 * kLimit + kChunk] = {};
};

/// out [columns, stride] = [x y]' [x y], centred, its upper triangle.
template <class S>
void gram(const Views& views, Panel<S, double>& panel, double* out, int64_t stride) {
  const int columns = views.columns();
  std::fill_n(out, whole_lines<double>(columns) * stride, 0.0);
  for (int64_t begin = 0; begin < views.rows(); begin += kBlock) {
    const int rows = panel.fill(begin);
    add_gram({panel.data(), panel.data(), out, panel.stride(), panel.stride(), stride, columns, columns, rows}, true);
  }
}

/// What each thread works in for as many items as a solver takes.
template <class S>
struct Group {
  Group(const Views& views, const Solver& solver)
      : panel(views, solver),
        stride(whole_lines<double>(views.columns())),
        item(whole_lines<double>(views.columns()) * stride + kBeyond),
        moments(solver.lanes * item + kBeyond),
        room(solver.room(static_cast<int>(views.x.columns), static_cast<int>(views.y.columns))) {}

  Panel<S, double> panel;
  int64_t stride, item;
  Buffer<double> moments, room;
};

/// Items that are worth a thread.
int64_t grain(const Views& views, int64_t lanes) {
  const int64_t columns = views.columns(), work = columns * columns * (views.rows() / 2 + 16 * columns);
  return 200000 / (work * lanes) + 1;
}

/// Calls f(group, first item, items) for all items, as many at a time as the solver takes.
template <class S, class F>
void for_groups(const Views& views, const Solver& solver, int threads, F&& f) {
  const int64_t lanes = solver.lanes;
  parallel_for((views.items() + lanes - 1) / lanes, grain(views, lanes), threads, [&](int64_t begin, int64_t end) {
    Group<S> group(views, solver);
    for (int64_t first = begin * lanes; first < std::min(end * lanes, views.items()); first += lanes) {
      f(group, first, static_cast<int>(std::min(lanes, views.items() - first)));
    }
  });
}

Small problem(const Views& views, Ridge ridge) {
  Small small{};
  small.d1 = static_cast<int>(views.x.columns), small.d2 = static_cast<int>(views.y.columns);
  small.ridge = ridge, small.scale = 1 / static_cast<double>(views.rows() - 1);
  return small;
}

/// [x y] factor for each block of rows, in the type that is computed in; f(first row, rows, result) does what is to be done with it.
template <class S, class T, class F>
void multiply(const Views& views, Panel<S, T>& panel, const T* factor, int64_t factor_stride, int columns, T* result, int64_t begin,
              int64_t end, F&& f) {
  for (int64_t row = begin; row < end; row += kBlock) {
    const int rows = panel.fill(row);
    set_product({panel.data(), factor, result, panel.stride(), factor_stride, factor_stride, rows, columns, views.columns()});
    f(row, rows, result);
  }
}

template <class T>
void round_to(const double* from, int64_t size, T* to) {
  std::transform(from, from + size, to, [](double value) { return static_cast<T>(value); });
}

template <class S, class T>
void dcca_of(const Views& views, Small small, T* value, T* weights, T* mean, const Solver& solver, int threads) {
  const int columns = views.columns();
  const int64_t size = int64_t{columns} * columns;
  for_groups<S>(views, solver, threads, [&](Group<S>& group, int64_t first, int items) {
    double values[kBeyond];
    Small here = small;
    here.stride = group.stride, here.item = group.item, here.moments = group.moments.get(), here.values = values;
    here.derivative = weights;
    for (int64_t l = 0; l < items; ++l) {
      group.panel.turn_to(first + l);
      gram(views, group.panel, here.moments + l * here.item, here.stride);
      for (int j = 0; j < columns; ++j) mean[(first + l) * columns + j] = static_cast<T>(group.panel.mean()[j]);
    }
    solver.solve(here, items, group.room.get());
    for (int64_t l = 0; l < items; ++l) {
      value[first + l] = static_cast<T>(values[l]);
      if (!weights) continue;
      T* to = weights + (first + l) * size;
      const double* from = here.moments + l * here.item;
      for (int i = 0; i < columns; ++i) round_to(from + i * here.stride, columns, to + i * columns);
    }
  });
}

template <class S, class T>
void gradient_of(const Views& views, const T* g, int64_t g_item, const T* weights, S* dx, S* dy, const Solver& solver, int threads) {
  const int columns = views.columns();
  const int64_t stride = whole_lines<T>(columns), d1 = views.x.columns, d2 = views.y.columns;
  const int64_t blocks = (views.rows() + kBlock - 1) / kBlock, work = int64_t{columns} * columns * std::min(kBlock, views.rows());
  // A piece is some blocks of one item after the other.
  parallel_for(views.items() * blocks, 200000 / work + 1, threads, [&](int64_t begin, int64_t end) {
    Panel<S, T> panel(views, solver);
    const auto narrow = rows_of<S>(solver).narrow;
    const Buffer<T> factor((columns + kLine<T>) * stride), result((kBlock + kLine<T>) * stride);
    std::fill_n(factor.get(), (columns + kLine<T>) * stride, T(0));
    for (int64_t item = begin / blocks; item * blocks < end; ++item) {
      panel.turn_to(item);
      const T scale = g[item * g_item], *from = weights + item * columns * columns;
      for (int i = 0; i < columns; ++i) {
        for (int j = 0; j < columns; ++j) factor.get()[i * stride + j] = scale * from[i * columns + j];
      }
      const int64_t first = std::max(begin - item * blocks, int64_t{0}) * kBlock;
      const int64_t last = std::min((end - item * blocks) * kBlock, views.rows());
      multiply(views, panel, factor.get(), stride, columns, result.get(), first, last, [&](int64_t row, int rows, const T* product) {
        narrow(product, stride, rows, static_cast<int>(d1), dx + (item * views.rows() + row) * d1, d1);
        narrow(product + d1, stride, rows, static_cast<int>(d2), dy + (item * views.rows() + row) * d2, d2);
      });
    }
  });
}

/// [-A diag(s)  A; B  -B diag(s)] / n, so that [x y] times it is [ex ey].
void residual_factor(const Small& small, const double* values, const double* a, const double* b, double* factor, int64_t stride) {
  const int m = std::min(small.d1, small.d2);
  for (int view = 0; view < 2; ++view) {
    const int columns = view ? small.d2 : small.d1;
    const double* from = view ? b : a;
    for (int i = 0; i < columns; ++i, factor += stride) {
      for (int j = 0; j < m; ++j) {
        const double other = from[i * m + j] * small.scale, own = -other * values[j];
        factor[j] = view ? other : own, factor[m + j] = view ? own : other;
      }
    }
  }
}

template <class S, class T>
void correlations_of(const Views& views, Small small, T* values, T* ex, T* ax, T* ey, T* by, const Solver& solver, int threads) {
  const int64_t d1 = small.d1, d2 = small.d2, m = std::min(d1, d2), stride = whole_lines<double>(2 * m);
  small.each = true, small.derivative = ex;
  for_groups<S>(views, solver, threads, [&](Group<S>& group, int64_t first, int items) {
    const Buffer<double> found(items * m * (1 + d1 + d2)), factor(ex ? (d1 + d2 + kBeyond) * stride : 0);
    const Buffer<double> result(ex ? (kBlock + kBeyond) * stride : 0);
    Small here = small;
    here.stride = group.stride, here.item = group.item, here.moments = group.moments.get();
    here.values = found.get(), here.a = here.values + items * m, here.b = here.a + items * d1 * m;
    for (int64_t l = 0; l < items; ++l) {
      group.panel.turn_to(first + l);
      gram(views, group.panel, here.moments + l * here.item, here.stride);
    }
    solver.solve(here, items, group.room.get());
    round_to(here.values, items * m, values + first * m);
    if (!ex) return;
    round_to(here.a, items * d1 * m, ax + first * d1 * m), round_to(here.b, items * d2 * m, by + first * d2 * m);
    std::fill_n(factor.get(), (d1 + d2 + kBeyond) * stride, 0.0);
    for (int64_t l = 0; l < items; ++l) {
      group.panel.turn_to(first + l);
      residual_factor(small, here.values + l * m, here.a + l * d1 * m, here.b + l * d2 * m, factor.get(), stride);
      multiply(views, group.panel, factor.get(), stride, static_cast<int>(2 * m), result.get(), 0, views.rows(),
               [&](int64_t row, int rows, const double* product) {
                 for (int i = 0; i < rows; ++i) {
                   const int64_t to = ((first + l) * views.rows() + row + i) * m;
                   round_to(product + i * stride, m, ex + to), round_to(product + i * stride + m, m, ey + to);
                 }
               });
    }
  });
}

}  // namespace

#define NK_FOR_EACH_DTYPE(CALL)                                  \
  switch (dtype) {                                               \
    case Dtype::kFloat32: CALL(float, float); break;             \
    case Dtype::kFloat64: CALL(double, double); break;           \
    case Dtype::kBfloat16: CALL(Bfloat16, float); break;         \
    case Dtype::kFloat16: CALL(Float16, float); break;           \
  }

void dcca(Dtype dtype, const Views& views, Ridge ridge, Objective objective, int k, void* value, void* weights, void* mean, int threads,
          Level level) {
  check(views);
  Small small = problem(views, ridge);
  small.objective = objective, small.k = k;
#define NK_CALL(S, T) \
  dcca_of<S, T>(views, small, static_cast<T*>(value), static_cast<T*>(weights), static_cast<T*>(mean), solver(level), threads)
  NK_FOR_EACH_DTYPE(NK_CALL)
#undef NK_CALL
}

void dcca_gradient(Dtype dtype, const Views& views, const void* g, int64_t g_item, const void* weights, void* dx, void* dy, int threads,
                   Level level) {
  check(views);
#define NK_CALL(S, T)                                                                                                              \
  gradient_of<S, T>(views, static_cast<const T*>(g), g_item, static_cast<const T*>(weights), static_cast<S*>(dx), static_cast<S*>(dy), \
                    solver(level), threads)
  NK_FOR_EACH_DTYPE(NK_CALL)
#undef NK_CALL
}

void correlations(Dtype dtype, const Views& views, Ridge ridge, void* values, Factors factors, int threads, Level level) {
  check(views);
#define NK_CALL(S, T)                                                                                                         \
  correlations_of<S, T>(views, problem(views, ridge), static_cast<T*>(values), static_cast<T*>(factors.ex),                   \
                        static_cast<T*>(factors.ax), static_cast<T*>(factors.ey), static_cast<T*>(factors.by), solver(level), threads)
  NK_FOR_EACH_DTYPE(NK_CALL)
#undef NK_CALL
}

template <class T>
void cholesky(const Triangles<T>& problem, int threads, Level level) {
  if (problem.n < 0 || problem.n > kLimit) {
    throw std::invalid_argument("cholesky: n must be in [0, " + std::to_string(kLimit) + "], got " + std::to_string(problem.n));
  }
  const Solver& chosen = solver(level);
  if (problem.n == 0) return;
  const int64_t work = int64_t{problem.n} * problem.n * (problem.n + 16);
  parallel_for((problem.count + chosen.lanes - 1) / chosen.lanes, 100000 / work + 1, threads, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * chosen.lanes, last = std::min(end * chosen.lanes, problem.count);
    if constexpr (std::is_same_v<T, float>) chosen.cholesky32(problem, first, last);
    else chosen.cholesky64(problem, first, last);
  });
}

template void cholesky(const Triangles<float>& problem, int threads, Level level);
template void cholesky(const Triangles<double>& problem, int threads, Level level);

}  // namespace nk::cca
