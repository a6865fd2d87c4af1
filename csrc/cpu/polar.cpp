#include "cpu/polar.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

namespace nk::dense {
namespace {

/// w <- a w + b w w'w + c w (w'w)^2.
struct Step {
  double a, b, c;
};

// Odd polynomials of degree 5, each the closest one to 1 on the interval that the one before it left of the singular values, [least, 1] at
// first: the Polar Express of Amsel et al. 2025. No interval is taken to be longer than 1 : 10, and so all steps but the first and the last
// ones are the same. Longer intervals gain a twentieth per step, but let singular values that were large become small again on the way, and
// a small one is a noisy one: errors were 10 times as large.

constexpr Step kFirst{5.6036945108342504, -13.883690250169623, 9.7334126443756741};
/// As often as it is taken, beyond the first time, `least` is smaller by the factor a.
constexpr Step kMiddle{3.8555313973583285, -4.5220389008126585, 1.5007698599756556};
constexpr Step kEnd[] = {
    {2.8490229399750890, -2.7156346419352269, 0.83282890586988212},
    {1.9206685811520039, -1.2998580460259141, 0.38001969413017428},
    {1.8750310845880405, -1.2500345380257285, 0.37500345384484468},
};
/// Newton and Schulz's step of order three: what is within 1e-5 of 1 comes to it.
constexpr Step kLast{1.875, -1.25, 0.375};

/// How often the middle step is taken: singular values from 2.5e-4 on come to within 1e-7 of 1, and from 1.7e-5 on in double.
constexpr int kMany = 4, kManyDouble = 6;
/// From 3.7e-3 on: a matrix that is far from square seldom has smaller ones.
constexpr int kWide = 2;
/// From 1.4e-2 on: for the few that are still small after all others have come to 1.
constexpr int kFew = 1;
/// One singular value below 1 that four last steps bring there misses so much of its square.
constexpr double kNearly = 0.9;

/// The iterate and what a step needs beside it.
template <class T>
struct Walk {
  Matrix<T>&w, &other;
  const Matrix<T>&gram, &polynomial;
  int threads;

  void step(const Step& s) {
    multiply<T>({w, w, gram, true, true}, threads);
    multiply<T>({gram, gram, polynomial, true, true, Zeros::kNone, T(s.c), &gram, T(s.b), T(s.a)}, threads);
    multiply<T>({w, polynomial, other}, threads);
    std::swap(w, other);
  }

  void steps(int middle) {
    step(kFirst);
    for (int i = 0; i < middle; ++i) step(kMiddle);
    for (const Step& s : kEnd) step(s);
  }
};

/// The largest rank that rows and columns of zeros leave.
template <class T>
int64_t rank_of(const Matrix<T>& m) {
  std::vector<char> live(m.columns);
  int64_t rows = 0;
  for (int64_t i = 0; i < m.rows; ++i) {
    const T* row = m.row(i);
    char any = 0;
    for (int64_t j = 0; j < m.columns; ++j) {
      const char here = row[j] != 0;
      live[j] |= here, any |= here;
    }
    rows += any;
  }
  return std::min<int64_t>(rows, std::count(live.begin(), live.end(), 1));
}

}  // namespace

template <class T>
bool polar(Matrix<T>& m, Matrix<T>& other, const Matrix<T>& gram, const Matrix<T>& polynomial, Precision precision, int again,
           int threads) {
  constexpr bool kDouble = std::is_same_v<T, double>;
  const int64_t rank = rank_of(m);
  if (rank == 0) return true;
  if (const double norm = inner(m, m); norm < 1) {
    const T scale = static_cast<T>(1 / std::sqrt(norm));
    for (int64_t i = 0; i < m.rows; ++i) {
      T* row = m.row(i);
      for (int64_t j = 0; j < m.columns; ++j) row[j] *= scale;
    }
  }
  Walk<T> walk{m, other, gram, polynomial, threads};
  const bool fast = precision == Precision::kFast && !kDouble;
  const bool wide = again > 0 && 4 * m.columns < 3 * m.rows;
  walk.steps(kDouble ? kManyDouble : wide ? kWide : kMany - fast);
  if (kDouble) walk.step(kLast);
  // The squared norm is the number of singular values that came to 1, and a part of one for each that did not.
  const double tolerance = kDouble ? 1e-10 : fast ? 2e-2 : 1e-4 + 5e-7 * rank;
  for (int left = 4;;) {
    const double missing = rank - inner(m, m);
    if (std::abs(missing) < tolerance) return true;
    if (missing < kNearly && left-- > 0) {
      walk.step(kLast);
    } else if (again-- > 0) {
      walk.steps(kFew);
      left = 4;
    } else {
      return false;
    }
  }
}

template bool polar(Matrix<float>&, Matrix<float>&, const Matrix<float>&, const Matrix<float>&, Precision, int, int);
template bool polar(Matrix<double>&, Matrix<double>&, const Matrix<double>&, const Matrix<double>&, Precision, int, int);

}  // namespace nk::dense
