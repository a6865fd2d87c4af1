// The polar factor of a matrix whose singular values are at most 1, by polynomials of products alone.
#pragma once

#include "cpu/dense.h"

namespace nk::dense {

enum class Precision { kHigh, kFast };

/// Turns m, [rows, columns] with rows >= columns, into its polar factor U V' of m = U S V': zero singular values stay zero as far as they
/// belong to rows or columns of zeros. `other` has the size of m; `gram` and `polynomial` are [columns, columns]. `again` allows to go on
/// where singular values are smaller than the steps are made for. Returns whether all of them came to 1.
template <class T>
bool polar(Matrix<T>& m, Matrix<T>& other, const Matrix<T>& gram, const Matrix<T>& polynomial, Precision precision, int again, int threads);

}  // namespace nk::dense
