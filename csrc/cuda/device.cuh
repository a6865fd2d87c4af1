// What every CUDA kernel shares: how one is declared, asynchronous copies, warp operations, storage types.
//
// Device code only, without the standard library: nvcc makes a fatbin of it at installation, NVRTC a cubin at first use, and a C++
// compiler an emulation on the CPU for tests (NK_EMULATED, tests/emulator), where threads take turns and the same source runs.
#pragma once

#include "common/integers.h"

#ifdef NK_EMULATED
#include "emulated.h"
#else

/// A kernel takes one struct by value: Python fills the same struct with ctypes (neurokernels/_core/cuda.py), and the emulator passes
/// its address. THREADS is the largest block that it is launched with.
#define NK_KERNEL(NAME, ARGUMENTS, THREADS) \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME(const __grid_constant__ ARGUMENTS p)

/// The dynamic shared memory of a block, aligned to 128 bytes. Kernels declare no other shared memory: the emulator poisons this.
#define NK_SHARED(NAME) extern __shared__ __align__(128) unsigned char NAME[]

namespace nk::device {

/// Starts to copy BYTES (4, 8 or 16, both addresses multiples of it) from global to shared memory. They are there after the `wait`
/// that covers their `commit`, for the thread that copied; for others after a barrier behind it.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(BYTES) : "memory");
}

/// Ends a group of copies.
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most PENDING of this thread's groups, the latest ones, are still under way.
template <int PENDING>
__device__ __forceinline__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(Bfloat16 value) { return __uint_as_float(uint32_t{value.bits} << 16); }
__device__ __forceinline__ float widen(Float16 value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}

// Rounding is to nearest, ties to even; NaN stays NaN.
template <class To>
struct Narrow {
  template <class T>
  static __device__ __forceinline__ To from(T value) {
    return static_cast<To>(value);
  }
};
template <>
struct Narrow<Bfloat16> {
  static __device__ __forceinline__ Bfloat16 from(float value) {
    Bfloat16 half;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
    return half;
  }
};
template <>
struct Narrow<Float16> {
  static __device__ __forceinline__ Float16 from(float value) {
    Float16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
    return half;
  }
};

template <class To, class T>
__device__ __forceinline__ To narrow(T value) {
  return Narrow<To>::from(value);
}

}  // namespace nk::device
#endif

#ifdef __CUDACC__
#define NK_UNROLL _Pragma("unroll")
#define NK_ROLLED _Pragma("unroll 1")
#else
#define NK_UNROLL
#define NK_ROLLED
#endif

namespace nk::device {

constexpr unsigned kAll = 0xffffffffu;

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x & 31); }

/// The sum over a group of SIZE neighbouring lanes (a power of two), in every one of them, in an order that depends on SIZE alone.
template <int SIZE = 32, class T>
__device__ __forceinline__ T sum(T value) {
  NK_UNROLL
  for (int apart = SIZE / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kAll, value, apart);
  return value;
}

}  // namespace nk::device
