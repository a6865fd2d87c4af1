// Register-blocked products. This file alone is compiled with fused multiply-adds: they are half of its speed, and no result of it is
// promised bit for bit.
#include "cpu/covariance_gram.h"

#include <algorithm>
#include <cstring>

#include "common/multiversion.h"

namespace nk::moments {
namespace {

/// A register of the instruction set, as GCC and Clang have them.
template <class T, int kBytes>
struct Register {
  typedef T type __attribute__((vector_size(kBytes)));
};

/// c [kRows, kVectors] += a' b or a b, or = a b, all of it in registers for the whole depth.
template <bool kTransposed, bool kAdd, class T, int kBytes, int kRows, int kVectors>
NK_INLINE void micro(const T* a, const T* b, T* c, int64_t a_stride, int64_t b_stride, int64_t c_stride, int depth) {
  using V = typename Register<T, kBytes>::type;
  constexpr int kWidth = kBytes / sizeof(T);
  V sum[kRows][kVectors] = {};
  for (int k = 0; k < depth; ++k) {
    V right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) std::memcpy(&right[v], b + v * kWidth, sizeof(V));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const T left = kTransposed ? a[r] : a[r * a_stride];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] += left * right[v];
    }
    a += kTransposed ? a_stride : 1;
    b += b_stride;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      V value = {};
      T* at = c + r * c_stride + v * kWidth;
      if (kAdd) std::memcpy(&value, at, sizeof(V));
      value += sum[r][v];
      std::memcpy(at, &value, sizeof(V));
    }
  }
}

/// All of a product: columns by up to three registers, which stay in the L1 cache while the rows of c pass by.
template <bool kTransposed, bool kAdd, class T, int kBytes, int kRows>
NK_INLINE void product_any(const Product<T>& p, bool upper) {
  constexpr int kWidth = kBytes / sizeof(T);
  const int vectors = (p.columns + kWidth - 1) / kWidth;
  int next = 0;
  for (int start = 0; start < vectors; start = next) {
    const int left = vectors - start;
    next = start + (left == 4 || left == 2 ? 2 : std::min(left, 3));  // 2 + 2 rather than 3 + 1, which leaves multipliers idle
    for (int row = 0; row < p.rows; row += kRows) {
      const int first = upper ? std::max(start, row / kWidth) : start;
      if (first >= next) break;
      const T *a = p.a + (kTransposed ? row : row * p.a_stride), *b = p.b + first * kWidth;
      T* c = p.c + row * p.c_stride + first * kWidth;
      switch (next - first) {
        case 3: micro<kTransposed, kAdd, T, kBytes, kRows, 3>(a, b, c, p.a_stride, p.b_stride, p.c_stride, p.depth); break;
        case 2: micro<kTransposed, kAdd, T, kBytes, kRows, 2>(a, b, c, p.a_stride, p.b_stride, p.c_stride, p.depth); break;
        default: micro<kTransposed, kAdd, T, kBytes, kRows, 1>(a, b, c, p.a_stride, p.b_stride, p.c_stride, p.depth);
      }
    }
  }
}

// A vector's width is part of the code here, so that clones of one function would not do.
#if NK_HAS_MULTIVERSION
#define NK_TARGET(name) __attribute__((target(name)))
#define NK_WIDE(T)                          \
  NK_LEVEL(T, "arch=x86-64-v3", 32, 4)      \
  NK_LEVEL(T, "arch=x86-64-v4", 64, 8)
#else
#define NK_TARGET(name)
#define NK_WIDE(T)
#endif
#define NK_LEVEL(T, level, bytes, rows)                                                                               \
  NK_TARGET(level) void gram(const Product<T>& p, bool upper) { product_any<true, true, T, bytes, rows>(p, upper); }  \
  NK_TARGET(level) void more(const Product<T>& p, bool upper) { product_any<false, true, T, bytes, rows>(p, upper); } \
  NK_TARGET(level) void product(const Product<T>& p) { product_any<false, false, T, bytes, rows>(p, false); }
#define NK_VERSIONS(T)             \
  NK_LEVEL(T, "default", 16, 4)    \
  NK_WIDE(T)

NK_VERSIONS(float)
NK_VERSIONS(double)

}  // namespace

void add_gram(const Product<float>& p, bool upper) { gram(p, upper); }
void add_gram(const Product<double>& p, bool upper) { gram(p, upper); }
void add_product(const Product<float>& p, bool upper) { more(p, upper); }
void add_product(const Product<double>& p, bool upper) { more(p, upper); }
void set_product(const Product<float>& p) { product(p); }
void set_product(const Product<double>& p) { product(p); }

}  // namespace nk::moments
