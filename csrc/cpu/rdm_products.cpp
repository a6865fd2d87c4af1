// Compiled with fused multiply-adds, as covariance_gram.cpp is: they are half of its speed, and no result is promised bit for bit.
//
// Every element of c is added up in the order of channels in one register, wherever it stands: equal patterns have equal products.
#include "cpu/rdm_products.h"

#include <algorithm>
#include <cstring>

#include "common/multiversion.h"

namespace nk::rdm {
namespace {

template <class T, int kBytes>
struct Register {
  typedef T type __attribute__((vector_size(kBytes)));
};

/// Rows and registers of columns that are worked on at a time: twelve sums, two factors and a broadcast fit sixteen registers.
constexpr int kRows = 6, kVectors = 2;
/// Lines of rows that stay in the L1 cache while columns pass by; a multiple of kRows.
constexpr int kLinesInCache = 3;

template <class T, int kBytes, int kHeight, int kWidth>
NK_INLINE void micro(const T* const* a, const T* const* b, T* const* c, int64_t c_stride, int depth) {
  using V = typename Register<T, kBytes>::type;
  V sum[kHeight][kWidth] = {};
  for (int64_t k = 0; k < depth * kLine<T>; k += kLine<T>) {
    V right[kWidth];
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) std::memcpy(&right[v], b[v] + k, sizeof(V));
#pragma GCC unroll 8
    for (int r = 0; r < kHeight; ++r) {
      const T left = a[r][k];
#pragma GCC unroll 8
      for (int v = 0; v < kWidth; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kHeight; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kWidth; ++v) {
      V value;
      T* at = c[v] + r * c_stride;
      std::memcpy(&value, at, sizeof(V));
      value += sum[r][v];
      std::memcpy(at, &value, sizeof(V));
    }
  }
}

template <class T, int kBytes, int kHeight>
NK_INLINE void micro_of(const T* const* a, const T* const* b, T* const* c, int64_t c_stride, int depth, bool both) {
  if (both) micro<T, kBytes, kHeight, 2>(a, b, c, c_stride, depth);
  else micro<T, kBytes, kHeight, 1>(a, b, c, c_stride, depth);
}

template <class T, int kBytes>
NK_INLINE void product_any(const Slivers<T>& p, bool upper) {
  constexpr int kWidth = kBytes / sizeof(T), kPerLine = 64 / kBytes, kLanes = static_cast<int>(kLine<T>), kHeight = kLinesInCache * kLanes;
  const int vectors = (p.columns + kLanes - 1) / kLanes * kPerLine;
  for (int top = 0; top < p.rows; top += kHeight) {
    const int first = upper ? top / kWidth / kVectors * kVectors : 0;
    for (int start = first; start < vectors; start += kVectors) {
      const int end = std::min(start + kVectors, vectors), bottom = std::min(top + kHeight, p.rows);
      const int last = upper ? std::min(bottom, end * kWidth) : bottom;
      const T* b[kVectors];
      for (int v = 0; v < kVectors; ++v) b[v] = p.b + (start + v) / kPerLine * p.sliver + (start + v) % kPerLine * kWidth;
      for (int row = top; row < last; row += kRows) {
        const T* a[kRows];
        for (int r = 0; r < kRows; ++r) a[r] = p.a + (row + r) / kLanes * p.sliver + (row + r) % kLanes;
        T* c[kVectors];
        for (int v = 0; v < kVectors; ++v) c[v] = p.c + row * p.c_stride + (start + v) * kWidth;
        const bool both = end - start == 2;
        switch (std::min(kRows, last - row)) {
          case 1: micro_of<T, kBytes, 1>(a, b, c, p.c_stride, p.depth, both); break;
          case 2: micro_of<T, kBytes, 2>(a, b, c, p.c_stride, p.depth, both); break;
          case 3: micro_of<T, kBytes, 3>(a, b, c, p.c_stride, p.depth, both); break;
          case 4: micro_of<T, kBytes, 4>(a, b, c, p.c_stride, p.depth, both); break;
          case 5: micro_of<T, kBytes, 5>(a, b, c, p.c_stride, p.depth, both); break;
          default: micro_of<T, kBytes, 6>(a, b, c, p.c_stride, p.depth, both);
        }
      }
    }
  }
}

// A vector's width is part of the code here, so that clones of one function would not do.
#if NK_HAS_MULTIVERSION
#define NK_TARGET(name) __attribute__((target(name)))
#define NK_WIDE(T)                 \
  NK_LEVEL(T, "arch=x86-64-v3", 32) \
  NK_LEVEL(T, "arch=x86-64-v4", 64)
#else
#define NK_TARGET(name)
#define NK_WIDE(T)
#endif
#define NK_LEVEL(T, level, bytes) \
  NK_TARGET(level) void product(const Slivers<T>& p, bool upper) { product_any<T, bytes>(p, upper); }
#define NK_VERSIONS(T)       \
  NK_LEVEL(T, "default", 16) \
  NK_WIDE(T)

NK_VERSIONS(float)
NK_VERSIONS(double)

}  // namespace

void add_slivers(const Slivers<float>& p, bool upper) { product(p, upper); }
void add_slivers(const Slivers<double>& p, bool upper) { product(p, upper); }

}  // namespace nk::rdm
