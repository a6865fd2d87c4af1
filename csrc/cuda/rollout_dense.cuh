// One hidden layer of up to 32 units as products of matrices: mazes by units, on matrix units, with no memory in a step.
//
// Units and inputs are in tiles of eight. Lane (g, t) = (lane / 4, lane % 4) holds, of the mazes 8 q + g for q = 0 to 3, the units
// 8 j + 2 t and 8 j + 2 t + 1 of every tile j: where a product leaves them, the next one reads its left factor, if the inner index counts
// units in the order in which lanes hold them. So hidden units never leave their registers, nor do the weights.
#pragma once

#include "cuda/rollout_walk.cuh"

namespace nk::rollout {

/// Sums, in tiles: [maze 8 q + g][tile j][unit 8 j + 2 t, and the next].
template <class T, int J>
struct Sums {
  T of[4][J][2];

  /// What a product has in each lane: of the mazes 16 half + g and 8 further, two units each.
  __device__ __forceinline__ void get(int half, int j, T (&d)[4]) const {
    NK_UNROLL
    for (int i = 0; i < 4; ++i) d[i] = of[2 * half + i / 2][j][i % 2];
  }
  __device__ __forceinline__ void set(int half, int j, const T (&d)[4]) {
    NK_UNROLL
    for (int i = 0; i < 4; ++i) of[2 * half + i / 2][j][i % 2] = d[i];
  }
};

/// The weights of a connection of one agent, zero where there is none.
template <class Mode>
struct Matrix {
  const Rollout& p;
  int64_t agent;

  __device__ __forceinline__ typename Mode::T at(bool inside, int place) const {
    const int64_t e = agent * p.edges + place;
    return inside && p.mask[e] ? weight(p, Mode{}, e) : 0;
  }
  __device__ __forceinline__ auto from_input(int unit, int input) const {
    const int column = p.columns >> 4 * input & 15;
    return at(unit < p.units && column < 15, unit * p.sources + column);
  }
  __device__ __forceinline__ auto from_unit(int unit, int source) const {
    return at(p.recurrent && unit < p.units && source < p.units, unit * p.sources + p.sources - p.units + source);
  }
  __device__ __forceinline__ auto to_output(int output, int source) const {
    return at(output < kCommands && source < p.units, p.units * p.sources + output * p.units + source);
  }
};

/// A float as the sum of two of TF32, within 2^-22: three products of such parts are as good as one of floats. NaN stays NaN.
struct Parts {
  float high, low;
};
__device__ __forceinline__ Parts parts(float x) {
  const float high = __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u);
  return {high, __fsub_rn(x, high)};
}

template <int J>
struct FloatNet {
  using Mode = Floats;
  /// A tile of weights: the right factor of a product over eight sources.
  struct Tile {
    float high[2], low[2];
    __device__ __forceinline__ void set(float a, float b) {
      const Parts x = parts(a), y = parts(b);
      high[0] = x.high, high[1] = y.high, low[0] = x.low, low[1] = y.low;
    }
  };
  Tile inputs[J], units[J][J], outputs[J];  // units[source tile][target tile]
  float state[4][J][2];

  __device__ __forceinline__ void read(const Matrix<Floats>& m) {
    const int g = lane() / 4, t = lane() % 4;
    NK_UNROLL
    for (int j = 0; j < J; ++j) {
      const int source = 8 * j + 2 * t;
      inputs[j].set(m.from_input(8 * j + g, 2 * t), m.from_input(8 * j + g, 2 * t + 1));
      outputs[j].set(m.to_output(g, source), m.to_output(g, source + 1));
      NK_UNROLL
      for (int i = 0; i < J; ++i) units[j][i].set(m.from_unit(8 * i + g, source), m.from_unit(8 * i + g, source + 1));
    }
  }

  __device__ __forceinline__ void put(int q, const float (&values)[J][2]) {
    NK_UNROLL
    for (int j = 0; j < J; ++j) state[q][j][0] = values[j][0], state[q][j][1] = values[j][1];
  }
  __device__ __forceinline__ float get(int q, int j, int i) const { return state[q][j][i]; }

  /// Adds what the inputs of 16 mazes add.
  __device__ __forceinline__ void see(int half, const int (&seen)[2], Sums<float, J>& sums) const {
    const int t = lane() % 4;
    float on[4];
    NK_UNROLL
    for (int i = 0; i < 4; ++i) on[i] = seen[i % 2] >> (2 * t + i / 2) & 1 ? 1.0f : 0.0f;
    NK_UNROLL
    for (int j = 0; j < J; ++j) {
      float d[4];
      sums.get(half, j, d);
      device::multiply_add(d, on, inputs[j].low);
      device::multiply_add(d, on, inputs[j].high);
      sums.set(half, j, d);
    }
  }

  /// The state of 16 mazes times the weights of a target tile. Small products have a sum of their own, since a sum on matrix units is
  /// truncated each time.
  template <class Pick>
  __device__ __forceinline__ void times(int half, Pick pick, float (&d)[4]) const {
    float high[4] = {0, 0, 0, 0}, low[4] = {0, 0, 0, 0};
    NK_UNROLL
    for (int j = 0; j < J; ++j) {
      float a[4], rest[4];
      NK_UNROLL
      for (int i = 0; i < 4; ++i) {
        const Parts x = parts(state[2 * half + i % 2][j][i / 2]);
        a[i] = x.high, rest[i] = x.low;
      }
      const Tile& tile = pick(j);
      device::multiply_add(high, a, tile.high);
      device::multiply_add(low, a, tile.low);
      device::multiply_add(low, rest, tile.high);
    }
    NK_UNROLL
    for (int i = 0; i < 4; ++i) d[i] = high[i] + low[i];
  }
};

template <int J>
struct ExactNet {
  using Mode = Integers;
  static constexpr int K = (J + 1) / 2;  // sources are in pairs of tiles: sixteen int8
  unsigned inputs[J], units[K][J], outputs[K];
  unsigned state[4][K];  // four units each: two of one tile, two of the next

  static __device__ __forceinline__ unsigned packed(int a, int b, int c, int d) {
    const unsigned low = __byte_perm(a, b, 0x0040), high = __byte_perm(c, d, 0x0040);
    return __byte_perm(low, high, 0x5410);
  }

  __device__ __forceinline__ void read(const Matrix<Integers>& m) {
    const int g = lane() / 4, t = lane() % 4;
    NK_UNROLL
    for (int j = 0; j < J; ++j) inputs[j] = packed(m.from_input(8 * j + g, 2 * t), m.from_input(8 * j + g, 2 * t + 1), 0, 0);
    NK_UNROLL
    for (int k = 0; k < K; ++k) {
      const int a = 16 * k + 2 * t, b = a + 8;
      outputs[k] = packed(m.to_output(g, a), m.to_output(g, a + 1), m.to_output(g, b), m.to_output(g, b + 1));
      NK_UNROLL
      for (int i = 0; i < J; ++i) {
        const int unit = 8 * i + g;
        units[k][i] = packed(m.from_unit(unit, a), m.from_unit(unit, a + 1), m.from_unit(unit, b), m.from_unit(unit, b + 1));
      }
    }
  }

  __device__ __forceinline__ void put(int q, const int (&values)[J][2]) {
    NK_UNROLL
    for (int k = 0; k < K; ++k) {
      constexpr int none[2] = {0, 0};
      const int(&more)[2] = 2 * k + 1 < J ? values[2 * k + 1 < J ? 2 * k + 1 : 0] : none;
      state[q][k] = packed(values[2 * k][0], values[2 * k][1], more[0], more[1]);
    }
  }
  __device__ __forceinline__ int get(int q, int j, int i) const { return static_cast<int8_t>(state[q][j / 2] >> (16 * (j % 2) + 8 * i)); }

  __device__ __forceinline__ void see(int half, const int (&seen)[2], Sums<int, J>& sums) const {
    const int t = lane() % 4;
    unsigned on[2];
    NK_UNROLL
    for (int i = 0; i < 2; ++i) on[i] = (seen[i] >> 2 * t & 1 ? 127u : 0u) | (seen[i] >> 2 * t & 2 ? 127u << 8 : 0u);
    NK_UNROLL
    for (int j = 0; j < J; ++j) {
      int d[4];
      sums.get(half, j, d);
      device::multiply_add(d, on, inputs[j]);
      sums.set(half, j, d);
    }
  }

  template <class Pick>
  __device__ __forceinline__ void times(int half, Pick pick, int (&d)[4]) const {
    NK_UNROLL
    for (int i = 0; i < 4; ++i) d[i] = 0;
    NK_UNROLL
    for (int k = 0; k < K; ++k) {
      const unsigned a[2] = {state[2 * half][k], state[2 * half + 1][k]};
      device::multiply_add(d, a, pick(k));
    }
  }
};

template <int J, class Net, class T, class Squash>
__device__ __forceinline__ void settle(int half, const Sums<T, J>& sums, Net& net, Squash squash) {
  NK_UNROLL
  for (int q = 2 * half; q < 2 * half + 2; ++q) {
    T values[J][2];
    NK_UNROLL
    for (int j = 0; j < J; ++j) values[j][0] = squash(sums.of[q][j][0]), values[j][1] = squash(sums.of[q][j][1]);
    net.put(q, values);
  }
}

/// What the units add to each other's next sums, for 16 mazes.
template <int J, class Net, class T>
__device__ __forceinline__ void feed_back(int half, const Net& net, Sums<T, J>& sums) {
  NK_UNROLL
  for (int j = 0; j < J; ++j) {
    T d[4];
    net.times(half, [&](int k) -> decltype(auto) { return (net.units[k][j]); }, d);
    sums.set(half, j, d);
  }
}

template <int J, class Net>
__device__ void walk_dense(const Rollout& p, int64_t agent, int first, Walker& walker) {
  using Mode = typename Net::Mode;
  using T = typename Mode::T;
  const int g = lane() / 4, t = lane() % 4, halves = p.span / 16;
  const unsigned segment = p.table[lane()];
  Net net;
  net.read(Matrix<Mode>{p, agent});
  Sums<T, J> sums;
  NK_UNROLL
  for (int q = 0; q < 4; ++q) {
    const int64_t at = agent * p.mazes + min(first + (8 * q + g) % p.span, p.mazes - 1);
    T values[J][2];
    NK_UNROLL
    for (int j = 0; j < J; ++j)
      NK_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int unit = 8 * j + 2 * t + i;
        values[j][i] = p.hidden && unit < p.units ? static_cast<T>(p.hidden[at * p.units + unit]) : T{0};
        sums.of[q][j][i] = 0;
      }
    net.put(q, values);
  }
  __syncwarp();  // a product takes the whole warp at once
  NK_UNROLL
  for (int half = 0; half < 2; ++half)
    if (half < halves) feed_back<J>(half, net, sums);
  for (int step = 0; step < p.steps; ++step) {
    const int seen = walker.sense();
    int seen_by[4], said = 0;
    NK_UNROLL
    for (int q = 0; q < 4; ++q) seen_by[q] = __shfl_sync(kAll, seen, 8 * q + g);
    NK_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (half >= halves) break;
      const int both[2] = {seen_by[2 * half], seen_by[2 * half + 1]};
      net.see(half, both, sums);
      if (p.activation == kTanh) settle<J>(half, sums, net, [&](T x) { return squashed(x, segment); });
      else settle<J>(half, sums, net, [](T x) { return signed_one(x); });
      T d[4];
      net.times(half, [&](int k) -> decltype(auto) { return (net.outputs[k]); }, d);
      NK_UNROLL
      for (int i = 0; i < 2; ++i) {  // lane (g, 0) has forward and left, lane (g, 1) right
        const T right = __shfl_xor_sync(kAll, d[2 * i], 1);
        said |= command(d[2 * i], d[2 * i + 1], right) << 2 * (2 * half + i);
      }
      feed_back<J>(half, net, sums);
    }
    walker.act(p, __shfl_sync(kAll, said, 4 * (lane() % 8)) >> 2 * (lane() / 8) & 3);
    if (p.forget)
      NK_UNROLL
      for (int q = 0; q < 4; ++q)
        if (seen_by[q] & 16) {
          constexpr T nothing[J][2] = {};
          net.put(q, nothing);
          NK_UNROLL
          for (int j = 0; j < J; ++j) sums.of[q][j][0] = sums.of[q][j][1] = 0;
        }
  }
  if (!p.new_hidden) return;
  NK_UNROLL
  for (int q = 0; q < 4; ++q)
    NK_UNROLL
    for (int j = 0; j < J; ++j)
      NK_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int unit = 8 * j + 2 * t + i, maze = first + 8 * q + g;
        if (8 * q < p.span && maze < p.mazes && unit < p.units)
          p.new_hidden[(agent * p.mazes + maze) * p.units + unit] = static_cast<float>(net.get(q, j, i));
      }
}

}  // namespace nk::rollout
