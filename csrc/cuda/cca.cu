// The objective of canonical correlation for two small views, and its gradient: one launch each. See neurokernels/ops/cca/README.md.
//
// A block takes one item and does everything in double and in shared memory. Steps are those of neurokernels/ops/cca/triton_small.py.
#include "cuda/cca.cuh"

namespace nk::cca {
namespace {

enum Objective : int { kNuclear = 0, kTopk = 1, kFro2 = 2 };  // as leaves.py has them
enum Dtype : int { kFloat32 = 0, kFloat64 = 1, kBfloat16 = 2, kFloat16 = 3 };  // as neurokernels/_core/covariance_cpu.py has them

/// Samples [items, n, columns] of any strides, in elements.
struct View {
  const void* data;
  int64_t item, row, column;
};

/// Both views of one item, side by side: columns of y begin at `second`, those between do not exist.
struct Views {
  View x, y;
  int64_t item;
  int d1, d2, second, dtype;
};

/// Calls call(S{}) for the type of samples: around loops, so that they are made for each.
template <class Call>
__device__ __forceinline__ void with_type(int dtype, Call call) {
  switch (dtype) {
    case kFloat32: return call(float{});
    case kFloat64: return call(double{});
    case kBfloat16: return call(device::Bfloat16{});
    default: return call(device::Float16{});
  }
}

/// Column j of both views: where it begins, or null.
template <class S>
struct Column {
  const S* data = nullptr;
  int64_t row = 0;

  __device__ __forceinline__ Column(const Views& views, int j) {
    // By its numbers: a choice between the structs themselves would put them into memory.
    const bool other = j >= views.second;
    const int64_t item = other ? views.y.item : views.x.item, step = other ? views.y.column : views.x.column;
    const int own = other ? j - views.second : j;
    row = other ? views.y.row : views.x.row;
    const S* from = static_cast<const S*>(other ? views.y.data : views.x.data);
    if (own < (other ? views.d2 : views.d1)) data = from + views.item * item + own * step;
  }
  __device__ __forceinline__ double operator()(int i) const { return static_cast<double>(device::widen(data[i * row])); }
};

/// Calls take(i, load(i)) for i = begin, begin + step and so on below `end`, with many loads under way at once.
template <class Load, class Take>
__device__ __forceinline__ void batched(int begin, int end, int step, Load load, Take take) {
  constexpr int kBatch = 16;
  NK_ROLLED
  for (int base = begin; base < end; base += kBatch * step) {
    double value[kBatch];
    NK_UNROLL
    for (int u = 0; u < kBatch; ++u) value[u] = base + u * step < end ? load(base + u * step) : 0;
    NK_UNROLL
    for (int u = 0; u < kBatch; ++u)
      if (base + u * step < end) take(base + u * step, value[u]);
  }
}

/// Samples relative to the first one, of `rows` rows from `begin` on, to a matrix of `columns` columns, at most 1 << shift; zero where
/// there is none, and in rows up to `depth`. No barrier.
__device__ __forceinline__ void stage(const Views& views, int begin, int rows, int depth, int columns, int shift, Matrix z) {
  const int j = thread() & ((1 << shift) - 1);
  if (j >= columns) return;
  with_type(views.dtype, [&](auto type) {
    const Column<decltype(type)> column(views, j);
    const double first = column.data ? column(0) : 0;
    const auto load = [&](int i) { return i < rows && column.data ? column(begin + i) : first; };
    batched(thread() >> shift, depth, kThreads >> shift, load, [&](int i, double x) { z(i, j) = x - first; });
  });
}

/// Values, means and weights are float64 for float64 samples, and float32 for any other.
__device__ __forceinline__ void store(void* to, int dtype, int64_t at, double x) {
  if (dtype == kFloat64) static_cast<double*>(to)[at] = x;
  else static_cast<float*>(to)[at] = static_cast<float>(x);
}
__device__ __forceinline__ double load(const void* from, int dtype, int64_t at) {
  return dtype == kFloat64 ? static_cast<const double*>(from)[at] : static_cast<double>(static_cast<const float*>(from)[at]);
}

constexpr int kSteps = 7, kPasses = 2;
constexpr int kPairs = 5;  // tiles of the joint covariance of a warp: 36 among 8 warps
constexpr int kMatrices = 10;

struct Forward {
  View x, y;
  void *value, *weights, *mean;  // [items], [items, d1 + d2, d1 + d2] or null, [items, d1 + d2]
  double r1, r2;
  double steps[kSteps][3];  // W <- a W + b W A + c W A^2, A = W' W
  int32_t n, d1, d2, tiles, rows, objective, k, dtype;  // rows: of samples in shared memory at a time, a multiple of 8
};

/// Where everything lies: two arrays of columns, sums of warps, and matrices of `tiles` tiles a side; samples lie over the last ones first.
struct Memory {
  double *means, *variances, *room;
  Matrix of[kMatrices];

  __device__ __forceinline__ Memory(unsigned char* bytes, int tiles) {
    means = reinterpret_cast<double*>(bytes), variances = means + 16 * kMostTiles, room = variances + 16 * kMostTiles;
    const int row = 8 * tiles + 4;
    double* next = room + kThreads / 32;
    NK_UNROLL
    for (int i = 0; i < kMatrices; ++i, next += 8 * tiles * row) of[i] = {next, row, 1};
  }
};

/// The joint covariance, into the matrices s11, s12, s22 without ridges, and the means relative to the first sample. Columns of x are
/// padded to whole tiles, and those of y follow.
__device__ __forceinline__ void moments(const Forward& p, const Views& views, int shift, double* means, double* samples, Matrix s11,
                                        Matrix s12, Matrix s22) {
  const int half = 8 * p.tiles, columns = 2 * half, parts = 2 * p.tiles, warp = thread() / 32, g = lane() / 4, t = lane() % 4;
  const Matrix z{samples, columns + 4, 1};
  const int column = thread() / 4;  // whose sum this thread helps to make, in a quarter of the rows
  double sums[kPairs][2] = {}, others[kPairs][2] = {}, mean = 0;  // two sums of each, as one waits for the one before
  int left[kPairs], right[kPairs], found = 0;
  NK_UNROLL
  for (int i = 0; i < kPairs; ++i) {
    int pair = warp + i * (kThreads / 32), a = 0;
    for (; a < parts && pair >= parts - a; ++a) pair -= parts - a;
    left[i] = 8 * a, right[i] = 8 * (a + pair), found += a < parts;
  }
  for (int begin = 0; begin < p.n; begin += p.rows) {
    const int rows = min(p.rows, p.n - begin), depth = (rows + 7) / 8 * 8;
    stage(views, begin, rows, depth, columns, shift, z);
    __syncthreads();
    if (column < columns)
      for (int i = thread() % 4; i < depth; i += 4) mean += z(i, column);
    NK_ROLLED
    for (int k = 0; k < depth; k += 8)
      NK_UNROLL
      for (int i = 0; i < kPairs; ++i)
        if (i < found) {
          device::multiply_add(sums[i], z(k + t, left[i] + g), z(k + t, right[i] + g));
          device::multiply_add(others[i], z(k + 4 + t, left[i] + g), z(k + 4 + t, right[i] + g));
        }
    __syncthreads();
  }
  mean = device::sum<4>(mean) / p.n;
  if (column < columns && thread() % 4 == 0) means[column] = mean;
  __syncthreads();
  NK_UNROLL
  for (int i = 0; i < kPairs; ++i)
    if (i < found)
      NK_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int u = left[i] + g, v = right[i] + 2 * t + c;
        const double covariance = (sums[i][c] + others[i][c] - p.n * means[u] * means[v]) / (p.n - 1);
        if (u >= half) s22(u - half, v - half) = covariance, s22(v - half, u - half) = covariance;
        else if (v >= half) s12(u, v - half) = covariance;
        else s11(u, v) = covariance, s11(v, u) = covariance;
      }
  __syncthreads();
}

/// The partial isometry W of M = W H, in w or in other; returns which. Small M is brought to norm 1 first. Singular values from 1e-7 on
/// become 1, below 1e-8 they count as 0: seven steps reach 1e-3 and magnify smaller ones 3600 times, and run twice where that was not all.
__device__ __forceinline__ Matrix polar(const Forward& p, const Square& square, Matrix m, Matrix w, Matrix other, Matrix a, Matrix b,
                                        double* room) {
  const int apart = static_cast<int>(other.data - w.data);
  const auto turn = [&](int which) { return Matrix{w.data + (which & 1) * apart, w.row, 1}; };  // a swap would hide what memory it is
  double mine = 0;
  square.each([&](int i, int j) { mine += m(i, j) * m(i, j); });
  const double norm = sqrt(total(mine, room)), over = norm > 0 && norm < 1 ? 1 / norm : 1;
  square.each([&](int i, int j) { w(i, j) = m(i, j) * over; });
  __syncthreads();
  int now = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    NK_ROLLED
    for (int step = 0; step < kSteps; ++step, ++now) {
      const double linear = p.steps[step][0], cubic = p.steps[step][1], quintic = p.steps[step][2];
      const Matrix before = turn(now);
      square.multiply(before.t(), before, a);
      __syncthreads();
      square.product(a, a, [&](int i, int j, double x) { b(i, j) = quintic * x + cubic * a(i, j) + (i == j ? linear : 0); });
      __syncthreads();
      square.multiply(before, b, turn(now + 1));
      __syncthreads();
    }
    const Matrix reached = turn(now);
    square.multiply(reached.t(), reached, a);
    __syncthreads();
    mine = 0;
    square.product(a, a, [&](int i, int j, double x) {
      mine += (x - a(i, j)) * (x - a(i, j));
      b(i, j) = 2.5 * a(i, j) - 1.5 * x;  // has no linear term: what is still small becomes 0
    });
    if (!(sqrt(total(mine, room)) > 1e-7)) break;  // NaN ends it too
    __syncthreads();
  }
  square.multiply(turn(now), b, turn(now + 1));
  __syncthreads();
  return turn(now + 1);
}

/// The correlation up to which M holds nothing but rounding: zero_level of neurokernels/ops/cca/reference.py.
__device__ __forceinline__ double zero_level(const Forward& p, const double* variances, int size) {
  double a = 0, b = 0;
  for (int j = 0; j < p.d1; ++j) a = max(a, variances[j]);
  for (int j = 0; j < p.d2; ++j) b = max(b, variances[size + j]);
  return 16 * 0x1p-52 * (sqrt(a / p.r1 * (b / (b + p.r2))) + sqrt(b / p.r2 * (a / (a + p.r1))));
}

/// U diag(kept) V' of M = U diag(s) V', where the k largest that are above `level` are kept. Columns of `u`, at first M, are turned in pairs
/// until all are orthogonal, those of `v` with them; a round of a tournament has them all meet another one. Their lengths are s.
__device__ __forceinline__ void largest(const Forward& p, const Square& square, double level, Matrix u, Matrix v, Matrix w,
                                        double* lengths) {
  constexpr double kOrthogonal = 0x1p-49;  // eight units in the last place
  constexpr int kSweeps = 30;
  const int players = (p.d2 + 1) / 2 * 2, row = lane();
  bool turned = true;
  for (int sweep = 0; sweep < kSweeps && __syncthreads_or(turned); ++sweep) {
    turned = false;
    for (int round = 0; round < players - 1; ++round) {
      NK_ROLLED
      for (int i = thread() / 32; i < players / 2; i += kThreads / 32) {
        const int first = i ? (round + i) % (players - 1) : players - 1, second = (round - i + players - 1) % (players - 1);
        const double x = row < square.size ? u(row, first) : 0, y = row < square.size ? u(row, second) : 0;
        const double a = device::sum(x * x), b = device::sum(y * y), c = device::sum(x * y);
        if (!(c * c > kOrthogonal * kOrthogonal * a * b)) continue;  // of zeros, and of NaN
        turned = true;
        const double slope = (b - a) / (2 * c), t = (slope < 0 ? -1 : 1) / (fabs(slope) + sqrt(1 + slope * slope));
        const double cosine = 1 / sqrt(1 + t * t), sine = cosine * t;
        if (row < square.size) {
          const double s = v(row, first), r = v(row, second);
          u(row, first) = cosine * x - sine * y, u(row, second) = sine * x + cosine * y;
          v(row, first) = cosine * s - sine * r, v(row, second) = sine * s + cosine * r;
        }
      }
      __syncthreads();
    }
  }
  NK_ROLLED
  for (int j = thread() / 32; j < square.size; j += kThreads / 32) {
    const double x = row < square.size ? u(row, j) : 0, length = sqrt(device::sum(x * x));
    if (row == 0) lengths[j] = length;
  }
  __syncthreads();
  square.each([&](int i, int j) {
    const double length = lengths[j];
    int before = 0;
    for (int other = 0; other < p.d2; ++other) before += lengths[other] > length || (lengths[other] == length && other < j);
    u(i, j) = length <= level || before >= p.k ? 0 : u(i, j) / length;  // NaN is kept
  });
  __syncthreads();
  square.multiply(u, v.t(), w);
  __syncthreads();
}

}  // namespace

NK_KERNEL_BLOCKS(dcca_forward, Forward, kThreads, 1) {
  NK_SHARED(bytes);
  const int64_t item = blockIdx.x;
  const Square square(p.tiles, (max(p.d1, p.d2) + 3) / 4 * 4);
  const int size = square.size, joint = p.d1 + p.d2;
  const Views views{p.x, p.y, item, p.d1, p.d2, size, p.dtype};
  const Memory memory(bytes, p.tiles);
  const Matrix s11 = memory.of[0], s22 = memory.of[1], s12 = memory.of[2], t1 = memory.of[3], t2 = memory.of[4];
  const Matrix m = memory.of[5], w = memory.of[6], other = memory.of[7], a = memory.of[8], b = memory.of[9];
  moments(p, views, square.shift + 1, memory.means, m.data, s11, s12, s22);
  if (thread() < joint) {
    const int j = thread() < p.d1 ? thread() : size + thread() - p.d1;
    double first = 0;
    with_type(p.dtype, [&](auto type) { first = Column<decltype(type)>(views, j)(0); });
    store(p.mean, p.dtype, item * joint + thread(), first + memory.means[j]);
  }
  if (const int j = thread(); j < 2 * size) {  // padding is a unit of variance 1 that covaries with nothing
    const bool second = j >= size;
    const int own = second ? j - size : j;
    double& variance = second ? s22(own, own) : s11(own, own);
    memory.variances[j] = variance;
    variance = own < (second ? p.d2 : p.d1) ? variance + (second ? p.r2 : p.r1) : 1;
  }
  square.each([&](int i, int j) { t1(i, j) = t2(i, j) = i == j; });
  __syncthreads();
  invert(square, max(p.d1, p.d2), s11, t1, p.r1, s22, t2, p.r2);
  square.multiply(t1, s12, w);
  __syncthreads();
  // An element of S12 is known to its rounding, and M divides it by both pivots: what may be nothing else is zero.
  square.product(w, t2.t(), [&](int i, int j, double x) {
    const double noise = memory.variances[i] * t1(i, i) * t1(i, i) * memory.variances[size + j] * t2(j, j) * t2(j, j);
    m(i, j) = x * x <= 0x1p-96 * noise ? 0 : x;
  });
  __syncthreads();
  Matrix found = w;
  if (p.objective == kNuclear) found = polar(p, square, m, w, other, a, b, memory.room);
  else if (p.objective == kFro2) square.each([&](int i, int j) { w(i, j) = 2 * m(i, j); });
  else {
    square.each([&](int i, int j) { a(i, j) = m(i, j), b(i, j) = i == j; });
    largest(p, square, zero_level(p, memory.variances, size), a, b, w, memory.means);
  }
  __syncthreads();
  double mine = 0;
  square.each([&](int i, int j) { mine += found(i, j) * m(i, j); });
  const double value = total(mine, memory.room);
  if (thread() == 0) store(p.value, p.dtype, item, p.objective == kFro2 ? value / 2 : value);
  if (!p.weights) return;
  // s11, s22, s12 and what the polar factor was made with are free.
  const Matrix left = s11, right = s22, above = s12, beside = a;
  square.multiply(t1.t(), found, left);
  square.multiply(found, t2, right);
  square.multiply(t1.t(), m, above);
  square.multiply(m, t2, beside);
  __syncthreads();
  const int64_t base = item * joint * joint;
  const double over = 1.0 / (p.n - 1);
  const auto put = [&](int i, int j, double x) {  // twice, so that weights are symmetric to the bit
    store(p.weights, p.dtype, base + i * joint + j, x * over), store(p.weights, p.dtype, base + j * joint + i, x * over);
  };
  square.product(left, t2, [&](int i, int j, double x) {
    if (i < p.d1 && j < p.d2) put(i, p.d1 + j, x);
  });
  square.product(above, left.t(), [&](int i, int j, double x) {
    if (i <= j && j < p.d1) put(i, j, -x);
  });
  square.product(right.t(), beside, [&](int i, int j, double x) {
    if (i <= j && j < p.d2) put(p.d1 + i, p.d1 + j, -x);
  });
}

struct Backward {
  View x, y;
  const void *g, *weights;  // [items], [items, d1 + d2, d1 + d2]
  void *dx, *dy;            // [items, n, d1] and [items, n, d2]
  int32_t n, d1, d2, blocks, dtype;  // blocks of kSlab rows of an item
};
constexpr int kSlab = kThreads / 32 * 8;

/// g [Xc Yc] weights for a slab of rows. The mean is taken again, to more digits than a float has.
NK_KERNEL_BLOCKS(dcca_backward, Backward, kThreads, 2) {
  NK_SHARED(bytes);
  const int64_t item = blockIdx.x / p.blocks;
  const int begin = static_cast<int>(blockIdx.x % p.blocks) * kSlab, rows = min(kSlab, p.n - begin), joint = p.d1 + p.d2;
  const int columns = (joint + 7) / 8 * 8, stride = columns + 4, depth = (joint + 3) / 4 * 4;
  const Views views{p.x, p.y, item, p.d1, p.d2, p.d1, p.dtype};
  double *means = reinterpret_cast<double*>(bytes), *partial = means + 16 * kMostTiles;
  const Matrix weights{partial + kThreads, stride, 1}, z{weights.data + columns * stride, stride, 1};
  const int shift = columns <= 8 ? 3 : columns <= 16 ? 4 : columns <= 32 ? 5 : 6;
  const int across = thread() & ((1 << shift) - 1), down = thread() >> shift, step = kThreads >> shift;
  const int slices = kThreads / joint, slice = thread() / joint;
  double mine = 0;
  if (slice < slices)
    with_type(p.dtype, [&](auto type) {
      const Column<decltype(type)> column(views, thread() % joint);
      const double first = column(0);
      batched(slice, p.n, slices, column, [&](int, double x) { mine += x - first; });
    });
  partial[thread()] = mine;
  stage(views, begin, rows, kSlab, columns, shift, z);
  if (across < columns) {
    const auto given = [&](int i) {
      return i < joint && across < joint ? load(p.weights, p.dtype, (item * joint + i) * joint + across) : 0;
    };
    batched(down, columns, step, given, [&](int i, double x) { weights(i, across) = x; });
  }
  __syncthreads();
  if (thread() < joint) {
    double sum = 0;
    for (int i = 0; i < slices; ++i) sum += partial[i * joint + thread()];
    means[thread()] = sum / p.n;
  }
  __syncthreads();
  if (across < joint)
    for (int i = down; i < kSlab; i += step) z(i, across) -= means[across];
  __syncthreads();
  const double g = load(p.g, p.dtype, item);
  const int first = thread() / 32 * 8, i = first + lane() / 4;
  with_type(p.dtype, [&](auto type) {
    using S = decltype(type);
    NK_ROLLED
    for (int part = 0; part < columns; part += 8) {
      double d[2];
      tile_product(z, weights, first, part, depth, d);
      NK_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int j = part + lane() % 4 * 2 + c;
        if (i >= rows || j >= joint) continue;
        const int64_t row = item * p.n + begin + i;
        S* to = j < p.d1 ? static_cast<S*>(p.dx) + row * p.d1 + j : static_cast<S*>(p.dy) + row * p.d2 + j - p.d1;
        *to = device::narrow<S>(static_cast<decltype(device::widen(S{}))>(d[c] * g));
      }
    }
  });
}

}  // namespace nk::cca
