#include "cpu/dcca.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "common/parallel.h"

namespace nk::dcca {
namespace {

using dense::Arena;
using dense::Matrix;
using dense::Zeros;

/// One of the two views: where its columns stand in the joint covariance, and its regulariser.
struct View {
  int64_t first, columns;
  double r;
};

/// Shares of a variance that others have to leave to every unit: below, the rounding of a covariance, over the root of what is left, comes
/// near the correlations that the polar iteration takes to 1. `kEasy`: near the smaller ones, too, for which it can go on.
template <class T>
constexpr double kLeast = std::is_same_v<T, double> ? 3e-13 : 1e-3;
constexpr double kLeastFast = 1e-4, kEasy = 0.09;

/// One item: a is the wider view, b the other one, so that the smaller Gram matrix of M is that of its columns.
template <class T>
class Item {
 public:
  Item(View a, View b, int threads)
      : a_(a), b_(b), threads_(threads), memory_(size(a, b)), first_(take(a, a)), second_(take(a, a)), third_(take(a, a)), ua_(take(a, a)),
        ub_(take(b, b)), z_(take(a, b)), m_(take(a, b)), fourth_(take(a, b)) {}

  /// From the joint covariance, dense, to the objective; false where digits do not suffice.
  bool value(const T* joint, Objective objective, dense::Precision precision, double& out) {
    constexpr bool kDouble = std::is_same_v<T, double>;
    const double least = std::min(root(joint, a_, ua_), root(joint, b_, ub_));
    if (!(least >= (precision == dense::Precision::kFast && !kDouble ? kLeastFast : kLeast<T>))) return false;
    const Matrix<T> sab = shaped(first_, a_, b_);
    load(joint, a_, b_, sab);
    dense::multiply<T>({ua_, sab, z_, true, false, Zeros::kRightOfLeft}, threads_);
    dense::multiply<T>({z_, ub_, m_, false, false, Zeros::kBelowRight}, threads_);
    w_ = fourth_, spare_ = shaped(first_, a_, b_);
    const T factor = objective == Objective::kSquares ? 2 : 1;
    for (int64_t i = 0; i < m_.rows; ++i) {
      for (int64_t j = 0; j < m_.columns; ++j) w_.row(i)[j] = factor * m_.row(i)[j];
    }
    if (objective == Objective::kSquares) {
      out = dense::inner(m_, m_);
      return true;
    }
    const int again = kDouble ? 2 : least >= kEasy ? 1 : 0;
    if (!dense::polar(w_, spare_, shaped(second_, b_, b_), shaped(third_, b_, b_), precision, again, threads_)) return false;
    out = dense::inner(w_, m_);
    return true;
  }

  /// After `value`: [-Gaa Gab; Gba -Gbb] / n in the place of the joint covariance. With Bab = Saa^-1 Sab the blocks on the diagonal, which
  /// hold L^-T sym(M W') L^-1, are Gaa = Bab Gba and Gbb = (W ub')' (M ub').
  void weights(T* joint, int64_t n) {
    const Matrix<T> tb = shaped(second_, b_, b_), v = spare_, q = shaped(third_, a_, b_), gab = w_, bab = m_, gba = shaped(second_, b_, a_);
    const T scale = T(1) / static_cast<T>(n);  // what is in their places is used up when they are written
    dense::transpose(ub_, tb);
    dense::multiply<T>({w_, tb, v, false, false, Zeros::kAboveRight}, threads_);
    dense::multiply<T>({m_, tb, q, false, false, Zeros::kAboveRight}, threads_);
    dense::multiply<T>({v, q, block(joint, b_, b_), true, true, Zeros::kNone, -scale}, threads_);
    dense::multiply<T>({ua_, v, gab, false, false, Zeros::kLeftOfLeft}, threads_);
    dense::multiply<T>({ua_, z_, bab, false, false, Zeros::kLeftOfLeft}, threads_);
    dense::transpose(gab, gba);
    dense::multiply<T>({bab, gba, block(joint, a_, a_), false, true, Zeros::kNone, -scale}, threads_);
    store(gab, scale, block(joint, a_, b_));
    store(gba, scale, block(joint, b_, a_));
  }

 private:
  View a_, b_;
  int threads_;
  Arena<T> memory_;
  Matrix<T> first_, second_, third_, ua_, ub_, z_, m_, fourth_;  // those with numbers serve several ends: all should stay in a cache
  Matrix<T> w_, spare_;                                          // the polar iteration may exchange them

  static int64_t size(View a, View b) {
    const auto of = [](int64_t m, int64_t n) { return Arena<T>::size_of(m, n); };
    return 4 * of(a.columns, a.columns) + of(b.columns, b.columns) + 3 * of(a.columns, b.columns);
  }
  Matrix<T> take(View row, View column) { return memory_.take(row.columns, column.columns); }
  /// The same memory as a matrix of another shape.
  static Matrix<T> shaped(const Matrix<T>& m, View row, View column) {
    return {m.data, row.columns, column.columns, dense::stride_of<T>(column.columns)};
  }
  int64_t stride() const { return a_.columns + b_.columns; }

  Matrix<T> block(T* joint, View row, View column) const {
    return {joint + row.first * stride() + column.first, row.columns, column.columns, stride()};
  }

  void load(const T* joint, View row, View column, const Matrix<T>& to) const {
    const T* from = joint + row.first * stride() + column.first;
    for (int64_t i = 0; i < to.rows; ++i) std::copy_n(from + i * stride(), to.columns, to.row(i));
  }

  static void store(const Matrix<T>& from, T scale, const Matrix<T>& to) {
    for (int64_t i = 0; i < to.rows; ++i) {
      for (int64_t j = 0; j < to.columns; ++j) to.row(i)[j] = scale * from.row(i)[j];
    }
  }

  /// u' (S + r I) u = I, and the least share of a variance that others leave to a unit.
  double root(const T* joint, View v, const Matrix<T>& u) const {
    const Matrix<T> s = shaped(first_, v, v);
    load(joint, v, v, s);
    for (int64_t i = 0; i < v.columns; ++i) {
      s.row(i)[i] += static_cast<T>(v.r);
      std::fill_n(u.row(i), u.columns, T(0));
    }
    return dense::inverse_root(s, u, second_, threads_);
  }
};

template <class T>
void solve_as(const Problem& p, T* value, T* weights, T* mean, uint8_t* failed, int threads) {
  const int64_t d1 = p.x.columns, d2 = p.y.columns, d = d1 + d2, n = p.x.rows - 1;
  const View x{0, d1, p.r1}, y{d1, d2, p.r2};
  const int outer = p.x.items >= threads ? threads : 1, inner = outer > 1 ? 1 : threads;
  parallel_for(p.x.items, 1, outer, [&](int64_t begin, int64_t end) {
    Item<T> item(d1 < d2 ? y : x, d1 < d2 ? x : y, inner);
    std::vector<T> own(weights ? 0 : d * d);
    for (int64_t i = begin; i < end; ++i) {
      T* joint = weights ? weights + i * d * d : own.data();
      const auto one = [i](moments::In v, int64_t size) {
        v.data = static_cast<const char*>(v.data) + i * v.item * size, v.items = 1;
        return v;
      };
      const int64_t size = p.dtype == Dtype::kFloat64 ? 8 : p.dtype == Dtype::kFloat32 ? 4 : 2;
      moments::covariance(p.dtype, one(p.x, size), one(p.y, size), 1.0 / static_cast<double>(n), mean + i * d, joint, inner);
      double found = 0;
      failed[i] = !item.value(joint, p.objective, p.precision, found);
      value[i] = static_cast<T>(found);
      if (weights && !failed[i]) item.weights(joint, n);
    }
  });
}

}  // namespace

void solve(const Problem& p, void* value, void* weights, void* mean, uint8_t* failed, int threads) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    solve_as(p, static_cast<T*>(value), static_cast<T*>(weights), static_cast<T*>(mean), failed, threads);
  };
  p.dtype == Dtype::kFloat64 ? run(double()) : run(float());
}

}  // namespace nk::dcca
