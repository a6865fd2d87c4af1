// Two ways to lay small matrices in registers, and what the solver needs of either. Matrices are stored by columns in both.
//
// Every sum is made in the same order in both, so that an item gets the same bits alone and among others. No function template of the
// standard library is used in the headers of the solver: see eigh_lanes.h.
#pragma once

#include "cpu/eigh_memory.h"

namespace nk::cca::NK_LEVEL {

namespace lanes = nk::eigh::NK_LEVEL;
using lanes::all;
using lanes::fma;
using lanes::nfma;
using V = lanes::Vec<double>;
using I = lanes::Mask<double>;
constexpr int kWide = lanes::kLanes<double>;

/// Columns of registers.
struct Matrix {
  V* data;
  int64_t stride;
  NK_INLINE V* operator[](int column) const { return data + column * stride; }
};

/// The sum of kWide registers, in a fixed order.
NK_INLINE V tree(V* sum) {
#pragma GCC unroll 4
  for (int width = kWide / 2; width; width /= 2)
#pragma GCC unroll 4
    for (int i = 0; i < width; ++i) sum[i] += sum[i + width];
  return sum[0];
}

/// The sum of kWide registers; or, across, lane l is the sum of the lanes of register l, made in the same order.
template <bool kAcross>
NK_INLINE V tree(V* sum) {
  using Count = std::make_integer_sequence<int, kWide>;
  constexpr I kLower = lanes::zip_pattern<double, 0>(Count{}), kUpper = lanes::zip_pattern<double, kWide / 2>(Count{});
#pragma GCC unroll 4
  for (int width = kWide / 2; width; width /= 2) {
#pragma GCC unroll 4
    for (int i = 0; i < width; ++i) {
      const V a = sum[i], b = sum[i + width];
      sum[i] = kAcross ? lanes::shuffle<double>(a, b, kLower) + lanes::shuffle<double>(a, b, kUpper) : a + b;
    }
  }
  return sum[0];
}

NK_INLINE bool any(I mask) {
#if NK_REGISTER == 64
  return _mm512_test_epi64_mask(__m512i(mask), __m512i(mask));
#elif NK_REGISTER == 32
  return !_mm256_testz_si256(__m256i(mask), __m256i(mask));
#else
  int64_t found = 0;
  for (int l = 0; l < kWide; ++l) found |= mask[l];
  return found;
#endif
}

/// One matrix per lane: a register holds one element of each.
struct Lanes {
  static constexpr int kRows = 1, kPairs = 1;  // rows of a matrix in a register; pairs of columns of it that are turned at once
  static NK_INLINE int height(int rows) { return rows; }
  static NK_INLINE int64_t stride(int rows) { return rows | 1; }  // a power of two would put a row into one set of the cache
  /// Registers of a column whose products are taken: a whole number of times as many as are summed up side by side.
  static NK_INLINE int padded(int rows) { return (rows + kWide - 1) / kWide * kWide; }
  static NK_INLINE V at(const V* column, int i) { return column[i]; }
  static NK_INLINE void set(V* column, int i, V value) { column[i] = value; }
  /// Register h of a column with `value` in row i, and with zeros above if `clear`.
  template <bool clear>
  static NK_INLINE V put(V x, int h, int i, V value) {
    return h == i ? value : x;
  }
  /// One of the angles of the pairs that are turned at once.
  static NK_INLINE V one(const V& angle, int) { return angle; }
  /// The largest of what one item has in a register, and whether any of it is not zero.
  static NK_INLINE V most(V x) { return x; }
  static NK_INLINE I some(I x) { return x; }

  /// Products of the columns of `pairs` pairs; of one here.
  static NK_INLINE V products(const V* const* a, const V* const* b, int, int padded) {
    V sum[kWide];
#pragma GCC unroll 8
    for (int r = 0; r < kWide; ++r) sum[r] = a[0][r] * b[0][r];
    for (int h = kWide; h < padded; h += kWide)
#pragma GCC unroll 8
      for (int r = 0; r < kWide; ++r) sum[r] = fma(a[0][h + r], b[0][h + r], sum[r]);
    return tree<false>(sum);
  }
  static NK_INLINE V gather(const V* row, const uint8_t* columns, int) { return row[columns[0]]; }
  static NK_INLINE void scatter(V* row, const uint8_t* columns, int, V x) { row[columns[0]] = x; }

  /// Rows j .. length - 1 of a column from as many numbers in memory, of which row 0 is the first, of each of some items, which lie `item`
  /// apart. Up to a register is read beyond their end.
  static NK_INLINE void load(const double* from, int64_t item, int items, int j, int length, V* column) {
    for (int begin = j; begin < length; begin += kWide) {
      V x[kWide];
#pragma GCC unroll 8
      for (int l = 0; l < kWide; ++l) {
        x[l] = V{};
        if (l < items) std::memcpy(&x[l], from + l * item + begin, sizeof(V));
      }
      lanes::transpose<double>(x);
      for (int i = 0; i < kWide && begin + i < length; ++i) column[begin + i] = x[i];
    }
  }
  /// A column times a factor, to memory; up to a register beyond its end. With kUpper the matrix is symmetric, and its lower triangle need
  /// not be there.
  template <bool kUpper>
  static NK_INLINE void store(Matrix a, int column, int length, V factor, double* to, int64_t item, int items) {
    for (int begin = 0; begin < length; begin += kWide) {
      V x[kWide];
      for (int i = 0; i < kWide; ++i) {
        const int row = begin + i;
        x[i] = row >= length ? V{} : factor * (kUpper && row > column ? a[row][column] : a[column][row]);
      }
      lanes::transpose<double>(x);
      for (int l = 0; l < items; ++l) std::memcpy(to + l * item + begin, &x[l], sizeof(V));
    }
  }
  /// The same for a row.
  static NK_INLINE void store_row(Matrix a, int row, int length, V factor, double* to, int64_t item, int items) {
    for (int begin = 0; begin < length; begin += kWide) {
      V x[kWide];
      for (int i = 0; i < kWide; ++i) x[i] = begin + i < length ? factor * a[begin + i][row] : V{};
      lanes::transpose<double>(x);
      for (int l = 0; l < items; ++l) std::memcpy(to + l * item + begin, &x[l], sizeof(V));
    }
  }
};

/// One matrix: its columns lie along registers, with zeros below their ends. What is the same for all of it fills all lanes.
struct Columns {
  static constexpr int kRows = kWide, kPairs = kWide;
  static NK_INLINE int height(int rows) { return (rows + kWide - 1) / kWide; }
  static NK_INLINE int64_t stride(int rows) { return height(rows); }
  static NK_INLINE int padded(int rows) { return height(rows); }
  static NK_INLINE V at(const V* column, int i) { return all(reinterpret_cast<const double*>(column)[i]); }
  static NK_INLINE void set(V* column, int i, V value) { reinterpret_cast<double*>(column)[i] = value[0]; }
  template <bool clear>
  static NK_INLINE V put(V x, int h, int i, V value) {
    const I row = counted() + int64_t{h} * kWide, there = I{} + int64_t{i};
    const V below = clear ? (row < there ? V{} : x) : x;
    return row == there ? value : below;
  }
  static NK_INLINE V one(const V& angle, int pair) { return all(reinterpret_cast<const double*>(&angle)[pair]); }
  static NK_INLINE V most(V x) {
    double largest = x[0];
    for (int l = 1; l < kWide; ++l) largest = x[l] > largest ? x[l] : largest;
    return all(largest);
  }
  static NK_INLINE I some(I x) { return I{} - int64_t{any(x)}; }

  static NK_INLINE V products(const V* const* a, const V* const* b, int pairs, int padded) {
    V sum[kWide];
#pragma GCC unroll 8
    for (int pair = 0; pair < kWide; ++pair) {
      sum[pair] = V{};
      if (pair >= pairs) continue;
      V x = a[pair][0] * b[pair][0];
      for (int h = 1; h < padded; ++h) x = fma(a[pair][h], b[pair][h], x);
      sum[pair] = x;
    }
    return tree<true>(sum);
  }
  static NK_INLINE V gather(const V* row, const uint8_t* columns, int pairs) {
    V x = {};
    for (int pair = 0; pair < pairs; ++pair) reinterpret_cast<double*>(&x)[pair] = reinterpret_cast<const double*>(row)[columns[pair]];
    return x;
  }
  static NK_INLINE void scatter(V* row, const uint8_t* columns, int pairs, V x) {
    for (int pair = 0; pair < pairs; ++pair) reinterpret_cast<double*>(row)[columns[pair]] = reinterpret_cast<const double*>(&x)[pair];
  }

  static NK_INLINE void load(const double* from, int64_t, int, int j, int length, V* column) {
    for (int h = j / kWide; h < height(length); ++h) {
      V x;
      std::memcpy(&x, from + h * kWide, sizeof(V));
      column[h] = counted() < I{} + int64_t{length - h * kWide} ? x : V{};
    }
  }
  template <bool>
  static NK_INLINE void store(Matrix a, int column, int length, V factor, double* to, int64_t, int) {
    for (int h = 0; h < height(length); ++h) {
      const V x = factor * a[column][h];
      std::memcpy(to + h * kWide, &x, sizeof(V));
    }
  }
  static NK_INLINE void store_row(Matrix a, int row, int length, V factor, double* to, int64_t, int) {
    for (int j = 0; j < length; ++j) to[j] = reinterpret_cast<const double*>(a[j])[row] * factor[0];
  }

 private:
  static NK_INLINE I counted() {
    I x = {};
    for (int l = 0; l < kWide; ++l) x[l] = l;
    return x;
  }
};

}  // namespace nk::cca::NK_LEVEL
