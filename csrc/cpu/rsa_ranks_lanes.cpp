#include "cpu/rsa_ranks_lanes.h"

#include <algorithm>
#include <cstring>

#include "common/multiversion.h"

// Vectors are arguments of functions that are always inlined: there is no call whose convention could differ.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace nk::rsa {
namespace {

constexpr int64_t kPiece = 64;  // pairs whose ranks are multiplied while they are in the L1 cache

/// A vector register of kBytes, and how numbers come to and from memory.
template <int kBytes>
struct Lanes {
  typedef double V __attribute__((vector_size(kBytes)));
  static constexpr int64_t kWide = kBytes / static_cast<int64_t>(sizeof(double));
  static NK_INLINE V load(const double* from, int64_t element) {
    V value;
    std::memcpy(&value, from + element * kWide, sizeof(V));
    return value;
  }
  static NK_INLINE void store(double* to, int64_t element, const V& value) { std::memcpy(to + element * kWide, &value, sizeof(V)); }
};

template <class L>
NK_INLINE void weigh_any(const double* m, const uint32_t* first, const uint32_t* second, int64_t pairs, double* w, double* total) {
  typename L::V sum = {};
  for (int64_t p = 0; p < pairs; ++p) {
    const typename L::V weight = L::load(m, first[p]) * L::load(m, second[p]);
    L::store(w, p, weight);
    sum += weight;
  }
  L::store(total, 0, sum);
}

template <class L>
NK_INLINE void rank_any(const double* w, const uint32_t* order, const uint32_t* ranks, int64_t pairs, const double* total, double* out,
                        double* squares) {
  typename L::V before = {}, sum = {};
  const typename L::V all = L::load(total, 0);
  for (int64_t first = 0, end = 0; first < pairs; first = end) {
    typename L::V here = L::load(w, order[first]);
    const uint32_t group = ranks[order[first]];
    for (end = first + 1; end < pairs && ranks[order[end]] == group; ++end) here += L::load(w, order[end]);
    const typename L::V value = before + before + here - all;
    for (int64_t k = first; k < end; ++k) L::store(out, order[k], value);
    sum += here * value * value, before += here;
  }
  L::store(squares, 0, sum);
}

/// kRows rows of scaled ranks by kColumns rows of y, over the pairs of a piece.
template <class L, int kRows, int kColumns>
NK_INLINE void tile(const double* scaled, const double* y, int64_t stride, int64_t size, double* cross, int64_t columns) {
  typename L::V sum[kRows][kColumns] = {};
  for (int64_t p = 0; p < size; ++p) {
    typename L::V right[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) right[c] = L::load(y, c * stride + p);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const typename L::V left = L::load(scaled, r * kPiece + p);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) sum[r][c] += left * right[c];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) L::store(cross, r * columns + c, L::load(cross, r * columns + c) + sum[r][c]);
  }
}

template <class L>
NK_INLINE void multiply_any(const double* w, const double* x, int64_t rows_x, const double* y, int64_t rows_y, int64_t pairs, double* cross) {
  constexpr int kTile = 2;
  alignas(64) double scaled[kTile * kPiece * L::kWide];
  std::fill(cross, cross + rows_x * rows_y * L::kWide, 0.0);
  for (int64_t start = 0; start < pairs; start += kPiece) {
    const int64_t size = std::min(kPiece, pairs - start);
    for (int64_t r = 0; r < rows_x; r += kTile) {
      const int64_t rows = std::min<int64_t>(kTile, rows_x - r);
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t p = 0; p < size; ++p)
          L::store(scaled, t * kPiece + p, L::load(w, start + p) * L::load(x, (r + t) * pairs + start + p));
      double* to = cross + r * rows_y * L::kWide;
      int64_t s = 0;
      for (; rows == kTile && s + 4 <= rows_y; s += 4)
        tile<L, kTile, 4>(scaled, y + (s * pairs + start) * L::kWide, pairs, size, to + s * L::kWide, rows_y);
      for (; s < rows_y; ++s) {
        const double* right = y + (s * pairs + start) * L::kWide;
        if (rows == kTile)
          tile<L, kTile, 1>(scaled, right, pairs, size, to + s * L::kWide, rows_y);
        else
          tile<L, 1, 1>(scaled, right, pairs, size, to + s * L::kWide, rows_y);
      }
    }
  }
}

template <class L>
NK_INLINE void squared_any(const double* w, const uint8_t* fresh, int64_t n, double* out) {
  typename L::V sum = {}, group = {};
  for (int64_t k = 0; k < n; ++k) {
    if (fresh[k]) sum += group * group, group = typename L::V{};
    group += L::load(w, k);
  }
  L::store(out, 0, sum + group * group);
}

template <class L>
NK_INLINE void merge_any(const double* w, const uint32_t* next, const uint32_t* passed, int64_t width, int64_t n, double* sums, double* out,
                         double* discordant) {
  typename L::V total = {}, found = L::load(discordant, 0);
  for (int64_t k = 0; k < n; ++k) L::store(sums, k, total), total += L::load(w, k);
  L::store(sums, n, total);
  for (int64_t start = 0; start + width < n; start += 2 * width) {
    const int64_t middle = start + width;
    const typename L::V before = L::load(sums, middle);
    for (int64_t k = start; k < middle; ++k) found += L::load(w, k) * (L::load(sums, passed[k]) - before);
  }
  for (int64_t k = 0; k < n; ++k) L::store(out, k, L::load(w, next[k]));
  L::store(discordant, 0, found);
}

// A vector's width is part of the code, so that clones of one function would not do.
#if NK_HAS_MULTIVERSION
#define NK_TARGET(name) __attribute__((target(name)))
#define NK_WIDE                     \
  NK_LEVEL("arch=x86-64-v3", 32)    \
  NK_LEVEL("arch=x86-64-v4", 64)
#else
#define NK_TARGET(name)
#define NK_WIDE
#endif
#define NK_LEVEL(level, bytes)                                                                                                            \
  NK_TARGET(level) int64_t lanes_here() { return Lanes<bytes>::kWide; }                                                                   \
  NK_TARGET(level) void weigh_here(const double* m, const uint32_t* i, const uint32_t* j, int64_t pairs, double* w, double* total) {      \
    weigh_any<Lanes<bytes>>(m, i, j, pairs, w, total);                                                                                    \
  }                                                                                                                                       \
  NK_TARGET(level) void rank_here(const double* w, const uint32_t* order, const uint32_t* ranks, int64_t pairs, const double* total,      \
                                  double* out, double* squares) {                                                                         \
    rank_any<Lanes<bytes>>(w, order, ranks, pairs, total, out, squares);                                                                  \
  }                                                                                                                                       \
  NK_TARGET(level) void multiply_here(const double* w, const double* x, int64_t rows_x, const double* y, int64_t rows_y, int64_t pairs,   \
                                      double* cross) {                                                                                    \
    multiply_any<Lanes<bytes>>(w, x, rows_x, y, rows_y, pairs, cross);                                                                    \
  }                                                                                                                                       \
  NK_TARGET(level) void squared_here(const double* w, const uint8_t* fresh, int64_t n, double* out) {                                     \
    squared_any<Lanes<bytes>>(w, fresh, n, out);                                                                                          \
  }                                                                                                                                       \
  NK_TARGET(level) void merge_here(const double* w, const uint32_t* next, const uint32_t* passed, int64_t width, int64_t n, double* sums, \
                                   double* out, double* discordant) {                                                                     \
    merge_any<Lanes<bytes>>(w, next, passed, width, n, sums, out, discordant);                                                            \
  }

NK_LEVEL("default", 16)
NK_WIDE

}  // namespace

int64_t lanes() { return lanes_here(); }

void weigh(const double* m, const uint32_t* first, const uint32_t* second, int64_t pairs, double* w, double* total) {
  weigh_here(m, first, second, pairs, w, total);
}

void rank(const double* w, const uint32_t* order, const uint32_t* ranks, int64_t pairs, const double* total, double* out, double* squares) {
  rank_here(w, order, ranks, pairs, total, out, squares);
}

void multiply(const double* w, const double* x, int64_t rows_x, const double* y, int64_t rows_y, int64_t pairs, double* cross) {
  multiply_here(w, x, rows_x, y, rows_y, pairs, cross);
}

void squared(const double* w, const uint8_t* fresh, int64_t n, double* out) { squared_here(w, fresh, n, out); }

void merge(const double* w, const uint32_t* next, const uint32_t* passed, int64_t width, int64_t n, double* sums, double* out,
           double* discordant) {
  merge_here(w, next, passed, width, n, sums, out, discordant);
}

}  // namespace nk::rsa
