// Series in time on their way to the registers of a warp, many steps ahead of the one that runs.
//
// A warp owns 32 neurons and walks through time in chunks of 16 steps, the span of one word of residual bits. For each series it has a
// ring of kStages tiles [16 steps x 32 neurons] in shared memory, which asynchronous copies fill while earlier tiles are computed on:
// a layer of a few thousand neurons has two warps on a multiprocessor, and without copies ahead each step would wait for memory.
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
  kDirect = 3,   // values of 2 bytes that cannot be copied asynchronously: 16 loads at once when the chunk's turn comes
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

/// A ring of tiles of one series.
template <class X>
struct Stream {
  static constexpr int kPiece = 16 / sizeof(X), kPieces = kLanes / kPiece, kBytes = kStages * kChunk * kLanes * sizeof(X);

  const X* mine;    // this lane's neuron
  const X* origin;  // the first neuron of the warp
  X* ring;
  int64_t time;
  int mode, steps, room;  // room: pieces of a row that exist
  bool exists;

  __device__ __forceinline__ Stream(const Series& series, unsigned char* memory, const Here& h, int64_t width, int steps)
      : mine(place<X>(series, h.exists ? h.n : 0, width)),
        origin(static_cast<const X*>(series.first) + h.first),
        ring(reinterpret_cast<X*>(memory)),
        time(series.time),
        mode(series.mode),
        steps(steps),
        room(static_cast<int>(min(int64_t{kPieces}, (h.total - h.first) / kPiece))),
        exists(h.exists) {}

  /// Starts to copy the chunk at step t, if there is one.
  __device__ __forceinline__ void issue(int t, int stage) const {
    if (t < 0 || t >= steps) return;
    X* tile = ring + stage * kChunk * kLanes;
    if (mode == kTiles) {
      constexpr int kApart = kLanes / kPieces;  // steps between two pieces of a lane
      const int first = lane() / kPieces, piece = lane() % kPieces;
      const X* from = origin + (t + first) * time + piece * kPiece;
      NK_UNROLL
      for (int k = 0; k < kChunk; k += kApart, from += kApart * time)
        if (t + first + k < steps && piece < room) copy_async<16>(tile + (first + k) * kLanes + piece * kPiece, from);
    } else if constexpr (sizeof(X) >= 4) {
      if (mode == kLane && exists) {
        const X* from = mine + t * time;
        NK_UNROLL
        for (int k = 0; k < kChunk; ++k, from += time)
          if (t + k < steps) copy_async<sizeof(X)>(tile + k * kLanes + lane(), from);
      }
    }
  }

  /// This lane's values of the chunk at step t; what is beyond the last step or the last neuron is zero.
  __device__ __forceinline__ void take(int t, int stage, X (&values)[kChunk]) const {
    const int count = exists ? steps - t : 0;
    if (sizeof(X) >= 4 || mode == kTiles) {
      const X* tile = ring + stage * kChunk * kLanes + lane();
      NK_UNROLL
      for (int k = 0; k < kChunk; ++k) values[k] = k < count ? tile[k * kLanes] : X{};
    } else {
      const X* from = mine + t * time;
      NK_UNROLL
      for (int k = 0; k < kChunk; ++k, from += time) values[k] = k < count ? *from : X{};
    }
  }

  /// One of them, for the chunk that is not whole.
  __device__ __forceinline__ X take(int t, int stage, int k) const {
    if (!exists) return X{};
    return sizeof(X) >= 4 || mode == kTiles ? ring[(stage * kChunk + k) * kLanes + lane()] : mine[(t + k) * time];
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
  __device__ __forceinline__ X narrow(X value) const { return value; }
  __device__ __forceinline__ X spike(bool fires) const { return fires ? X(1) : X(0); }
};
template <>
struct Format<Half> {
  using State = float;
  bool is_float16;
  __device__ __forceinline__ explicit Format(bool is_float16) : is_float16(is_float16) {}
  __device__ __forceinline__ float widen(Half value) const {
    const float of_float16 = device::widen(Float16{value.bits}), of_bfloat16 = device::widen(Bfloat16{value.bits});
    return is_float16 ? of_float16 : of_bfloat16;
  }
  __device__ __forceinline__ Half narrow(float value) const {
    const uint16_t to_float16 = device::narrow<Float16>(value).bits, to_bfloat16 = device::narrow<Bfloat16>(value).bits;
    return {is_float16 ? to_float16 : to_bfloat16};
  }
  __device__ __forceinline__ Half spike(bool fires) const {
    return {static_cast<uint16_t>(fires ? (is_float16 ? 0x3c00 : 0x3f80) : 0)};
  }
};

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
