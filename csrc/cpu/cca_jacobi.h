// Singular values by one-sided Jacobi rotations (Hestenes 1958): columns are turned in pairs until all are orthogonal. Small values come
// out as exact as large ones, and columns of zeros are never touched.
#pragma once

#include "cpu/cca_layout.h"

namespace nk::cca::NK_LEVEL {

/// The order in which all pairs of columns meet: in rounds, in each of which a column is in one pair at most, so that they may be turned at
/// once. Many columns meet in blocks, two of which stay in the first cache for as long as it takes.
struct Tournament {
  static constexpr int kBlock = 8, kUnblocked = 16;
  int rounds = 0, begin[kLimit * kLimit / kBlock] = {0};  // round r has pairs begin[r] .. begin[r + 1] - 1
  uint8_t first[kLimit * kLimit / 2], second[kLimit * kLimit / 2];

  explicit Tournament(int n) {
    const int blocks = n > kUnblocked ? (n + kBlock - 1) / kBlock : 1, size = blocks > 1 ? kBlock : n;
    const auto length = [&](int block) { return n - block * size < size ? n - block * size : size; };
    for (int block = 0; block < blocks; ++block) {
      circle(length(block), [&](int i, int j) { meet(block * size + i, block * size + j); }, [&] { finish(); });
    }
    circle(blocks, [&](int a, int b) {
      const int most = length(a) > length(b) ? length(a) : length(b);
      for (int shift = 0; shift < most; ++shift, finish()) {
        for (int i = 0; i < length(a); ++i) {
          const int j = i + shift < most ? i + shift : i + shift - most;
          if (j < length(b)) meet(a * size + i, b * size + j);
        }
      }
    }, [] {});
  }

 private:
  void meet(int i, int j) {
    const int at = begin[rounds + 1]++;
    first[at] = static_cast<uint8_t>(i), second[at] = static_cast<uint8_t>(j);
  }
  void finish() { ++rounds, begin[rounds + 1] = begin[rounds]; }

  /// One player stays where he is and the others go round him; if their number is odd, whoever meets him has nothing to do.
  template <class Meet, class Finish>
  static void circle(int players, Meet&& meet, Finish&& finish) {
    const int rounds = players < 2 ? 0 : players - 1 + players % 2;
    for (int round = 0; round < rounds; ++round, finish()) {
      if (players % 2 == 0) meet(rounds, round);
      for (int i = 1; i < (players + 1) / 2; ++i) {
        const int ahead = round + i, behind = round - i;
        meet(ahead < rounds ? ahead : ahead - rounds, behind < 0 ? behind + rounds : behind);
      }
    }
  }
};

/// M = U diag(s) V' in the making: n columns, of which the last rows are those of M and become U diag(s); what stands above them is turned
/// along.
template <class L>
struct Triplets {
  int n, above, padded, height;  // registers of a column: above M, of M with zeros after its end, and all that are turned
  Matrix columns;
  V* squares;  // of the columns of M
};

/// Cosines and sines of some pairs: one and zero where nothing is to be done.
struct Angles {
  V cosine, sine;
};

/// To 28 bits: an angle that is a little off leaves a little for the next sweep, as long as its sine and cosine belong together.
#if NK_REGISTER == 64
NK_INLINE V rough_root(V a) {
  const V inverse = lanes::inverse_root_estimate(a), length = a * inverse;
  return fma(length, nfma(length, inverse * 0.5, all(0.5)), length);
}
NK_INLINE V rough_inverse(V a) {
  const V inverse = lanes::inverse_estimate(a);
  return fma(inverse, nfma(a, inverse, all(1.0)), inverse);
}
#else
NK_INLINE V rough_root(V a) { return lanes::root(a); }
NK_INLINE V rough_inverse(V a) { return 1.0 / a; }
#endif

/// The rotation that makes two columns orthogonal, given their squares, which it changes, and their product.
NK_INLINE Angles angles(V& a, V& b, V product, V tolerance, I& turns) {
  constexpr double kNothing = 0x1p-300;  // a column without a direction: its products underflow
  turns = (product * product > tolerance * (a * b)) & (a > kNothing) & (b > kNothing);
  const V difference = b - a, twice = product + product;
  const V length = rough_root(fma(difference, difference, twice * twice));
  const V tangent = lanes::signed_like<double>(twice, difference) * rough_inverse(lanes::magnitude<double>(difference) + length);
  V unused, cosine;
  lanes::roots<double>(fma(tangent, tangent, all(1.0)), unused, cosine);
  const V change = turns ? tangent * product : V{};
  a -= change, b += change;
  return {turns ? cosine : all(1.0), turns ? tangent * cosine : V{}};
}

/// R rows of two columns. A column times one, plus zero times another one, is what it was.
template <int R>
NK_INLINE void turn_rows(V* a, V* b, V cosine, V sine) {
  V x[R], y[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) x[r] = a[r], y[r] = b[r];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) a[r] = nfma(sine, y[r], cosine * x[r]), b[r] = fma(sine, x[r], cosine * y[r]);
}

NK_INLINE void turn(V* a, V* b, int height, V cosine, V sine) {
  int h = 0;
  for (; h + 4 <= height; h += 4) turn_rows<4>(a + h, b + h, cosine, sine);
  if (height - h >= 2) turn_rows<2>(a + h, b + h, cosine, sine), h += 2;
  if (h < height) turn_rows<1>(a + h, b + h, cosine, sine);
}

/// N times the pairs that a layout turns at once, side by side, because an angle is a chain of two roots and a division.
template <int N, class L>
NK_INLINE I meet(const Triplets<L>& t, V tolerance, const uint8_t* first, const uint8_t* second, int pairs) {
  V a[N], b[N], product[N];
  Angles found[N];
  I turns[N], all_turns = {};
#pragma GCC unroll 4
  for (int g = 0; g < N; ++g) {
    const V *left[L::kPairs] = {}, *right[L::kPairs] = {};
    for (int pair = 0; pair < pairs; ++pair) {
      left[pair] = t.columns[first[g + pair]] + t.above, right[pair] = t.columns[second[g + pair]] + t.above;
    }
    product[g] = L::products(left, right, pairs, t.padded);
    a[g] = L::gather(t.squares, first + g, pairs), b[g] = L::gather(t.squares, second + g, pairs);
  }
#pragma GCC unroll 4
  for (int g = 0; g < N; ++g) found[g] = angles(a[g], b[g], product[g], tolerance, turns[g]);
#pragma GCC unroll 4
  for (int g = 0; g < N; ++g) {
    if (!any(turns[g])) continue;
    all_turns |= turns[g];
    L::scatter(t.squares, first + g, pairs, a[g]), L::scatter(t.squares, second + g, pairs, b[g]);
    for (int pair = 0; pair < pairs; ++pair) {
      turn(t.columns[first[g + pair]], t.columns[second[g + pair]], t.height, L::one(found[g].cosine, pair), L::one(found[g].sine, pair));
    }
  }
  return all_turns;
}

/// Squares of all columns, anew: what rotations say of them drifts.
template <class L>
NK_INLINE void square(const Triplets<L>& t) {
  for (int j = 0; j < t.n; j += L::kPairs) {
    const V* columns[L::kPairs] = {};
    const int here = t.n - j < L::kPairs ? t.n - j : L::kPairs;
    uint8_t places[L::kPairs];
    for (int i = 0; i < here; ++i) columns[i] = t.columns[j + i] + t.above, places[i] = static_cast<uint8_t>(j + i);
    L::scatter(t.squares, places, here, L::products(columns, columns, here, t.padded));
  }
}

/// One round; each column is in no more than one of its pairs.
template <class L>
NK_INLINE I play(const Triplets<L>& t, V tolerance, const uint8_t* first, const uint8_t* second, int pairs) {
  I turns = {};
  if (L::kPairs > 1) {
    for (int pair = 0; pair < pairs; pair += L::kPairs) {
      const int left = pairs - pair;
      turns |= meet<1>(t, tolerance, first + pair, second + pair, left < L::kPairs ? left : L::kPairs);
    }
    return turns;
  }
  int pair = 0;
  for (; pairs - pair > 5 || pairs - pair == 4; pair += 4) turns |= meet<4>(t, tolerance, first + pair, second + pair, 1);
  for (; pairs - pair > 2; pair += 3) turns |= meet<3>(t, tolerance, first + pair, second + pair, 1);
  if (pairs - pair == 2) return turns | meet<2>(t, tolerance, first + pair, second + pair, 1);
  if (pairs - pair == 1) return turns | meet<1>(t, tolerance, first + pair, second + pair, 1);
  return turns;
}

/// Turns until nothing turns. Returns which items still did when patience ended, which no matrix of numbers is known to do.
template <class L>
I jacobi(const Triplets<L>& t, const Tournament& order) {
  constexpr int kSweeps = 60;
  const double scale = lanes::Simd<double>::kEpsilon * (t.n > 16 ? t.n : 16);
  const V tolerance = all(scale * scale);
  for (int sweep = 0;; ++sweep) {
    square(t);
    I turns = {};
    for (int round = 0; round < order.rounds; ++round) {
      const int at = order.begin[round];
      turns |= play(t, tolerance, order.first + at, order.second + at, order.begin[round + 1] - at);
    }
    turns = L::some(turns);
    if (sweep == kSweeps || !any(turns)) return turns;
  }
}

}  // namespace nk::cca::NK_LEVEL
