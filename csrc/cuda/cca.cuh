// Small matrices of double in shared memory, and what a block of threads does with them: products on matrix units, sums, inverse factors.
//
// Matrices are padded to whole tiles of eight. Rows lie an odd number of four doubles apart: what a warp reads for a product, along a row or
// across rows, then lies in different banks.
#pragma once

#include "cuda/device.cuh"

namespace nk::cca {

using device::kAll;
using device::lane;

constexpr int kThreads = 256, kMostTiles = 4;

__device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ constexpr int threads() { return kThreads; }

/// A matrix, or its transpose, by strides.
struct Matrix {
  double* data;
  int row, column;

  __device__ __forceinline__ double& operator()(int i, int j) const { return data[i * row + j * column]; }
  __device__ __forceinline__ Matrix t() const { return {data, column, row}; }
};

/// A tile of a b, 8 by 8 from (i, j) on, where the inner size is `depth`, a multiple of 4: (g, 2t) and (g, 2t + 1) in lane (g, t).
/// Two sums, as one waits for the one before.
__device__ __forceinline__ void tile_product(Matrix a, Matrix b, int i, int j, int depth, double (&d)[2]) {
  const int g = lane() / 4, t = lane() % 4;
  double other[2] = {0, 0};
  d[0] = d[1] = 0;
  int k = 0;
  for (; k + 8 <= depth; k += 8) {
    device::multiply_add(d, a(i + g, k + t), b(k + t, j + g));
    device::multiply_add(other, a(i + g, k + 4 + t), b(k + 4 + t, j + g));
  }
  if (k < depth) device::multiply_add(d, a(i + g, k + t), b(k + t, j + g));
  d[0] += other[0], d[1] += other[1];
}

/// store(i, j, product) for all elements of a b of `tiles` tiles a side, by all warps of the block. No barrier.
template <class Store>
__device__ __forceinline__ void product(int tiles, int depth, Matrix a, Matrix b, Store store) {
  NK_ROLLED
  for (int tile = thread() / 32; tile < tiles * tiles; tile += threads() / 32) {
    const int i = tile / tiles * 8, j = tile % tiles * 8;
    double d[2];
    tile_product(a, b, i, j, depth, d);
    store(i + lane() / 4, j + lane() % 4 * 2, d[0]), store(i + lane() / 4, j + lane() % 4 * 2 + 1, d[1]);
  }
}

/// out = a b. No barrier.
__device__ __forceinline__ void multiply(int tiles, int depth, Matrix a, Matrix b, Matrix out) {
  product(tiles, depth, a, b, [&](int i, int j, double x) { out(i, j) = x; });
}

/// Calls visit(i, j) for all elements of a square, each in one thread.
template <class Visit>
__device__ __forceinline__ void each(int size, Visit visit) {
  for (int at = thread(); at < size * size; at += threads()) visit(at / size, at % size);
}

/// The sum over all threads, in all threads; `room` is of as many doubles as there are warps, and is free again at the next barrier.
__device__ __forceinline__ double total(double mine, double* room) {
  mine = device::sum(mine);
  if (lane() == 0) room[thread() / 32] = mine;
  __syncthreads();
  double all = 0;
  for (int w = 0; w < threads() / 32; ++w) all += room[w];
  return all;
}

/// A symmetric matrix S, of which the lower triangle is read and used up, the T of T S T' = I, lower triangular and at first the identity, and
/// what every eigenvalue of S is at least: a pivot below that is rounding, and becomes it.
struct Factored {
  Matrix s, t;
  double ridge;

  __device__ __forceinline__ double pivot(int j) const {
    const double found = s(j, j);
    return found < ridge ? ridge : found;
  }
  /// What row i takes of row j: in S right of column j, up to the diagonal, and in T up to column j.
  __device__ __forceinline__ void eliminate(int j, int i, int k, double over) const {
    const double share = s(i, j) * over;
    if (k <= j) t(i, k) -= share * t(j, k);
    else if (k <= i) s(i, k) -= share * s(k, j);
  }
  __device__ __forceinline__ void scale(int i, int k) const { t(i, k) *= 1 / sqrt(pivot(i)); }
};

/// Both T, by elimination without square roots: row j and column j are not written to in step j, so one barrier per step is enough.
__device__ __forceinline__ void invert(int d, int size, const Factored& first, const Factored& second) {
  for (int j = 0; j < d - 1; ++j) {
    const double over = 1 / first.pivot(j), other = 1 / second.pivot(j);
    const int elements = (d - 1 - j) * d;
    NK_ROLLED
    for (int at = thread(); at < 2 * elements; at += threads()) {
      const int rest = at < elements ? at : at - elements, i = j + 1 + rest / d, k = rest % d;
      if (at < elements) first.eliminate(j, i, k, over);
      else second.eliminate(j, i, k, other);
    }
    __syncthreads();
  }
  each(size, [&](int i, int k) {
    if (i < d) first.scale(i, k), second.scale(i, k);
  });
  __syncthreads();
}

}  // namespace nk::cca
