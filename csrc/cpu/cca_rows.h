// Loops over the samples of a view: their sum, centring, and rounding. Included by the file of each instruction set.
//
// Columns are taken kChunk at a time, and in all but the last rows so are those beyond a row's end: what is read there belongs to the next
// row, or lies between two of them, and is dropped; what is written there is written over. Arrays over columns have room for as many.
#pragma once

#include "cpu/cca_layout.h"
#include "cpu/cca_level.h"

namespace nk::cca::NK_LEVEL {
namespace {

typedef float Half __attribute__((vector_size(kWide * sizeof(float))));

/// As many numbers as a register has doubles.
template <class S>
NK_INLINE V widened(const S* from) {
  Half x;
  for (int l = 0; l < kWide; ++l) x[l] = widen(from[l]);
#if NK_REGISTER == 64
  return _mm512_maskz_cvtps_pd(0xff, x);
#else
  return __builtin_convertvector(x, V);
#endif
}
template <>
NK_INLINE V widened(const float* from) {
  Half x;
  std::memcpy(&x, from, sizeof(x));
#if NK_REGISTER == 64
  return _mm512_maskz_cvtps_pd(0xff, x);
#else
  return __builtin_convertvector(x, V);
#endif
}
template <>
NK_INLINE V widened(const double* from) {
  V x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

NK_INLINE void rounded(V x, double* to) { std::memcpy(to, &x, sizeof(x)); }
NK_INLINE void rounded(V x, float* to) {
#if NK_REGISTER == 64
  const Half y = _mm512_maskz_cvtpd_ps(0xff, x);
#else
  const Half y = __builtin_convertvector(x, Half);
#endif
  std::memcpy(to, &y, sizeof(y));
}

/// Rows that may be read or written a whole chunk at a time without going beyond the last one.
NK_INLINE int roomy(int64_t stride, int rows, int columns) {
  const int64_t beyond = (kChunk - columns % kChunk) % kChunk;
  if (beyond == 0) return rows;
  if (stride <= 0) return 0;
  const int64_t last = (beyond + stride - 1) / stride;
  return last < rows ? static_cast<int>(rows - last) : 0;
}

/// Adds rows by fours: a tree of four is a quarter of the waiting for sums.
template <class S>
NK_INLINE void add_fours(const S* x, int64_t stride, int rows, int columns, const double* first, double* sums) {
  for (int j = 0; j < columns; j += kWide) {
    V sum = widened(sums + j);
    const V offset = widened(first + j);
    for (int row = 0; row + 4 <= rows; row += 4) {
      const S* a = x + row * stride + j;
      const V upper = (widened(a) - offset) + (widened(a + stride) - offset);
      sum += upper + ((widened(a + 2 * stride) - offset) + (widened(a + 3 * stride) - offset));
    }
    rounded(sum, sums + j);
  }
}

template <class S>
void add_rows(const S* x, int64_t stride, int rows, int columns, const double* first, double* sums) {
  constexpr int kStride = kLimit + kChunk;
  int row = roomy(stride, rows, columns) / 4 * 4;
  add_fours(x, stride, row, columns, first, sums);
  for (; row + 4 <= rows; row += 4) {  // the same sums from where there is room
    S copies[4 * kStride] = {};
    for (int i = 0; i < 4; ++i) std::memcpy(copies + i * kStride, x + (row + i) * stride, columns * sizeof(S));
    add_fours(copies, kStride, 4, columns, first, sums);
  }
  for (; row < rows; ++row) {
    for (int j = 0; j < columns; ++j) sums[j] += widen(x[row * stride + j]) - first[j];
  }
}

template <class S, class T>
void centre_rows(const S* x, int64_t stride, int rows, int columns, const double* mean, T* out, int64_t out_stride) {
  const int whole = roomy(stride, rows, columns);
  for (int j = 0; j < columns; j += kWide) {
    const V centre = widened(mean + j);
    for (int row = 0; row < whole; ++row) rounded(widened(x + row * stride + j) - centre, out + row * out_stride + j);
  }
  for (int row = whole; row < rows; ++row) {
    for (int j = 0; j < columns; ++j) out[row * out_stride + j] = static_cast<T>(widen(x[row * stride + j]) - mean[j]);
  }
}

template <class T, class S>
void narrow_rows(const T* x, int64_t stride, int rows, int columns, S* out, int64_t out_stride) {
  const int whole = roomy(out_stride, rows, columns);
  for (int row = 0; row < whole; ++row) {
    for (int j = 0; j < columns; j += kChunk) {
      S chunk[kChunk];
#pragma GCC ivdep
      for (int l = 0; l < kChunk; ++l) chunk[l] = narrow<S>(x[row * stride + j + l]);
      std::memcpy(out + row * out_stride + j, chunk, sizeof(chunk));
    }
  }
  for (int row = whole; row < rows; ++row) {
    for (int j = 0; j < columns; ++j) out[row * out_stride + j] = narrow<S>(x[row * stride + j]);
  }
}

template <class S, class T>
constexpr Rows<S> rows_of() {
  return {add_rows<S>, centre_rows<S, double>, centre_rows<S, T>, narrow_rows<T, S>};
}

}  // namespace
}  // namespace nk::cca::NK_LEVEL
