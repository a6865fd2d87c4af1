// Products of panels that fit a cache, by a micro-kernel per instruction set (covariance_gram.cpp).
#pragma once

#include <cstdint>

namespace nk::moments {

/// Columns of a vector register of 64 bytes. Panels have whole lines of so many columns, whatever the instruction set.
template <class T>
constexpr int64_t kLine = 64 / sizeof(T);

/// Of a [rows, depth] or, read transposed, [depth, rows], and b [depth, columns] to c [rows, columns]; `stride` elements lie between rows
/// of each. All three have room for rows and columns up to a multiple of kLine: what lies there is touched, and means nothing.
template <class T>
struct Product {
  const T *a, *b;
  T* c;
  int64_t a_stride, b_stride, c_stride;
  int rows, columns, depth;
};

/// c += a' b. With `upper` what lies below the diagonal of c may be left out.
void add_gram(const Product<float>& p, bool upper);
void add_gram(const Product<double>& p, bool upper);

/// c += a b, with `upper` as above.
void add_product(const Product<float>& p, bool upper);
void add_product(const Product<double>& p, bool upper);

/// c = a b.
void set_product(const Product<float>& p);
void set_product(const Product<double>& p);

}  // namespace nk::moments
