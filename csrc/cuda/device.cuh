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

/// The same, of which at least BLOCKS are to fit a multiprocessor: registers are given accordingly. Without a number the compiler may
/// rather spill than see one block fewer.
#define NK_KERNEL_BLOCKS(NAME, ARGUMENTS, THREADS, BLOCKS) \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const __grid_constant__ ARGUMENTS p)

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

/// Makes the compiler forget what it knows of a number, so that what depends on it is computed again and not kept in registers.
__device__ __forceinline__ void forget(int& x) { asm volatile("" : "+r"(x)); }

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

/// Two numbers in a word, the first one in its lower half.
template <class To>
__device__ __forceinline__ uint32_t pair(float low, float high);
template <>
__device__ __forceinline__ uint32_t pair<Bfloat16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
template <>
__device__ __forceinline__ uint32_t pair<Float16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// The smaller and the larger of two numbers; NaN if one of them is.
__device__ __forceinline__ float smaller(float a, float b) {
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
  return a;
}
__device__ __forceinline__ float larger(float a, float b) {
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
  return a;
}

/// 1 / a within one unit in the last place, for numbers far from overflow and underflow.
__device__ __forceinline__ float reciprocal(float a) {
  float b;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(b) : "f"(a));
  return b;
}

/// 1 / a and 1 / sqrt(a) to half of the digits: within 2^-21 and 2^-38. No branches: only for normal numbers with normal results.
__device__ __forceinline__ float half_reciprocal(float a) { return reciprocal(a); }
__device__ __forceinline__ float half_reciprocal_root(float a) {
  float b;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(b) : "f"(a));
  return b;
}
// Of the hardware's estimates some 20 bits are right.
__device__ __forceinline__ double half_reciprocal(double a) {
  double b;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(b) : "d"(a));
  return fma(fma(-a, b, 1.0), b, b);
}
__device__ __forceinline__ double half_reciprocal_root(double a) {
  double b;
  asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(b) : "d"(a));
  return fma(fma(-a * b, b, 1.0), 0.5 * b, b);
}

/// d += a b of matrices [16, 8] and [8, 8] that a warp holds. With g = lane / 4 and t = lane % 4, `a` is (g, t), (g + 8, t), (g, t + 4),
/// (g + 8, t + 4); `b` is (t, g), (t + 4, g); `d` is (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1). Of a factor the upper 19 bits
/// count (TF32); sums are float, truncated. All lanes must be there; volatile, or it might be moved to where they are not.
__device__ __forceinline__ void multiply_add(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

/// The same of int8 matrices [16, 16] and [16, 8], four of a row of `a`, or of a column of `b`, in an integer: `a` is (g, 4t to 4t + 3),
/// (g + 8, 4t to 4t + 3) and `b` is (4t to 4t + 3, g).
__device__ __forceinline__ void multiply_add(int (&d)[4], const unsigned (&a)[2], unsigned b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

/// The same of double matrices [8, 4] and [4, 8]: `a` is (g, t), `b` is (t, g), `d` is (g, 2t), (g, 2t + 1).
__device__ __forceinline__ void multiply_add(double (&d)[2], double a, double b) {
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(d[0]), "+d"(d[1])
      : "d"(a), "d"(b));
}

}  // namespace nk::device
#endif

#ifdef __CUDACC__
#define NK_UNROLL _Pragma("unroll")
#define NK_ROLLED _Pragma("unroll 1")
#define NK_UNROLL_BY(TIMES) NK_PRAGMA(unroll TIMES)
#define NK_PRAGMA(TEXT) _Pragma(#TEXT)
#else
#define NK_UNROLL
#define NK_ROLLED
#define NK_UNROLL_BY(TIMES)
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
