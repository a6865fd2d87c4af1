// CUDA on the CPU, for tests: what csrc/cuda/device.cuh and the language give to a kernel, over threads that take turns.
//
// A block's threads are fibers on one thread of the CPU. One runs until it waits: at a barrier, at a warp operation, or at its end.
// Whose turn is next is the launch's choice (in order, in reverse, at random), so that a missing barrier changes answers; copies
// that are asynchronous happen at the wait, as late as they may, so that a missing wait does too. Shared memory is full of NaN
// when a block starts. A launch says so if a warp operation is not reached by all that it names, if threads wait for each other
// for ever, if shared memory is overrun, or if the size of the arguments is not the kernel's.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "common/element.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __restrict__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(BYTES) __attribute__((aligned(BYTES)))
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

template <class T, int N>
struct alignas(sizeof(T) * N <= 16 ? sizeof(T) * N : 16) EmulatedVector;
template <class T>
struct alignas(sizeof(T) * 2) EmulatedVector<T, 2> {
  T x, y;
};
template <class T>
struct alignas(16) EmulatedVector<T, 4> {
  T x, y, z, w;
};
using float2 = EmulatedVector<float, 2>;
using float4 = EmulatedVector<float, 4>;
using double2 = EmulatedVector<double, 2>;
using int2 = EmulatedVector<int, 2>;
using int4 = EmulatedVector<int, 4>;
using uint2 = EmulatedVector<unsigned, 2>;
using uint4 = EmulatedVector<unsigned, 4>;

namespace nk::emulated {

constexpr unsigned kStack = 256 << 10, kGuard = 256;
constexpr unsigned char kPoison = 0xff, kFence = 0xa5;

/// What went wrong in a launch; the first thing is kept.
inline char trouble[256];

template <class... Arguments>
inline void complain(const char* format, Arguments... arguments) {
  if (!trouble[0]) std::snprintf(trouble, sizeof(trouble), format, arguments...);
}

struct Copy {
  void* to;
  const void* from;
  unsigned bytes;
};

/// The lanes of a warp meet here. Slots are double: a lane that goes ahead writes where the last meeting is not read any more.
struct Warp {
  unsigned arrived = 0, mask = 0, generation = 0;
  uint64_t slot[2][32];
};

struct Fiber {
  dim3 thread;
  unsigned index;
  void* stack_pointer = nullptr;
  bool done = false;
  std::vector<std::vector<Copy>> groups;  // asynchronous copies; the last group is open
#if !defined(__x86_64__)
  ucontext_t context;
#endif
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned char> stacks;
  unsigned char* shared = nullptr;
  unsigned arrived = 0, generation = 0, alive = 0;
  uint64_t progress = 0;  // meetings that took place: if a whole turn adds none, threads wait for ever
  int votes[2] = {0, 0};
};

inline Block block;
inline Fiber* current = nullptr;
inline bool stopping = false;
inline dim3 thread_index, block_index, block_size, grid_size;
inline void (*body)(const void*) = nullptr;
inline const void* arguments = nullptr;

#if defined(__x86_64__)
inline void* scheduler = nullptr;
// Saves what a call must preserve on this stack, stores its pointer, and goes on from another one.
__attribute__((naked, noinline)) inline void change(void**, void*) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}
inline void leave() { change(&current->stack_pointer, scheduler); }
inline void enter(Fiber& fiber) { change(&scheduler, fiber.stack_pointer); }
#else
inline ucontext_t scheduler;
inline void leave() { swapcontext(&current->context, &scheduler); }
inline void enter(Fiber& fiber) { swapcontext(&scheduler, &fiber.context); }
#endif

inline void run() {
  body(arguments);
  current->done = true;
  --block.alive;
  ++block.progress;
  leave();
  std::abort();
}

inline void prepare(Fiber& fiber, unsigned char* stack) {
#if defined(__x86_64__)
  auto* top = reinterpret_cast<uint64_t*>((reinterpret_cast<uintptr_t>(stack) + kStack) & ~uintptr_t{15}) - 1;
  *--top = reinterpret_cast<uint64_t>(&run);
  for (int i = 0; i < 6; ++i) *--top = 0;
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kStack;
  makecontext(&fiber.context, &run, 0);
#endif
}

/// All lanes of the mask leave a value and may then read those of the others.
inline const uint64_t* meet(unsigned mask, uint64_t value) {
  Warp& warp = block.warps[current->index / 32];
  const unsigned me = 1u << (current->index % 32), now = warp.generation;
  if (!(mask & me)) complain("thread %u is not in the mask %08x of its own warp operation", current->index, mask);
  if (warp.arrived == 0) warp.mask = mask;
  if (warp.mask != mask) complain("lanes of a warp name the masks %08x and %08x", warp.mask, mask);
  warp.slot[now & 1][current->index % 32] = value;
  warp.arrived |= me;
  if (warp.arrived == warp.mask) {
    warp.arrived = 0;
    ++warp.generation;
    ++block.progress;
  }
  while (warp.generation == now && !stopping) leave();
  return warp.slot[now & 1];
}

template <class T>
inline uint64_t packed(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
inline T unpacked(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline void barrier() {
  const unsigned now = block.generation;
  ++block.arrived;
  while (block.generation == now && !stopping) {
    if (block.arrived >= block.alive) {  // threads that have ended are not waited for
      block.arrived = 0;
      ++block.generation;
      ++block.progress;
    } else {
      leave();
    }
  }
}

inline int vote(int predicate) {
  const unsigned now = block.generation & 1;
  block.votes[now] += predicate != 0;
  barrier();
  const int found = block.votes[now];
  barrier();
  block.votes[now] = 0;
  return found;
}

}  // namespace nk::emulated

#define threadIdx nk::emulated::thread_index
#define blockIdx nk::emulated::block_index
#define blockDim nk::emulated::block_size
#define gridDim nk::emulated::grid_size

inline void __syncthreads() { nk::emulated::barrier(); }
inline int __syncthreads_count(int predicate) { return nk::emulated::vote(predicate); }
inline int __syncthreads_or(int predicate) { return nk::emulated::vote(predicate) > 0; }
inline int __syncthreads_and(int predicate) { return nk::emulated::vote(!predicate) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu) { nk::emulated::meet(mask, 0); }
inline void __threadfence_block() {}
inline unsigned __activemask() { return 0xffffffffu; }

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  const int me = nk::emulated::current->index % 32, base = me & ~(width - 1);
  return nk::emulated::unpacked<T>(nk::emulated::meet(mask, nk::emulated::packed(value))[base + (lane & (width - 1))]);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  const int me = nk::emulated::current->index % 32, other = me ^ lanes;
  const uint64_t* all = nk::emulated::meet(mask, nk::emulated::packed(value));
  return nk::emulated::unpacked<T>(all[other / width == me / width ? other : me]);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
  const int me = nk::emulated::current->index % 32, other = me - static_cast<int>(lanes);
  const uint64_t* all = nk::emulated::meet(mask, nk::emulated::packed(value));
  return nk::emulated::unpacked<T>(all[other >= (me & ~(width - 1)) ? other : me]);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
  const int me = nk::emulated::current->index % 32, other = me + static_cast<int>(lanes);
  const uint64_t* all = nk::emulated::meet(mask, nk::emulated::packed(value));
  return nk::emulated::unpacked<T>(all[other < (me & ~(width - 1)) + width ? other : me]);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* all = nk::emulated::meet(mask, predicate != 0);
  unsigned found = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1 && all[lane]) found |= 1u << lane;
  return found;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

// The emulation is compiled without fused multiply-adds: a sum and a product are rounded twice, as these promise.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frcp_rn(float a) { return 1 / a; }
inline float rsqrtf(float a) { return 1 / std::sqrt(a); }
inline double rsqrt(double a) { return 1 / std::sqrt(a); }
inline unsigned __float_as_uint(float a) { return nk::bit_cast<unsigned>(a); }
inline int __float_as_int(float a) { return nk::bit_cast<int>(a); }
inline float __uint_as_float(unsigned a) { return nk::bit_cast<float>(a); }
inline float __int_as_float(int a) { return nk::bit_cast<float>(a); }
inline long long __double_as_longlong(double a) { return nk::bit_cast<long long>(a); }
inline double __longlong_as_double(long long a) { return nk::bit_cast<double>(a); }
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __clz(int a) { return a ? __builtin_clz(static_cast<unsigned>(a)) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned select) {
  unsigned found = 0;
  for (int i = 0; i < 4; ++i) found |= static_cast<unsigned>((uint64_t{b} << 32 | a) >> 8 * (select >> 4 * i & 7) & 255) << 8 * i;
  return found;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return c;
}
template <class T>
inline T __ldg(const T* from) {
  return *from;
}
// The C library's are of double alone.
using std::exp;
using std::fabs;
using std::fma;
using std::max;
using std::min;
using std::sqrt;

#define NK_KERNEL(NAME, ARGUMENTS, THREADS)                                                 \
  static void NAME##_body(const ARGUMENTS& p);                                              \
  extern "C" const unsigned NAME##_size = sizeof(ARGUMENTS), NAME##_threads = THREADS;      \
  extern "C" void NAME(const void* p) { NAME##_body(*static_cast<const ARGUMENTS*>(p)); }   \
  static void NAME##_body(const ARGUMENTS& p)
#define NK_KERNEL_BLOCKS(NAME, ARGUMENTS, THREADS, BLOCKS) NK_KERNEL(NAME, ARGUMENTS, THREADS)
#define NK_SHARED(NAME) unsigned char* const NAME = nk::emulated::block.shared

namespace nk::device {

inline void forget(int&) {}

using nk::Bfloat16;
using nk::Float16;
using nk::narrow;
using nk::widen;

template <int BYTES>
inline void copy_async(void* shared, const void* global) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  if (reinterpret_cast<uintptr_t>(shared) % BYTES || reinterpret_cast<uintptr_t>(global) % BYTES)
    emulated::complain("a copy of %d bytes is not aligned", BYTES);
  emulated::current->groups.back().push_back({shared, global, BYTES});
  std::memset(shared, emulated::kPoison, BYTES);
}
inline void commit() { emulated::current->groups.emplace_back(); }
template <int PENDING>
inline void wait() {
  auto& groups = emulated::current->groups;
  while (groups.size() > PENDING + 1) {  // the last one is open
    for (const emulated::Copy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    groups.erase(groups.begin());
  }
}

template <class To>
inline uint32_t pair(float low, float high) {
  return narrow<To>(low).bits | uint32_t{narrow<To>(high).bits} << 16;
}
inline float smaller(float a, float b) { return a < b || std::isnan(a) ? a : b; }
inline float reciprocal(float a) { return 1 / a; }
// As wrong as they may be, the one above and the other below.
inline float half_reciprocal(float a) { return 1 / a * (1 + 0x1p-21f); }
inline float half_reciprocal_root(float a) { return 1 / std::sqrt(a) * (1 - 0x1p-21f); }
inline double half_reciprocal(double a) { return 1 / a * (1 + 0x1p-38); }
inline double half_reciprocal_root(double a) { return 1 / std::sqrt(a) * (1 - 0x1p-38); }
inline float larger(float a, float b) { return a > b || std::isnan(a) ? a : b; }

// Matrices in the registers of a warp. As on the hardware, the lower 13 bits of a float factor are ignored, and sums are truncated.
inline double factor(uint32_t bits) { return nk::bit_cast<float>(bits & 0xffffe000u); }
inline float truncated(double value) {
  const float nearest = static_cast<float>(value);
  return std::abs(nearest) > std::abs(value) && std::isfinite(value) ? std::nextafter(nearest, 0.0f) : nearest;
}
inline void multiply_add(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  const unsigned me = emulated::current->index % 32, g = me / 4 * 4, t = me % 4;
  double rows[2][8], columns[8][2], sums[4] = {d[0], d[1], d[2], d[3]};
  for (int half = 0; half < 2; ++half) {
    const uint64_t* all = emulated::meet(0xffffffffu, emulated::packed(float2{a[2 * half], a[2 * half + 1]}));
    for (int k = 0; k < 4; ++k)
      rows[0][k + 4 * half] = factor(static_cast<uint32_t>(all[g + k])), rows[1][k + 4 * half] = factor(all[g + k] >> 32);
  }
  const uint64_t* all = emulated::meet(0xffffffffu, emulated::packed(float2{b[0], b[1]}));
  for (int k = 0; k < 4; ++k)
    for (int c = 0; c < 2; ++c) {
      const uint64_t both = all[4 * (2 * t + c) + k];
      columns[k][c] = factor(static_cast<uint32_t>(both)), columns[k + 4][c] = factor(both >> 32);
    }
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 8; ++k) sums[i] += rows[i / 2][k] * columns[k][i % 2];
    d[i] = truncated(sums[i]);
  }
}
inline void multiply_add(double (&d)[2], double a, double b) {
  const unsigned me = emulated::current->index % 32, g = me / 4 * 4, t = me % 4;
  double row[4];
  const uint64_t* all = emulated::meet(0xffffffffu, emulated::packed(a));
  for (int k = 0; k < 4; ++k) row[k] = emulated::unpacked<double>(all[g + k]);
  all = emulated::meet(0xffffffffu, emulated::packed(b));
  for (int c = 0; c < 2; ++c)
    for (int k = 0; k < 4; ++k) d[c] = std::fma(row[k], emulated::unpacked<double>(all[4 * (2 * t + c) + k]), d[c]);
}
inline void multiply_add(int (&d)[4], const unsigned (&a)[2], unsigned b) {
  const unsigned me = emulated::current->index % 32, g = me / 4 * 4, t = me % 4;
  unsigned rows[2][4];
  const uint64_t* all = emulated::meet(0xffffffffu, emulated::packed(uint2{a[0], a[1]}));
  for (int k = 0; k < 4; ++k) rows[0][k] = static_cast<unsigned>(all[g + k]), rows[1][k] = static_cast<unsigned>(all[g + k] >> 32);
  all = emulated::meet(0xffffffffu, b);
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 4; ++k)
      d[i] = __dp4a(static_cast<int>(rows[i / 2][k]), static_cast<int>(all[4 * (2 * t + i % 2) + k]), d[i]);
}

}  // namespace nk::device

namespace nk::emulated {

inline void run_block(unsigned threads, unsigned bytes, int order, std::mt19937& random, std::vector<unsigned char>& memory) {
  memory.assign(bytes + kGuard + 128, kFence);
  block.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(memory.data()) + 127) & ~uintptr_t{127});
  std::memset(block.shared, kPoison, bytes);
  block.fibers.assign(threads, {});
  block.warps.assign((threads + 31) / 32, {});
  block.stacks.resize(std::max<size_t>(block.stacks.size(), size_t{threads} * kStack));
  block.arrived = block.generation = 0;
  block.votes[0] = block.votes[1] = 0;
  block.alive = threads;
  std::vector<unsigned> turns(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.index = turns[i] = i;
    fiber.thread = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
    fiber.groups.emplace_back();
    prepare(fiber, block.stacks.data() + size_t{i} * kStack);
  }
  if (order == 1) std::reverse(turns.begin(), turns.end());
  stopping = false;
  while (block.alive) {
    const uint64_t before = block.progress;
    if (order == 2) std::shuffle(turns.begin(), turns.end(), random);
    for (const unsigned i : turns) {
      if (block.fibers[i].done) continue;
      current = &block.fibers[i];
      thread_index = current->thread;
      enter(*current);
    }
    if (block.progress == before && !stopping) {
      complain("threads of block (%u, %u) wait for each other for ever", block_index.x, block_index.y);
      return;  // their stacks are given up: nothing on them owns memory but the queues of copies
    }
  }
  for (unsigned i = 0; i < kGuard; ++i)
    if (block.shared[bytes + i] != kFence) complain("shared memory is overrun by a byte at %u of %u", bytes + i, bytes);
}

}  // namespace nk::emulated

/// Runs a kernel over a grid, one block after the other. Returns what went wrong, or null.
extern "C" inline __attribute__((used)) const char* nk_emulate(
    void (*kernel)(const void*), const void* arguments, const unsigned* grid, const unsigned* threads, unsigned shared, int order,
    unsigned seed) {
  using namespace nk::emulated;
  trouble[0] = 0;
  body = kernel;
  nk::emulated::arguments = arguments;
  grid_size = {grid[0], grid[1], grid[2]};
  block_size = {threads[0], threads[1], threads[2]};
  std::mt19937 random(seed);
  std::vector<unsigned char> memory;
  const uint64_t blocks = uint64_t{grid[0]} * grid[1] * grid[2];
  for (uint64_t i = 0; i < blocks && !trouble[0]; ++i) {
    const uint64_t at = order == 1 ? blocks - 1 - i : i;
    block_index = {static_cast<unsigned>(at % grid[0]), static_cast<unsigned>(at / grid[0] % grid[1]),
                   static_cast<unsigned>(at / (uint64_t{grid[0]} * grid[1]))};
    run_block(threads[0] * threads[1] * threads[2], shared, order, random, memory);
  }
  return trouble[0] ? trouble : nullptr;
}
