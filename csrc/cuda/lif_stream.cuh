// Series in time on their way to the registers of a warp, many steps ahead of the one that runs, and on their way back.
//
// A warp owns 32 neurons and walks through time in chunks of 16 steps, the span of one word of residual bits. For each series it has a
// ring of kStages tiles [16 steps x 32 neurons] in shared memory, which asynchronous copies fill while earlier tiles are computed on:
// a layer of a few thousand neurons has two warps on a multiprocessor, and without copies ahead each step would wait for memory. What a
// chunk makes is left in a tile too, from which it goes out 16 bytes at a time.
#pragma once

#include "cuda/device.cuh"

namespace nk::lif {

using namespace nk::device;

constexpr int kChunk = 16, kStages = 4, kLanes = 32;

/// How tiles are copied; chosen by neurokernels/ops/lif/cuda.py.
enum Mode : int {
  kNothing = 0,  // there is no such series
  kTiles = 1,    // 16 bytes at a time: neurons lie side by side, and all rows begin at a multiple of 16 bytes
  kLane = 2,     // each lane its own neuron's value, of 4 or 8 bytes
  kDirect = 3,   // the same of 2 bytes, which no asynchronous copy takes: loads of a chunk, held in registers for the span of a chunk
};

/// A number that is known when a kernel is compiled.
template <bool VALUE>
struct Flag {
  static constexpr bool value = VALUE;
};

/// A tensor [T, outer, inner] as Python hands it over: strides in elements; neurons are one dimension if `width` is 0.
struct Series {
  void* first;
  int64_t time, outer, inner;
  int mode, unused;
};

/// The 32 neurons of a warp, and the one of this lane.
struct Here {
  int64_t first, n, total;
  bool exists;
};

__device__ __forceinline__ Here here(int64_t total) {
  const int64_t warp = int64_t{blockIdx.x} * (blockDim.x / kLanes) + threadIdx.x / kLanes;
  const int64_t n = warp * kLanes + lane();
  return {warp * kLanes, n, total, n < total};
}

/// The place of a neuron in a series, before the first step.
template <class X>
__device__ __forceinline__ X* place(const Series& series, int64_t n, int64_t width) {
  const int64_t at = width ? n / width * series.outer + n % width * series.inner : n * series.inner;
  return static_cast<X*>(series.first) + at;
}

/// Two bytes of either kind: which one is the launch's choice, and no other kernel.
struct Half {
  uint16_t bits;
};

/// How values are stored.
template <class X>
struct Format {
  using State = X;
  __device__ __forceinline__ explicit Format(bool) {}
  __device__ __forceinline__ X widen(X value) const { return value; }
  __device__ __forceinline__ void widen(const X (&stored)[kChunk], X (&values)[kChunk]) const {
    NK_UNROLL
    for (int k = 0; k < kChunk; ++k) values[k] = stored[k];
  }
  __device__ __forceinline__ X narrow(X value) const { return value; }
  __device__ __forceinline__ uint4 piece(const X* from) const { return *reinterpret_cast<const uint4*>(from); }
};
template <>
struct Format<Half> {
  using State = float;
  bool is_float16;
  __device__ __forceinline__ explicit Format(bool is_float16) : is_float16(is_float16) {}
  __device__ __forceinline__ float widen(Half value) const {
    return is_float16 ? device::widen(Float16{value.bits}) : device::widen(Bfloat16{value.bits});
  }
  __device__ __forceinline__ void widen(const Half (&stored)[kChunk], float (&values)[kChunk]) const {
    if (is_float16) {
      NK_UNROLL
      for (int k = 0; k < kChunk; ++k) values[k] = device::widen(Float16{stored[k].bits});
    } else {
      NK_UNROLL
      for (int k = 0; k < kChunk; ++k) values[k] = device::widen(Bfloat16{stored[k].bits});
    }
  }
  __device__ __forceinline__ Half narrow(float value) const {
    return {is_float16 ? device::narrow<Float16>(value).bits : device::narrow<Bfloat16>(value).bits};
  }
  template <class To>
  static __device__ __forceinline__ uint4 piece_of(const float* from) {
    const float4 a = *reinterpret_cast<const float4*>(from), b = *reinterpret_cast<const float4*>(from + 4);
    return {pair<To>(a.x, a.y), pair<To>(a.z, a.w), pair<To>(b.x, b.y), pair<To>(b.z, b.w)};
  }
  __device__ __forceinline__ uint4 piece(const float* from) const {
    return is_float16 ? piece_of<Float16>(from) : piece_of<Bfloat16>(from);
  }
};

/// Who of a warp copies what of a tile, 16 bytes at a time.
template <class X>
struct Pieces {
  static constexpr int kPiece = 16 / sizeof(X), kPieces = kLanes / kPiece;  // values of a piece, pieces of a row
  static constexpr int kApart = kLanes / kPieces;                           // steps between two pieces of a lane

  int first, at;  // step and neuron of the first one
  bool exists;

  __device__ __forceinline__ explicit Pieces(const Here& h)
      : first(lane() / kPieces), at(lane() % kPieces * kPiece), exists(h.first + at + kPiece <= h.total) {}
};

/// A ring of tiles of one series.
template <class X>
struct Stream {
  using S = typename Format<X>::State;
  static constexpr int kBytes = kStages * kChunk * kLanes * sizeof(X);

  Pieces<X> pieces;
  const X *mine, *origin;  // this lane's neuron; that of its pieces
  X* ring;
  int64_t time;
  int mode, steps, held_for;  // a stage, or -1
  X held[kChunk];
  bool exists;

  __device__ __forceinline__ Stream(const Series& series, unsigned char* memory, const Here& h, int64_t width, int steps)
      : pieces(h),
        mine(place<X>(series, h.exists ? h.n : 0, width)),
        origin(static_cast<const X*>(series.first) + h.first + pieces.at),
        ring(reinterpret_cast<X*>(memory)),
        time(series.time),
        mode(series.mode),
        steps(series.mode == kNothing ? 0 : steps),
        held_for(-1),
        exists(h.exists) {}

  /// Starts to copy the chunk at step t, if there is one, to a stage; it is there when `issue` was called kStages - 1 times more, each
  /// followed by a commit, for a warp that waited for all but kStages - 1.
  __device__ __forceinline__ void issue(int t, int stage) {
    if (sizeof(X) < 4 && held_for >= 0) {
      NK_UNROLL
      for (int k = 0; k < kChunk; ++k) ring[(held_for * kChunk + k) * kLanes + lane()] = held[k];
      held_for = -1;
    }
    if (t < 0 || t >= steps) return;
    X* tile = ring + stage * kChunk * kLanes;
    if (mode == kTiles) {
      const X* from = origin + (t + pieces.first) * time;
      NK_UNROLL
      for (int k = 0; k < kChunk; k += Pieces<X>::kApart, from += Pieces<X>::kApart * time)
        if (pieces.exists && t + pieces.first + k < steps) copy_async<16>(tile + (pieces.first + k) * kLanes + pieces.at, from);
    } else if (exists) {
      const X* from = mine + t * time;
      NK_UNROLL
      for (int k = 0; k < kChunk; ++k, from += time) {
        if (t + k >= steps) continue;
        if constexpr (sizeof(X) >= 4)
          copy_async<sizeof(X)>(tile + k * kLanes + lane(), from);
        else
          held[k] = *from, held_for = stage;
      }
    }
  }

  /// This lane's values of a stage. Of steps and neurons that do not exist they are anything.
  __device__ __forceinline__ void take(int stage, const Format<X>& format, S (&values)[kChunk]) const {
    if (mode == kNothing) return;
    X stored[kChunk];
    const X* tile = ring + stage * kChunk * kLanes + lane();
    NK_UNROLL
    for (int k = 0; k < kChunk; ++k) stored[k] = tile[k * kLanes];
    format.widen(stored, values);
  }

  /// One of them, for a chunk that is not whole.
  __device__ __forceinline__ X take(int stage, int k) const { return ring[(stage * kChunk + k) * kLanes + lane()]; }
};

/// A tile of what a chunk makes of a series.
template <class X>
struct Sink {
  using S = typename Format<X>::State;
  static constexpr int kBytes = kChunk * kLanes * sizeof(S);

  Pieces<X> pieces;
  Format<X> format;
  X *mine, *origin;
  S* tile;
  int64_t time;
  int mode;
  bool exists;

  __device__ __forceinline__ Sink(const Series& series, unsigned char* memory, const Here& h, int64_t width, const Format<X>& format)
      : pieces(h),
        format(format),
        mine(place<X>(series, h.exists ? h.n : 0, width)),
        origin(static_cast<X*>(series.first) + h.first + pieces.at),
        tile(reinterpret_cast<S*>(memory)),
        time(series.time),
        mode(series.mode),
        exists(h.exists) {}

  __device__ __forceinline__ void put(int k, S value) const { tile[k * kLanes + lane()] = value; }

  /// Stores the first steps of the tile as those from step t on.
  __device__ __forceinline__ void flush(int t, int count) const {
    __syncwarp();
    if (mode == kTiles) {
      X* to = origin + (t + pieces.first) * time;
      NK_UNROLL
      for (int k = 0; k < kChunk; k += Pieces<X>::kApart, to += Pieces<X>::kApart * time)
        if (pieces.exists && pieces.first + k < count)
          *reinterpret_cast<uint4*>(to) = format.piece(tile + (pieces.first + k) * kLanes + pieces.at);
    } else if (mode != kNothing && exists) {
      X* to = mine + t * time;
      NK_ROLLED
      for (int k = 0; k < count; ++k, to += time) *to = format.narrow(tile[k * kLanes + lane()]);
    }
    __syncwarp();
  }
};

/// A ring of rows [neurons] that are contiguous, one for each chunk.
template <class X>
struct Rows {
  static_assert(sizeof(X) >= 4);
  static constexpr int kBytes = kStages * kLanes * sizeof(X);

  const X* mine;
  X* ring;
  int64_t total;
  bool exists;

  __device__ __forceinline__ Rows(const void* first, unsigned char* memory, const Here& h)
      : mine(static_cast<const X*>(first) + h.n), ring(reinterpret_cast<X*>(memory)), total(h.total), exists(h.exists) {}

  __device__ __forceinline__ void issue(int row, int stage) const {
    if (exists && row >= 0) copy_async<sizeof(X)>(ring + stage * kLanes + lane(), mine + row * total);
  }
  __device__ __forceinline__ X take(int stage) const { return ring[stage * kLanes + lane()]; }
};

/// The larger number; NaN if the first one is.
__device__ __forceinline__ float at_least(float a, float b) { return larger(a, b); }
__device__ __forceinline__ double at_least(double a, double b) { return a <= b ? b : a; }

/// A value per neuron, or the number that stands for it.
template <class T>
__device__ __forceinline__ T value_or(const void* pointer, double number, int64_t at, bool exists) {
  if (!pointer) return static_cast<T>(number);
  return exists ? static_cast<const T*>(pointer)[at] : T(0);
}

/// Stores one value per neuron where it was asked for.
template <class T>
__device__ __forceinline__ void store_if(void* pointer, const Here& h, T value) {
  if (pointer && h.exists) static_cast<T*>(pointer)[h.n] = value;
}

}  // namespace nk::lif
