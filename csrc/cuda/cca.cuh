// Small matrices of double in shared memory, and what a block of threads does with them: products on matrix units, sums, inverse factors.
//
// Matrices are padded to whole tiles of eight. Rows lie an odd number of four doubles apart: what a warp reads for a product, along a row
// or across rows, then lies in different banks.
#pragma once

#include "cuda/device.cuh"

namespace nk::cca {

using device::kAll;
using device::lane;

constexpr int kThreads = 256, kMostTiles = 4;

__device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }

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

/// Who does what, without divisions: a power of two of threads, or of warps, side by side, whether there is work for all of them or not.
struct Square {
  int tiles, size;   // tiles a side, and elements a side
  int shift;         // of the power of two of elements
  int depth;         // the inner size of products, a multiple of 4: what is behind it is zero
  int tile_i, tile_j, tile_step;  // the first tile of a warp, in elements, and from row to row of them

  __device__ __forceinline__ Square(int tiles, int depth) : tiles(tiles), size(8 * tiles), depth(depth) {
    const int across = tiles <= 1 ? 0 : tiles <= 2 ? 1 : 2, warp = thread() / 32;
    shift = 3 + across;
    tile_i = warp >> across << 3, tile_j = (warp & ((1 << across) - 1)) << 3, tile_step = kThreads / 32 >> across << 3;
  }

  /// store(i, j, product) for all elements of a b, by all warps of the block. No barrier.
  template <class Store>
  __device__ __forceinline__ void product(Matrix a, Matrix b, Store store) const {
    if (tile_j >= size) return;
    NK_ROLLED
    for (int i = tile_i; i < size; i += tile_step) {
      double d[2];
      tile_product(a, b, i, tile_j, depth, d);
      store(i + lane() / 4, tile_j + lane() % 4 * 2, d[0]), store(i + lane() / 4, tile_j + lane() % 4 * 2 + 1, d[1]);
    }
  }
  /// out = a b. No barrier.
  __device__ __forceinline__ void multiply(Matrix a, Matrix b, Matrix out) const {
    product(a, b, [&](int i, int j, double x) { out(i, j) = x; });
  }
  /// Calls visit(i, j) for all elements, each in one thread.
  template <class Visit>
  __device__ __forceinline__ void each(Visit visit) const {
    const int j = thread() & ((1 << shift) - 1);
    if (j >= size) return;
    NK_ROLLED
    for (int i = thread() >> shift; i < size; i += kThreads >> shift) visit(i, j);
  }
};

/// The sum over all threads, in all threads; `room` is of as many doubles as there are warps, and is free again at the next barrier.
__device__ __forceinline__ double total(double mine, double* room) {
  mine = device::sum(mine);
  if (lane() == 0) room[thread() / 32] = mine;
  __syncthreads();
  double all = 0;
  for (int w = 0; w < kThreads / 32; ++w) all += room[w];
  return all;
}

/// A pivot below the ridge, which every eigenvalue is at least, is rounding, and becomes it.
__device__ __forceinline__ double floored(double pivot, double ridge) { return pivot < ridge ? ridge : pivot; }

/// The T of T S T' = I, lower triangular, of two matrices S at once, half of the threads for each. The lower triangles are read and used
/// up; the T are the identity at first. Elimination without square roots: nothing writes to row or column j in step j, so that one barrier a
/// step is enough.
__device__ __forceinline__ void invert(const Square& square, int d, Matrix s1, Matrix t1, double r1, Matrix s2, Matrix t2, double r2) {
  const bool other = thread() >= kThreads / 2;
  const int mine = thread() & (kThreads / 2 - 1), k = mine & ((1 << square.shift) - 1), step = kThreads / 2 >> square.shift;
  const Matrix s{s1.data + (other ? s2.data - s1.data : 0), s1.row, 1}, t{t1.data + (other ? t2.data - t1.data : 0), t1.row, 1};
  const double ridge = other ? r2 : r1;
  for (int j = 0; j < d - 1; ++j) {
    const double over = 1 / floored(s(j, j), ridge);
    // Row i takes its share of row j: in S right of column j, up to the diagonal, and in T up to column j.
    NK_ROLLED
    for (int i = j + 1 + (mine >> square.shift); i < d; i += step) {
      if (k > i) continue;
      const double share = s(i, j) * over;
      if (k <= j) t(i, k) -= share * t(j, k);
      else s(i, k) -= share * s(k, j);
    }
    __syncthreads();
  }
  NK_ROLLED
  for (int i = mine >> square.shift; i < d; i += step)
    if (k <= i) t(i, k) *= 1 / sqrt(floored(s(i, i), ridge));
  __syncthreads();
}

}  // namespace nk::cca
