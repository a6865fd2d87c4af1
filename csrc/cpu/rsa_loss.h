// What similarity losses do between products of matrices: unit patterns, the loss of a tile of pairs, and gradients of patterns.
//
// Results do not depend on the number of threads: every row has sums of its own, and those are added in their order.
#pragma once

#include <cstdint>

#include "cpu/moments.h"

namespace nk::rsa {

/// Layers side by side: the units of each, and whether the mean over units is subtracted from a pattern.
struct Layers {
  int64_t count;
  const int64_t* widths;
  bool centred;
};

/// `f` [items, rows, columns], dense, in the type that is computed in = root * z / |z| layer by layer, where z = x - mean of `mean`
/// [items, columns], or x where that is null, centred if layers are. `roots` [items, layers] in the type that is computed in; `norms`
/// [items, rows, layers] gets |z|.
void unit_rows(Dtype dtype, moments::In x, const void* mean, int64_t mean_item, const Layers& layers, const void* roots, void* f,
               void* norms, int threads);

/// The gradient of x, written over that of f in `df`, both [items, rows, columns] in the type that `dtype` computes in, as are roots and
/// norms. `shares` [items, rows, layers] gets the product of a layer's features and their gradients.
void unit_rows_gradient(Dtype dtype, int64_t items, int64_t rows, int64_t columns, const Layers& layers, const void* roots,
                        const void* norms, const void* f, void* df, double* shares, int threads);

/// Where the target of images i < j is: at data[i * row + j], or in a condensed vector of pairs of so many images if row is 0.
template <class T>
struct Target {
  const T* data;
  int64_t item, row, images;

  const T* of(int64_t b, int64_t i, int64_t j) const {
    const int64_t condensed = i * images - i * (i + 1) / 2 - i - 1;
    return data + b * item + (row ? i * row : condensed) + j;
  }
};

/// A tile of similarities: [items, rows, columns], one item after every `item` elements and one row after every `row`. On the diagonal it
/// is square, and pairs are those above its own diagonal.
template <class T>
struct Tile {
  T* data;
  int64_t items, rows, columns, item, row;
  bool diagonal;
};

struct LogOdds {
  double eps, weight;  // of the square of a difference
  bool flipped;        // targets are 1 - T
  bool bounded;        // targets are similarities with rounding beyond 1
};

/// The sums [items] of weight * (A(s) - A(t))^2, A(x) = log(1 + x + eps) - log(1 - x + eps), over the pairs of a tile whose first pair is
/// that of images `first_row` and `first_column` in the target. With `gradient` the tile becomes the derivative by similarities, symmetric
/// and zero on its diagonal if it is on the diagonal.
template <class T>
void log_odds(const Tile<T>& tile, const Target<T>& target, int64_t first_row, int64_t first_column, const LogOdds& how, bool gradient,
              double* sums, int threads);

}  // namespace nk::rsa
