// Products of dense matrices, and inverse Cholesky factors, on the register-blocked micro-kernel of the covariance.
//
// Every element is a sum over the same blocks in the same order, whatever the tiles: results do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "cpu/covariance_gram.h"
#include "cpu/scratch.h"

namespace nk::dense {

using moments::kLine;

/// Elements between rows of n columns: an odd number of lines spreads a column over all sets of a cache.
template <class T>
constexpr int64_t stride_of(int64_t n) {
  return ((n + kLine<T> - 1) / kLine<T> | 1) * kLine<T>;
}

/// A matrix with room for rows and columns up to a multiple of kLine: what lies there is touched, and means nothing. Parts of a matrix
/// begin and end at such multiples, or at its end.
template <class T>
struct Matrix {
  T* data;
  int64_t rows, columns, stride;

  T* row(int64_t i) const { return data + i * stride; }
  Matrix part(int64_t i, int64_t j, int64_t m, int64_t n) const { return {row(i) + j, m, n, stride}; }
};

/// Memory for matrices that are taken from it one after the other.
template <class T>
class Arena {
 public:
  explicit Arena(int64_t size) : memory_(size * static_cast<int64_t>(sizeof(T))), next_(static_cast<T*>(memory_.data())) {}
  static int64_t size_of(int64_t rows, int64_t columns) { return (rows + kLine<T> - 1) / kLine<T> * kLine<T> * stride_of<T>(columns); }
  Matrix<T> take(int64_t rows, int64_t columns) {
    const Matrix<T> taken{next_, rows, columns, stride_of<T>(columns)};
    next_ += size_of(rows, columns);
    return taken;
  }

 private:
  Scratch memory_;
  T* next_;
};

/// What is known to be zero in a product and left out: beyond the diagonal of the left factor as it stands there, or of the right one.
enum class Zeros { kNone, kRightOfLeft, kLeftOfLeft, kBelowRight, kAboveRight };

/// c = scale * product + by * added + identity * I.
template <class T>
struct Product {
  Matrix<T> a, b, c;
  bool transposed = false;  // a' b rather than a b
  bool symmetric = false;   // half of it is computed, and written twice
  Zeros zeros = Zeros::kNone;
  T scale = 1;
  const Matrix<T>* added = nullptr;  // may be c itself
  T by = 0, identity = 0;

  bool plain() const { return !symmetric && scale == 1 && !added && identity == 0; }
};

/// c is neither a nor b.
template <class T>
void multiply(const Product<T>& p, int threads);

/// The sum of the products of elements, in double.
template <class T>
double inner(const Matrix<T>& a, const Matrix<T>& b);

/// to = from', of any strides.
template <class T>
void transpose(const Matrix<T>& from, const Matrix<T>& to);

/// For a symmetric s, of which the upper triangle is read and all is overwritten: the upper triangular u with u' s u = I. `u` comes in
/// zero. `work` has the size of s. Returns the least share of a variance that the columns before it do not explain; not above 0, or NaN,
/// if s is not positive definite as far as rounding can tell, and then u is nothing.
template <class T>
T inverse_root(const Matrix<T>& s, const Matrix<T>& u, const Matrix<T>& work, int threads);

}  // namespace nk::dense
