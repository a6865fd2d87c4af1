// Canonical correlations of a few small pairs of views from their second moments. Included by the file of each instruction set.
//
// With S11 = L1 L1', S22 = L2 L2' and M = L1^-1 S12 L2^-T = U diag(s) V', directions are A = L1^-T U and B = L2^-T V, and whatever
// an objective asks for is made of them: derivatives by S12, S11 and S22 are A t B', -A (s t) A' / 2 and -B (s t) B' / 2, t its
// derivatives by s. Here the view of more columns comes first, so that M has no more columns than rows.
#pragma once

#include "cpu/cca_jacobi.h"
#include "cpu/cca_product.h"

namespace nk::cca::NK_LEVEL {
namespace {

/// A view's covariance, what it becomes, and the noise of its directions.
struct View {
  int columns, begin;  // of the view, and the first of them among those of both
  V ridge;
  Matrix s, inverse;        // S and then L; the inverse of L
  V *variances, *over;      // the diagonals of S, without the ridge, and of the inverse of L
  V* noise;                 // the square of sqrt(C_ii) / L_ii: how much rounding of C = S - ridge I grows in a row of M
};

/// One register of items, or one item, and the memory they are worked on in.
template <class L>
struct Work {
  View tall, wide;
  Matrix cross, spare, m, turned;  // `m` lies below `turned`, in the same columns
  V *squares, *sigma;
  V up, back, floor;  // the scale of M and its inverse; squares of what is rounding in M, scaled
  I broken;

  static int64_t registers(int tall, int wide) {
    const int64_t p = L::stride(tall), n = L::stride(wide), rows = L::height(tall);
    return 2 * (p * tall + n * wide) + 2 * p * wide + below(tall, wide) * wide + 8 * rows;
  }
  /// The stride of M and what is turned along.
  static int64_t below(int tall, int wide) {
    const int64_t rows = L::padded(tall) + L::height(wide);
    return L::kRows == 1 ? rows | 1 : rows;
  }

  Work(const Small& small, double* room) {
    const bool swapped = small.d1 <= small.d2;
    tall.columns = swapped ? small.d2 : small.d1, wide.columns = swapped ? small.d1 : small.d2;
    tall.begin = swapped ? small.d1 : 0, wide.begin = swapped ? 0 : small.d1;
    tall.ridge = all(swapped ? small.ridge.y : small.ridge.x), wide.ridge = all(swapped ? small.ridge.x : small.ridge.y);
    V* next = reinterpret_cast<V*>(room);
    const auto take = [&](int64_t size) { return (next += size) - size; };
    const auto matrix = [&](int rows, int columns) { return Matrix{take(L::stride(rows) * columns), L::stride(rows)}; };
    for (View* view : {&tall, &wide}) {
      view->s = matrix(view->columns, view->columns), view->inverse = matrix(view->columns, view->columns);
      view->variances = take(L::height(tall.columns)), view->over = take(L::height(tall.columns));
      view->noise = take(L::height(tall.columns));
    }
    cross = matrix(tall.columns, wide.columns), spare = matrix(tall.columns, wide.columns);
    m.stride = turned.stride = below(tall.columns, wide.columns);
    turned.data = take(m.stride * wide.columns), m.data = turned.data + L::height(wide.columns);
    squares = take(L::height(tall.columns)), sigma = take(L::height(tall.columns));
  }
};

/// Reads the three covariances; items with a number that is not finite become zero, and are remembered.
template <class L>
void read(const Small& small, int items, Work<L>& w) {
  V poison = {};
  const auto scaled = [&](V& x) { x *= small.scale, poison += x * 0.0; };
  for (View* view : {&w.tall, &w.wide}) {
    for (int h = 0; h < L::height(view->columns); ++h) view->variances[h] = view->over[h] = V{};
    for (int j = 0; j < view->columns; ++j) {
      const double* row = small.moments + (view->begin + j) * small.stride + view->begin;
      L::load(row, small.item, items, j, view->columns, view->s[j]);
      for (int h = j / L::kRows; h < L::height(view->columns); ++h) scaled(view->s[j][h]);
      const V variance = L::at(view->s[j], j);
      L::set(view->variances, j, variance), L::set(view->s[j], j, variance + view->ridge);
    }
  }
  // Rows of the moments are columns of the first view, and columns of the second: one of both is the taller one.
  const Matrix rows = w.tall.begin ? w.cross : w.tall.inverse;
  for (int i = 0; i < small.d1; ++i) {
    L::load(small.moments + i * small.stride + small.d1, small.item, items, 0, small.d2, rows[i]);
    for (int h = 0; h < L::height(small.d2); ++h) scaled(rows[i][h]);
  }
  if (!w.tall.begin) transpose<L>(small.d2, small.d1, rows, w.cross);
  w.broken = L::some(~(poison == 0.0));
  if (!any(w.broken)) return;
  for (View* view : {&w.tall, &w.wide}) {
    for (int j = 0; j < view->columns; ++j) {
      for (int h = 0; h < L::height(view->columns); ++h) view->s[j][h] = w.broken ? V{} : view->s[j][h];
      L::set(view->s[j], j, w.broken ? all(1.0) : L::at(view->s[j], j));
      L::set(view->variances, j, w.broken ? all(1.0) : L::at(view->variances, j));
    }
  }
  for (int j = 0; j < w.wide.columns; ++j)
    for (int h = 0; h < L::height(w.tall.columns); ++h) w.cross[j][h] = w.broken ? V{} : w.cross[j][h];
}

/// Scales M by a power of two, so that its largest element is about one: a correlation that is small because the ridge is large is no less
/// of one.
template <class L>
void normalise(Work<L>& w) {
  using S = lanes::Simd<double>;
  V largest = {};
  for (int j = 0; j < w.wide.columns; ++j)
    for (int h = 0; h < L::height(w.tall.columns); ++h) largest = lanes::larger(lanes::magnitude<double>(w.m[j][h]), largest);
  // No further than its squares' squares fit.
  const I bits = I(L::most(largest)) >> S::kMantissa, least = I{} + (S::kExponentBias - 400), exponent = bits < least ? least : bits;
  w.up = V((2 * S::kExponentBias - exponent) << S::kMantissa), w.back = V(exponent << S::kMantissa);
  for (int j = 0; j < w.wide.columns; ++j)
    for (int h = 0; h < L::height(w.tall.columns); ++h) w.m[j][h] *= w.up;
}

/// Puts to zero what is only rounding in M, and says how large that is in what is left.
///
/// An element of S12 is known to its rounding, and M divides it by the pivots of both units: where a unit depends on others, little more
/// than the ridge is left of its pivot.
template <class L>
void silence(Work<L>& w) {
  constexpr double kRounding = 0x1p-48;  // sixteen units in the last place
  const int height = L::height(w.tall.columns);
  for (View* view : {&w.tall, &w.wide})
    for (int h = 0; h < L::height(view->columns); ++h) view->noise[h] = view->variances[h] * view->over[h] * view->over[h];
  const V unit = w.up * w.up * (kRounding * kRounding);
  V loud[kLimit] = {}, most = {};
  for (int j = 0; j < w.wide.columns; ++j) {
    const V noise = L::at(w.wide.noise, j);
    I heard = {};
    for (int h = 0; h < height; ++h) {
      const V x = w.m[j][h];
      const I real = x * x > unit * noise * w.tall.noise[h];
      w.m[j][h] = real ? x : V{};
      loud[h] = real ? w.tall.noise[h] : loud[h];
      heard |= real;
    }
    most = lanes::larger(most, L::some(heard) ? noise : V{});
  }
  V loudest = {};
  for (int h = 0; h < height; ++h) loudest = lanes::larger(loudest, loud[h]);
  w.floor = unit * most * L::most(loudest);
}

/// M, from covariances: `tall.s` and `wide.s` become the transposed inverse factors.
template <class L>
void whiten(Work<L>& w) {
  for (View* view : {&w.tall, &w.wide}) {
    cholesky<L>(view->columns, view->s, view->ridge, view->over);
    invert<L>(view->columns, view->s, view->over, view->inverse);
    transpose<L>(view->columns, view->columns, view->inverse, view->s);
  }
  const int p = w.tall.columns, n = w.wide.columns;
  product<L, false, Skip::kUpperLeft>(p, n, p, w.tall.inverse, w.cross, w.spare);
  product<L, true, Skip::kLowerRight>(p, n, n, w.spare, w.wide.inverse, w.m);
  for (int j = 0; j < n; ++j)
    for (int h = L::height(p); h < L::padded(p); ++h) w.m[j][h] = V{};
}

/// The rank of every correlation among those of its item, the largest first; ties keep their order.
template <class L>
V rank(const Work<L>& w, int j) {
  const V mine = L::at(w.sigma, j);
  V before = {};
  for (int i = 0; i < w.wide.columns; ++i) {
    const V other = L::at(w.sigma, i);
    before += (i < j ? other >= mine : other > mine) ? all(1.0) : V{};
  }
  return before;
}

/// Correlations into `sigma`, U diag(s) into `m`, directions of the wide view into `turned`, and one over what M has of a correlation into
/// `squares`. Correlations that are zero but for rounding are zero. Returns which items have not converged.
template <class L>
I decompose(Work<L>& w, bool vectors) {
  const int p = w.tall.columns, n = w.wide.columns;
  for (int j = 0; j < n && vectors; ++j)
    for (int h = 0; h < L::height(n); ++h) w.turned[j][h] = w.wide.s[j][h];
  const int above = vectors ? L::height(n) : 0;
  const Triplets<L> t{n, above, L::padded(p), above + L::height(p), vectors ? w.turned : w.m, w.squares};
  const I unfinished = jacobi(t, Tournament(n));
  V largest = {};
  for (int j = 0; j < n; ++j) largest = lanes::larger(largest, L::at(w.squares, j));
  const double relative = 8 * lanes::Simd<double>::kEpsilon * (n > 16 ? n : 16);
  const V floor = lanes::larger(w.floor, largest * (relative * relative));
  for (int j = 0; j < n; ++j) {
    const V square = L::at(w.squares, j);
    const I real = square > floor;
    V length, over;
    lanes::roots<double>(real ? square : all(1.0), length, over);
    L::set(w.sigma, j, real ? length * w.back : V{});
    L::set(w.squares, j, real ? over : V{});
  }
  return unfinished;
}

/// Columns j of the directions of the tall view, in `cross`, and of the wide one, times one or zero.
template <class L>
void keep(Work<L>& w, int j, I kept) {
  const V over = kept ? L::at(w.squares, j) : V{};
  for (int h = 0; h < L::height(w.tall.columns); ++h) w.cross[j][h] *= over;
  for (int h = 0; h < L::height(w.wide.columns); ++h) w.turned[j][h] = kept ? w.turned[j][h] : V{};
}

/// b = a diag(sqrt(sigma)): products of it with itself are symmetric to the bit.
template <class L>
void weighted(const Work<L>& w, int rows, Matrix a, Matrix b) {
  for (int j = 0; j < w.wide.columns; ++j) {
    const V sigma = L::at(w.sigma, j);
    V root, unused;
    lanes::roots<double>(sigma > V{} ? sigma : all(1.0), root, unused);
    for (int h = 0; h < L::height(rows); ++h) b[j][h] = a[j][h] * root;
  }
}

/// The products a a', b b' and c d' of the derivative, [tall, tall], [wide, wide] and [tall, wide], times `factor`, as weights. They are
/// put together in `tall.s`, `wide.s` and `spare`.
template <class L>
void write_weights(const Small& small, int items, const Work<L>& w, Matrix a, Matrix b, int depth_b, Matrix c, Matrix d, V factor) {
  constexpr Skip kSkip = L::kRows == 1 ? Skip::kLowerResult : Skip::kNothing;
  const int p = w.tall.columns, n = w.wide.columns;
  product<L, true, kSkip>(p, p, n, a, a, w.tall.s);
  product<L, true>(p, n, n, c, d, w.spare);
  product<L, true, kSkip>(n, n, depth_b, b, b, w.wide.s);
  const auto beside = [&](bool tall, int i, double* to) {
    if (tall) L::store_row(w.spare, i, n, factor, to, small.item, items);
    else L::template store<false>(w.spare, i, p, factor, to, small.item, items);
  };
  for (int view = 0; view < 2; ++view) {  // rows in order, and each from left to right: what is written beyond an end is written over
    const bool tall = (view == 1) == (w.tall.begin > 0);
    const View& own = tall ? w.tall : w.wide;
    for (int i = 0; i < own.columns; ++i) {
      double* row = small.moments + (own.begin + i) * small.stride;
      if (view == 1) beside(tall, i, row);
      L::template store<true>(own.s, i, own.columns, -factor, row + own.begin, small.item, items);
      if (view == 0) beside(tall, i, row + own.columns);
    }
  }
}

/// The sum of squares of M, and its weights.
template <class L>
V squares(const Small& small, int items, Work<L>& w, V spoilt) {
  const int p = w.tall.columns, n = w.wide.columns;
  square(Triplets<L>{n, 0, L::padded(p), L::height(p), w.m, w.squares});
  V total = {};
  for (int j = 0; j < n; ++j) total += L::at(w.squares, j);
  if (small.derivative) {
    product<L, false, Skip::kLowerLeft>(p, n, p, w.tall.s, w.m, w.cross);
    product<L, true, Skip::kLowerLeft>(n, p, n, w.wide.s, w.m, w.tall.inverse);
    for (int j = 0; j < n; ++j)
      for (int h = 0; h < L::height(n); ++h) w.turned[j][h] = w.wide.s[j][h];
    write_weights<L>(small, items, w, w.cross, w.tall.inverse, p, w.cross, w.turned, spoilt + 2 * small.scale);
  }
  return total;
}

/// The sum of some correlations, and its weights.
template <class L>
V sum(const Small& small, int items, Work<L>& w, V spoilt) {
  const int p = w.tall.columns, n = w.wide.columns;
  spoilt = decompose<L>(w, small.derivative) ? all(0.0) / 0.0 : spoilt;
  if (small.derivative) product<L, false, Skip::kLowerLeft>(p, n, p, w.tall.s, w.m, w.cross);
  V total = {};
  for (int j = 0; j < n; ++j) {
    const V sigma = L::at(w.sigma, j);
    I kept = sigma > V{};
    if (small.objective == Objective::kTopk) kept &= rank<L>(w, j) < double(small.k);
    total += kept ? sigma : V{};
    if (small.derivative) keep<L>(w, j, kept);
  }
  if (small.derivative) {
    weighted<L>(w, p, w.cross, w.tall.inverse), weighted<L>(w, n, w.turned, w.wide.inverse);
    write_weights<L>(small, items, w, w.tall.inverse, w.wide.inverse, n, w.cross, w.turned, spoilt + small.scale);
  }
  return total + spoilt;
}

/// Correlations in descending order, and directions in that order.
template <class L>
void one_by_one(const Small& small, int items, Work<L>& w, V spoilt) {
  const int p = w.tall.columns, n = w.wide.columns;
  spoilt = decompose<L>(w, small.derivative) ? all(0.0) / 0.0 : spoilt;
  if (small.derivative) product<L, false, Skip::kLowerLeft>(p, n, p, w.tall.s, w.m, w.cross);
  double *tall = w.tall.begin ? small.b : small.a, *wide = w.tall.begin ? small.a : small.b;
  for (int j = 0; j < n; ++j) {
    const V sigma = L::at(w.sigma, j), place = rank<L>(w, j);
    if (small.derivative) keep<L>(w, j, sigma > V{});
    for (int l = 0; l < items; ++l) {
      const int column = static_cast<int>(place[l]);
      small.values[l * n + column] = sigma[l] + spoilt[l];
      if (!small.derivative) continue;
      for (int i = 0; i < p; ++i) tall[(l * p + i) * n + column] = L::at(w.cross[j], i)[l] + spoilt[l];
      for (int i = 0; i < n; ++i) wide[(l * n + i) * n + column] = L::at(w.turned[j], i)[l] + spoilt[l];
    }
  }
}

/// As many items as a layout holds.
template <class L>
void solve_items(const Small& small, int items, double* room) {
  Work<L> w(small, room);
  read<L>(small, items, w);
  whiten<L>(w);
  const V spoilt = w.broken ? all(0.0) / 0.0 : V{};
  if (!small.each && small.objective == Objective::kFro2) {
    const V total = squares<L>(small, items, w, spoilt) + spoilt;
    for (int l = 0; l < items; ++l) small.values[l] = total[l];
    return;
  }
  normalise<L>(w);
  silence<L>(w);
  if (small.each) return one_by_one<L>(small, items, w, spoilt);
  const V total = sum<L>(small, items, w, spoilt);
  for (int l = 0; l < items; ++l) small.values[l] = total[l];
}

/// Whether one item per lane is faster than one item after the other: measured. All that is turned should fit the second cache, and a few
/// lanes may be idle, the fewer the better items fill registers by themselves.
bool side_by_side(int tall, int wide, int items) {
  const int enough = kWide / 4 + wide / 8;
  return wide * (tall + wide) <= 2048 && items >= (enough < 2 ? 2 : enough);
}

void solve(const Small& small, int items, double* room) {
  const int tall = small.d1 < small.d2 ? small.d2 : small.d1, wide = small.d1 < small.d2 ? small.d1 : small.d2;
  if (side_by_side(tall, wide, items)) return solve_items<Lanes>(small, items, room);
  for (int l = 0; l < items; ++l) {
    Small one = small;
    one.moments += l * small.item, one.values += small.each ? l * wide : l;
    if (small.each && small.derivative) one.a += l * small.d1 * wide, one.b += l * small.d2 * wide;
    solve_items<Columns>(one, 1, room);
  }
}

int64_t room(int d1, int d2) {
  const int tall = d1 < d2 ? d2 : d1, wide = d1 < d2 ? d1 : d2;
  return Work<Lanes>::registers(tall, wide) * kWide;
}

}  // namespace
}  // namespace nk::cca::NK_LEVEL

#include "cpu/cca_cholesky.h"
#include "cpu/cca_rows.h"

namespace nk::cca::NK_LEVEL {
const Solver kSolver = {kWide,
                        room,
                        solve,
                        factor_range<float>,
                        factor_range<double>,
                        rows_of<float, float>(),
                        rows_of<double, double>(),
                        rows_of<Bfloat16, float>(),
                        rows_of<Float16, float>()};
}  // namespace nk::cca::NK_LEVEL
