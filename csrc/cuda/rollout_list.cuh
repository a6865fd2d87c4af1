// Any network, as a list of the connections that an agent has: severed ones are no work, nor are units that no output can depend on.
//
// Shared memory holds the lists, one for the warps of a block, and for each warp rows of 32 lanes: inputs, hidden units, new sums. A lane
// reads its own column alone, so a step needs no barrier. A connection is two loads (one is the same for all lanes) and one multiply-add.
#pragma once

#include "cuda/rollout_walk.cuh"

namespace nk::rollout {

/// A connection that exists: its weight, and where its row begins, in elements.
template <class T>
struct alignas(8) Edge {
  T weight;
  int32_t row;
};

/// The lists of one agent. `jobs` are the units that work: first and last connection, and where the unit's row begins.
template <class T>
struct Lists {
  int4* jobs;           // [units]
  Edge<T>* edges;       // [edges]
  int32_t* ends;        // [units + 3]: where the connections of each target end
  int32_t* live;        // [units]
  int32_t* layer_jobs;  // [layers]: where the jobs of each layer end
  int32_t* counts;      // [warps]

  __device__ __forceinline__ Lists(const Rollout& p, unsigned char* memory) {
    jobs = reinterpret_cast<int4*>(memory);
    edges = reinterpret_cast<Edge<T>*>(jobs + p.units);
    ends = reinterpret_cast<int32_t*>(edges + p.edges);
    live = ends + p.units + kCommands, layer_jobs = live + p.units, counts = layer_jobs + p.layers;
  }

  __device__ __forceinline__ int begin(int target) const { return target ? ends[target - 1] : 0; }
};

/// Keeps the connections that exist, in their order, which is by target. In integers, those of weight zero are none.
template <class Mode, class T = typename Mode::T>
__device__ void gather(const Rollout& p, int64_t agent, const Lists<T>& lists) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x), warp = thread / 32;
  int found = 0;
  NK_ROLLED
  for (int base = 0; base < p.edges; base += threads) {
    const int e = base + thread;
    const bool there = e < p.edges;
    const T value = there ? weight(p, Mode{}, agent * p.edges + e) : T{0};
    const int wire = there ? p.wiring[e] : 0;
    const bool exists = there && p.mask[agent * p.edges + e] && (!Mode::kDropsZeros || value != T{0});
    const unsigned kept = __ballot_sync(kAll, exists);
    if (lane() == 0) lists.counts[warp] = __popc(kept);
    __syncthreads();
    int before = found;
    NK_ROLLED
    for (int w = 0; w < threads / 32; ++w) {
      const int count = lists.counts[w];
      before += w < warp ? count : 0, found += count;
    }
    const int mine = before + __popc(kept & ((1u << lane()) - 1));
    if (exists) lists.edges[mine] = {value, (wire & 0xffff) * 32};
    if (wire >> 16) lists.ends[(wire >> 16) - 1] = mine + exists;
    __syncthreads();
  }
}

/// Marks what outputs read, and what that reads, until nothing new is found. Returns how many units that are.
template <class T>
__device__ int find_live(const Rollout& p, const Lists<T>& lists) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int u = thread; u < p.units; u += threads) lists.live[u] = 0;
  bool changed;
  do {
    __syncthreads();
    changed = false;
    for (int target = thread; target < p.units + kCommands; target += threads) {
      if (target < p.units && !lists.live[target]) continue;
      NK_ROLLED
      for (int e = lists.begin(target); e < lists.ends[target]; ++e) {
        const int unit = lists.edges[e].row / 32 - kInputs;
        if (unit >= 0 && !lists.live[unit]) lists.live[unit] = 1, changed = true;
      }
    }
  } while (__syncthreads_or(changed));
  int found = 0;
  for (int base = 0; base < p.units; base += threads) found += __syncthreads_count(base + thread < p.units && lists.live[base + thread]);
  return found;
}

/// The units that are live, or all if the state is wanted.
template <class T>
__device__ void set_jobs(const Rollout& p, const Lists<T>& lists) {
  if (threadIdx.x == 0)
    for (int layer = 0, u = 0, job = 0; layer < p.layers; ++layer) {
      for (; u < p.layer_ends[layer]; ++u)
        if (lists.live[u] || p.new_hidden) lists.jobs[job++] = {lists.begin(u), lists.ends[u], (kInputs + u) * 32, 0};
      lists.layer_jobs[layer] = job;
    }
  __syncthreads();
}

template <class T>
__device__ __forceinline__ T total(const Edge<T>* edges, int begin, int end, const T* column) {
  T sums[2] = {0, 0};
  int e = begin;
  NK_ROLLED
  for (; e + 4 <= end; e += 4)
    NK_UNROLL
    for (int i = 0; i < 4; ++i) sums[i % 2] = multiplied(edges[e + i].weight, column[edges[e + i].row], sums[i % 2]);
  NK_ROLLED
  for (; e < end; ++e) sums[0] = multiplied(edges[e].weight, column[edges[e].row], sums[0]);
  return sums[0] + sums[1];
}

template <class T, class Squash>
__device__ __forceinline__ void settle(const int4* jobs, int begin, int end, const T* fresh, T* column, Squash squash) {
  int job = begin;
  NK_ROLLED
  for (; job + 4 <= end; job += 4)
    NK_UNROLL
    for (int i = 0; i < 4; ++i) column[jobs[job + i].z] = squash(fresh[(job + i - begin) * 32]);
  NK_ROLLED
  for (; job < end; ++job) column[jobs[job].z] = squash(fresh[(job - begin) * 32]);
}

/// The episode. `own` is the warp's memory: rows of inputs and hidden units, then of new sums.
template <class Mode, class T = typename Mode::T>
__device__ void walk(const Rollout& p, Walker& walker, const Lists<T>& lists, unsigned char* own) {
  T *column = reinterpret_cast<T*>(own) + lane(), *fresh = column + (kInputs + p.units) * 32;
  const unsigned segment = p.table[lane()];
  for (int u = 0; u < p.units; ++u)
    column[(kInputs + u) * 32] = p.hidden ? static_cast<T>(p.hidden[walker.at * p.units + u]) : T{0};
  for (int t = 0; t < p.steps; ++t) {
    const int seen = walker.sense();
    NK_UNROLL
    for (int i = 0; i < kInputs; ++i) column[i * 32] = seen >> i & 1 ? Mode::kOne : T{0};
    for (int layer = 0, job = 0; layer < p.layers; ++layer) {
      const int begin = job, end = lists.layer_jobs[layer];
      NK_ROLLED
      for (; job < end; ++job) {
        const int4 work = lists.jobs[job];
        fresh[(job - begin) * 32] = total(lists.edges, work.x, work.y, column);
      }
      if (p.activation == kTanh) settle(lists.jobs, begin, end, fresh, column, [&](T x) { return squashed(x, segment); });
      else if (p.activation == kSign) settle(lists.jobs, begin, end, fresh, column, [](T x) { return signed_one(x); });
      else settle(lists.jobs, begin, end, fresh, column, [](T x) { return rectified(x); });
    }
    T said[kCommands];
    NK_UNROLL
    for (int i = 0; i < kCommands; ++i) said[i] = total(lists.edges, lists.begin(p.units + i), lists.ends[p.units + i], column);
    walker.act(p, command(said[0], said[1], said[2]));
    if (p.forget)
      for (int u = 0; u < p.units; ++u) column[(kInputs + u) * 32] = walker.there ? T{0} : column[(kInputs + u) * 32];
  }
  if (p.new_hidden && walker.mine)
    for (int u = 0; u < p.units; ++u) p.new_hidden[walker.at * p.units + u] = static_cast<float>(column[(kInputs + u) * 32]);
}

}  // namespace nk::rollout
