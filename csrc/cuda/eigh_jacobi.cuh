// Hestenes' one-sided Jacobi on a symmetric matrix in the registers of a warp, or of the warps of a block: values and vectors at once.
//
// Columns of W = A + s I, with a shift s that makes it positive semidefinite, are rotated until they are orthogonal. Then
// W = V diag(lambda + s): the norms are the values, the normalised columns the vectors. Column j meets column j ^ r in round r of a sweep.
// It is held by lane j % 32 in register group j / 32, so that a partner is a shuffle away; of its rows each warp of the block holds a
// part, and only inner products are summed across warps, through shared memory and one barrier in a round.
//
// A pair is also sorted, the longer column first (de Rijk 1989): without it clusters of eigenvalues converge linearly. The same method
// in Triton, with what was measured of its accuracy: neurokernels/ops/spectrum (triton_jacobi.py, README.md).
#pragma once

#include "cuda/device.cuh"

namespace nk::eigh {

using namespace nk::device;

/// [count] matrices [size, size] of which the lower triangle is read, by strides in elements, to values [count, size], ascending, and
/// vectors [count, size, size] in columns, or null.
struct Eigh {
  const void* a;
  void *values, *vectors;
  int64_t count, batch, row, column;
  int size, sweeps, positive, unused;
};

template <class T>
struct Real;
template <>
struct Real<float> {
  static constexpr float kEps = 1.1920929e-07f;
  static __device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
  /// Powers of two to and from about 2^10: far from both ends, also when products are squared.
  static __device__ __forceinline__ void scales(float largest, float& down, float& up) {
    const int exponent = min(max(__float_as_int(largest) >> 23 & 255, 11), 254);
    down = __int_as_float((264 - exponent) << 23), up = __int_as_float((exponent - 10) << 23);
  }
};
template <>
struct Real<double> {
  static constexpr double kEps = 2.220446049250313e-16;
  static __device__ __forceinline__ double infinity() { return __longlong_as_double(0x7ff0000000000000); }
  static __device__ __forceinline__ void scales(double largest, double& down, double& up) {
    const long long exponent = min(max(static_cast<int>(__double_as_longlong(largest) >> 52 & 2047), 11), 2046);
    down = __longlong_as_double((2056 - exponent) << 52), up = __longlong_as_double((exponent - 10) << 52);
  }
};

/// Squares of cosines, times 4: above `turns` a pair is turned, and above `stays` another sweep follows. The last sweep, which finds no
/// pair above the larger one (their order no longer matters), so brings the columns as close as rounding allows.
template <class T>
struct Tolerance {
  T turns, stays;
};

/// What becomes of a column, own * w + other * partner, and its squared norm.
template <class T>
struct Turn {
  T own, other, norm;
  bool moves, far;
};

/// The rotation that makes two columns orthogonal, the longer one first; none unless the matrix is `live`. Both partners find the same
/// angle.
///
/// The round waits for it, so it is a chain without branches, roots and divisions. Half of a tangent's digits suffice: what is left of the
/// inner product is the next sweep's. But cos^2 + sin^2 must be 1, or norms drift: the cosine is 1 - u, and of an estimate of u one step
/// of Newton's for (1 - u)^2 (1 + tan^2) = 1 leaves rounding only.
template <class T>
__device__ __forceinline__ Turn<T> turn(T norm, T other, T dot, bool first, bool live, Tolerance<T> tolerance) {
  const T gap = other - norm, twice = 2 * dot, cross = twice * twice, product = norm * other;
  const bool rotates = live && cross > tolerance.turns * product, swaps = live && (first ? gap > 0 : gap < 0);
  const T distance = fma(gap, gap, cross);
  T tangent = twice * half_reciprocal(fma(distance, half_reciprocal_root(distance), fabs(gap)));
  tangent = gap < 0 || (gap == 0 && !first) ? -tangent : tangent;
  tangent = rotates ? tangent : T(0);
  const T square = tangent * tangent, estimate = half_reciprocal_root(1 + square), near = 1 - estimate;
  const T both = fma(-near, near, 2 * near), u = fma(fma(-both, square, square - both), T(0.5) * estimate, near);
  const T cosine = 1 - u, sine = fma(-tangent, u, tangent), change = tangent * dot;
  const bool far = live && cross > tolerance.stays * product;
  return {swaps ? sine : cosine, swaps ? cosine : -sine, swaps ? other + change : norm - change, rotates || swaps, far};
}

/// GROUPS columns of each lane, ROWS rows of them; PARTS warps hold a matrix, or one holds 32 / SIZE of them. With REFETCH a partner's
/// column is fetched a second time for the update: half of the registers.
template <class T, int SIZE, int GROUPS, int ROWS, int PARTS, bool REFETCH>
struct Solver {
  static constexpr int kLanes = SIZE < 32 ? SIZE : 32, kThreads = 32 * PARTS;
  static constexpr int kBytes = PARTS > 1 ? (2 * PARTS * GROUPS * 32 + 2) * static_cast<int>(sizeof(T)) : 0;

  T w[GROUPS][ROWS], norms[GROUPS];
  T* sums;  // [2][PARTS][GROUPS * 32]: of the last round and of this one; then two numbers that wait for the end
  int phase, part;

  __device__ __forceinline__ T* buffer() const { return sums + phase * PARTS * GROUPS * 32 + lane(); }

  /// The sum over the warps of the block, in their order, of what they left for a column of group k before the last barrier.
  __device__ __forceinline__ T left_for(int k) const {
    T total = 0;
    NK_UNROLL_BY(4)
    for (int q = 0; q < PARTS; ++q) total += buffer()[(q * GROUPS + k) * 32];
    return total;
  }
  __device__ __forceinline__ void leave(int k, T x) const { buffer()[(part * GROUPS + k) * 32] = x; }

  /// The same for a value of every column at once.
  __device__ __forceinline__ void across(T (&x)[GROUPS]) {
    if constexpr (PARTS > 1) {
      NK_UNROLL
      for (int k = 0; k < GROUPS; ++k) leave(k, x[k]);
      __syncthreads();
      NK_UNROLL
      for (int k = 0; k < GROUPS; ++k) x[k] = left_for(k);
      phase ^= 1;
    }
  }

  /// The largest of a value for each column of a matrix, in all of its threads; it is the same in all parts.
  __device__ __forceinline__ T largest(const T (&x)[GROUPS]) const {
    T most = x[0];
    NK_UNROLL
    for (int k = 1; k < GROUPS; ++k) most = max(most, x[k]);
    NK_UNROLL
    for (int bit = 1; bit < kLanes; bit *= 2) most = max(most, __shfl_xor_sync(kAll, most, bit));
    return most;
  }
  __device__ __forceinline__ T total(const T (&x)[GROUPS]) const {
    T all = x[0];
    NK_UNROLL
    for (int k = 1; k < GROUPS; ++k) all += x[k];
    NK_UNROLL
    for (int bit = 1; bit < kLanes; bit *= 2) all += __shfl_xor_sync(kAll, all, bit);
    return all;
  }

  /// Whether it is so in a lane of the same matrix; all parts say the same.
  __device__ __forceinline__ static bool across_lanes(bool x) {
    const unsigned group = kLanes == 32 ? kAll : ((1u << kLanes % 32) - 1) << lane() / kLanes * kLanes;
    return (__ballot_sync(kAll, x) & group) != 0;
  }

  /// Several sums side by side: one would be a chain.
  __device__ __forceinline__ static T dot(const T (&x)[ROWS], const T (&y)[ROWS]) {
    constexpr int kSums = REFETCH ? 2 : 4;
    T some[kSums] = {};
    NK_UNROLL
    for (int i = 0; i < ROWS; ++i) some[i % kSums] = fma(x[i], y[i], some[i % kSums]);
    return REFETCH ? some[0] + some[1] : (some[0] + some[1]) + (some[kSums - 2] + some[kSums - 1]);
  }
  __device__ __forceinline__ void fetch(int k, int r, T (&other)[ROWS]) const {
    NK_UNROLL
    for (int i = 0; i < ROWS; ++i) other[i] = __shfl_xor_sync(kAll, w[k][i], r);
  }
  __device__ __forceinline__ void fresh_norms() {
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k) norms[k] = dot(w[k], w[k]);
    across(norms);
  }

  /// An upper bound of the norm of W, by the rows and by the Frobenius norm of W^2, whose elements are inner products of columns.
  __device__ __forceinline__ T norm() {
    T rows[GROUPS], squares[GROUPS];
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k) rows[k] = squares[k] = 0;
    NK_UNROLL
    for (int group = 0; group < GROUPS; ++group) {
      NK_ROLLED
      for (int r = 0; r < kLanes; ++r) {
        T dots[GROUPS];
        NK_UNROLL
        for (int k = 0; k < GROUPS; ++k) {
          T other[ROWS];
          fetch(k ^ group, r, other);
          dots[k] = dot(w[k], other);
        }
        across(dots);
        NK_UNROLL
        for (int k = 0; k < GROUPS; ++k) rows[k] += fabs(dots[k]), squares[k] = fma(dots[k], dots[k], squares[k]);
      }
    }
    return sqrt(min(largest(rows), sqrt(total(squares))));
  }

  /// What makes the matrix positive: by Gershgorin's discs, at most a bound of the norm, and a little for rounding.
  __device__ __forceinline__ T shift(bool positive) {
    T row[GROUPS], low[GROUPS];
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k) {
      row[k] = low[k] = 0;
      NK_UNROLL
      for (int i = 0; i < ROWS; ++i) {
        row[k] += fabs(w[k][i]);
        if (part * ROWS + i == k * 32 + lane() % kLanes) low[k] = -fabs(w[k][i]) - w[k][i];
      }
    }
    across(row);
    across(low);
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k) low[k] = max(low[k] + row[k], T(0));
    const T little = Real<T>::kEps * (1024 * SIZE + 8 * largest(row));
    if (positive) return little;
    return little + min(largest(low), norm());
  }

  /// Column j meets column j ^ (r + 32 GROUP). Returns whether one of this lane's asks for another sweep.
  template <int GROUP>
  __device__ __forceinline__ bool meet(int r, bool live, Tolerance<T> tolerance) {
    T others[REFETCH ? 1 : GROUPS][ROWS], dots[GROUPS];
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k) {
      T(&other)[ROWS] = others[REFETCH ? 0 : k];
      fetch(k ^ GROUP, r, other);
      dots[k] = dot(w[k], other);
      if (PARTS > 1) leave(k, dots[k]);
    }
    if (PARTS > 1) __syncthreads();
    bool far = false;
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k) {
      if (k > (k ^ GROUP)) continue;  // its partner has turned it
      constexpr int kSides = GROUP ? 2 : 1;
      Turn<T> turns[kSides];
      bool moves = false;
      NK_UNROLL
      for (int side = 0; side < kSides; ++side) {
        const int mine = side ? k ^ GROUP : k;
        const bool first = GROUP ? side == 0 : lane() < (lane() ^ r);
        const T dot = PARTS > 1 ? left_for(mine) : dots[mine];
        turns[side] = turn(norms[mine], __shfl_xor_sync(kAll, norms[mine ^ GROUP], r), dot, first, live, tolerance);
        moves |= turns[side].moves, far |= turns[side].far;
      }
      if (!__any_sync(kAll, moves)) continue;
      NK_UNROLL
      for (int i = 0; i < ROWS; ++i) {
        T fresh[kSides];
        NK_UNROLL
        for (int side = 0; side < kSides; ++side) {
          const int mine = side ? k ^ GROUP : k;
          const T other = REFETCH ? __shfl_xor_sync(kAll, w[mine ^ GROUP][i], r) : others[REFETCH ? 0 : mine][i];
          fresh[side] = fma(turns[side].own, w[mine][i], turns[side].other * other);
        }
        NK_UNROLL
        for (int side = 0; side < kSides; ++side) w[side ? k ^ GROUP : k][i] = fresh[side];
      }
      NK_UNROLL
      for (int side = 0; side < kSides; ++side) norms[side ? k ^ GROUP : k] = turns[side].norm;
    }
    phase ^= 1;
    return far;
  }

  template <int GROUP>
  __device__ __forceinline__ bool rounds(bool live, Tolerance<T> tolerance) {
    bool far = false;
    NK_ROLLED
    for (int r = GROUP ? 0 : 1; r < kLanes; ++r) far |= meet<GROUP>(r, live, tolerance);
    if constexpr (GROUP + 1 < GROUPS) far |= rounds<GROUP + 1>(live, tolerance);
    return far;
  }

  __device__ __forceinline__ void run(const Eigh& p, unsigned char* memory) {
    sums = reinterpret_cast<T*>(memory);
    phase = 0, part = static_cast<int>(threadIdx.x) / 32;
    const int size = p.size, mine = lane() % kLanes;
    const int64_t matrix = int64_t{blockIdx.x} * (32 / kLanes) + lane() / kLanes;
    const bool exists = matrix < p.count;
    const T* const a = static_cast<const T*>(p.a) + (exists ? matrix : 0) * p.batch;
    T top[GROUPS], broken[GROUPS];
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k) {
      top[k] = 0;
      const int j = k * 32 + mine;
      bool all_finite = true;
      NK_UNROLL
      for (int i = 0; i < ROWS; ++i) {
        const int row = part * ROWS + i;
        const bool there = exists && j < size && row < size;
        const T x = there ? a[max(row, j) * p.row + min(row, j) * p.column] : T(0);
        const bool finite = fabs(x) < Real<T>::infinity();
        all_finite &= finite;
        top[k] = max(top[k], finite ? fabs(x) : T(0));
        w[k][i] = x;
      }
      broken[k] = all_finite ? T(0) : T(1);
    }
    forget(part);
    across(broken);
    if constexpr (PARTS > 1) across(top);  // the sum of what is largest in each part: within a few powers of two
    const bool spoilt = largest(broken) > 0;
    T down, up;
    Real<T>::scales(largest(top), down, up);
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k)
      NK_UNROLL
      for (int i = 0; i < ROWS; ++i) w[k][i] = spoilt ? T(0) : w[k][i] * down;
    const T s = shift(p.positive);
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k)
      NK_UNROLL
      for (int i = 0; i < ROWS; ++i)
        if (part * ROWS + i == k * 32 + mine && k * 32 + mine < size) w[k][i] += s;

    forget(part);  // the rows of this thread are counted again at the end
    T* const waiting = sums + 2 * PARTS * GROUPS * 32;
    if (spoilt) up = Real<T>::infinity() - Real<T>::infinity();
    if (PARTS > 1 && threadIdx.x == 0) waiting[0] = s, waiting[1] = up;
    const T turns = Real<T>::kEps, stays = turns * (1 + T(SIZE) / 16);
    bool live = true;  // others in the warp may take longer, and a matrix that is done leaves them its bits
    for (int done = 0; done < p.sweeps && (kLanes == 32 ? live : __any_sync(kAll, live)); ++done) {
      fresh_norms();  // rotations update them
      live = across_lanes(rounds<0>(live, {4 * turns * turns, 4 * stays * stays}));
    }
    fresh_norms();
    const T lift = PARTS > 1 ? waiting[0] : s, back = PARTS > 1 ? waiting[1] : up;
    const bool good = back == back;
    T values[GROUPS];
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k) values[k] = k * 32 + mine < size ? (sqrt(norms[k]) - lift) * (good ? back : T(1)) : Real<T>::infinity();
    int block = static_cast<int>(blockIdx.x);
    forget(block);
    NK_UNROLL
    for (int k = 0; k < GROUPS; ++k) write(p, int64_t{block} * (32 / kLanes) + lane() / kLanes, good, values, k, rank(values, k));
  }

  /// The place of the value of group k in ascending order, equal ones by their column.
  __device__ __forceinline__ int rank(const T (&values)[GROUPS], int k) const {
    int found = 0;
    NK_UNROLL
    for (int q = 0; q < GROUPS; ++q) {
      NK_ROLLED
      for (int r = 0; r < kLanes; ++r) {
        const T value = __shfl_xor_sync(kAll, values[q], r);
        const bool earlier = q < k || (q == k && (lane() ^ r) < lane());
        found += value < values[k] || (value == values[k] && earlier);
      }
    }
    return found;
  }

  __device__ __forceinline__ void write(const Eigh& p, int64_t matrix, bool good, const T (&values)[GROUPS], int k, int place) const {
    if (matrix >= p.count || k * 32 + lane() % kLanes >= p.size) return;
    const T nan = Real<T>::infinity() - Real<T>::infinity();
    if (part == 0) static_cast<T*>(p.values)[matrix * p.size + place] = good ? values[k] : nan;
    if (!p.vectors) return;
    const T length = sqrt(norms[k]);
    T* const column = static_cast<T*>(p.vectors) + matrix * p.size * p.size + place;
    NK_UNROLL
    for (int i = 0; i < ROWS; ++i) {
      const int row = part * ROWS + i;
      if (row < p.size) column[static_cast<int64_t>(row) * p.size] = good ? w[k][i] / length : nan;
    }
  }
};

}  // namespace nk::eigh
