// Kernels that are right, and kernels with one mistake each: what the emulator is tested with.
#include "cuda/device.cuh"

using namespace nk::device;

namespace {

struct Vector {
  const float* x;
  float* y;
  int n, mistake;
};

}  // namespace

/// Each block's sum of its part, by warps and then by one warp.
NK_KERNEL(block_sums, Vector, 256) {
  NK_SHARED(memory);
  float* partial = reinterpret_cast<float*>(memory);
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), warps = static_cast<int>(blockDim.x / 32);
  const float mine = sum(i < p.n ? p.x[i] : 0.0f);
  if (lane() == 0) partial[threadIdx.x / 32] = mine;
  if (p.mistake == 0) __syncthreads();
  if (threadIdx.x < 32) {
    const float all = sum(lane() < warps ? partial[lane()] : 0.0f);
    if (lane() == 0) p.y[blockIdx.x] = all;
  }
  if (p.mistake == 1 && threadIdx.x == 0) partial[warps] = 1;
}

/// Twice x, through shared memory, the tiles of three steps under way.
NK_KERNEL(staged, Vector, 32) {
  NK_SHARED(memory);
  float4* stage = reinterpret_cast<float4*>(memory);
  const float4* x = reinterpret_cast<const float4*>(p.x);
  const int tiles = p.n / 128;
  for (int t = 0; t < 3; ++t) {
    if (t < tiles) copy_async<16>(stage + t * 32 + threadIdx.x, x + t * 32 + threadIdx.x);
    commit();
  }
  for (int t = 0; t < tiles; ++t) {
    if (p.mistake == 0)
      wait<2>();
    else
      wait<3>();
    const float4 v = stage[t % 3 * 32 + static_cast<int>(threadIdx.x)];
    reinterpret_cast<float4*>(p.y)[t * 32 + static_cast<int>(threadIdx.x)] = {2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w};
    if (t + 3 < tiles) copy_async<16>(stage + t % 3 * 32 + threadIdx.x, x + (t + 3) * 32 + threadIdx.x);
    commit();
  }
}

/// Warp operations that not all lanes of the mask reach, and barriers that not all threads reach.
NK_KERNEL(divergent, Vector, 64) {
  if (p.mistake == 1 && threadIdx.x < 7) p.y[threadIdx.x] = static_cast<float>(__ballot_sync(kAll, 1));
  if (p.mistake == 2 && threadIdx.x == 0) __syncwarp();
  if (p.mistake == 2) __syncthreads();
  if (p.mistake == 3) __shfl_sync(lane() == 0 ? kAll : 0xfffffffeu, 1.0f, 0);
  if (p.mistake == 0) p.y[threadIdx.x] = static_cast<float>(__syncthreads_count(threadIdx.x % 3 == 0));
}
