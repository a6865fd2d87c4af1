// Whole episodes of agents in mazes, and the next generation. See neurokernels/ops/evolution/README.md.
//
// A block is one agent in some of its mazes, 16 or 32 for each warp. A small network runs as matrices (rollout_dense.cuh), unless so little
// is left of it that its connections are better listed; any other one runs as a list (rollout_list.cuh).
#include "common/philox.h"
#include "cuda/rollout_dense.cuh"
#include "cuda/rollout_list.cuh"

namespace nk::rollout {
namespace {

template <class Mode, int J>
struct Dense;
template <int J>
struct Dense<Floats, J> {
  using Net = FloatNet<J>;
};
template <int J>
struct Dense<Integers, J> {
  using Net = ExactNet<J>;
};

/// What a step of listed connections costs beside what any network costs, in instructions of a warp, counted in machine code.
__device__ __forceinline__ int cost(int units, int edges) { return 43 * units + 5 * edges; }

/// J is the number of tiles of units, 0 for lists alone.
template <class Mode, int J>
__device__ __forceinline__ void run(const Rollout& p) {
  using T = typename Mode::T;
  NK_SHARED(memory);
  const int64_t agent = blockIdx.x / p.chunks;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int first = (static_cast<int>(blockIdx.x % p.chunks) * static_cast<int>(blockDim.x / 32) + warp) * p.span;
  unsigned char* own = memory + p.list_bytes + warp * p.warp_bytes;
  const bool works = first < p.mazes;
  bool listed = J == 0;
  const Lists<T> lists(p, memory);
  if (J == 0 || p.list_cost > 0) {
    gather<Mode>(p, agent, lists);
    const int units = find_live(p, lists);  // whether the state is wanted or not: which way an agent goes is a matter of rounding
    listed = J == 0 || cost(units, lists.ends[p.units + kCommands - 1]) < p.list_cost;
    if (listed) set_jobs(p, lists);
  }
  if (!works) return;  // no barrier of the block from here on
  Walker walker(p, agent, first, own);
  if (listed) walk<Mode>(p, walker, lists, own + 32 * p.walls_stride);
  else if constexpr (J > 0) walk_dense<J, typename Dense<Mode, J>::Net>(p, agent, first, walker);
  walker.leave(p);
}

}  // namespace

// What the registers of a multiprocessor have room for: a warp with weights in them takes many.
NK_KERNEL_BLOCKS(rollout_float, Rollout, kMostThreads, 8) { run<Floats, 0>(p); }
NK_KERNEL_BLOCKS(rollout_float_8, Rollout, kMostThreads, 6) { run<Floats, 1>(p); }
NK_KERNEL_BLOCKS(rollout_float_16, Rollout, kMostThreads, 4) { run<Floats, 2>(p); }
NK_KERNEL_BLOCKS(rollout_float_24, Rollout, kMostThreads, 3) { run<Floats, 3>(p); }
NK_KERNEL_BLOCKS(rollout_float_32, Rollout, kMostThreads, 2) { run<Floats, 4>(p); }
NK_KERNEL_BLOCKS(rollout_exact, Rollout, kMostThreads, 8) { run<Integers, 0>(p); }
NK_KERNEL_BLOCKS(rollout_exact_8, Rollout, kMostThreads, 6) { run<Integers, 1>(p); }
NK_KERNEL_BLOCKS(rollout_exact_16, Rollout, kMostThreads, 6) { run<Integers, 2>(p); }
NK_KERNEL_BLOCKS(rollout_exact_24, Rollout, kMostThreads, 5) { run<Integers, 3>(p); }
NK_KERNEL_BLOCKS(rollout_exact_32, Rollout, kMostThreads, 4) { run<Integers, 4>(p); }

/// As in csrc/cpu/rollout.h.
struct Brood {
  const float* weights;
  const uint8_t* mask;
  const int64_t* parents;
  float* new_weights;
  uint8_t* new_mask;
  int64_t agents;
  uint64_t seed, severance;
  int32_t edges, kept;
  uint32_t generation;
  float mutation, limit;
};

// What a draw is for: neurokernels/ops/evolution/philox.py.
constexpr uint32_t kParent = 3, kMutation = 4, kSeverance = 5;

/// A thread has four connections of an agent, which one draw decides about.
NK_KERNEL(offspring, Brood, 256) {
  const int fours = (p.edges + 3) / 4;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, agent = thread / fours;
  if (agent >= p.agents) return;
  const int block = static_cast<int>(thread - agent * fours);
  const uint32_t child = static_cast<uint32_t>(agent);
  int64_t row = agent;
  if (agent >= p.kept) row = philox::below(philox::draw(p.seed, 0, child, p.generation, kParent).w[0], static_cast<uint32_t>(p.kept));
  const int64_t from = p.parents[row] * p.edges, to = agent * p.edges;
  const philox::Words severed = philox::draw(p.seed, static_cast<uint32_t>(block), child, p.generation, kSeverance);
  NK_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int e = 4 * block + i;
    if (e >= p.edges) break;
    float weight = p.weights[from + e];
    bool exists = p.mask[from + e];
    if (agent >= p.kept) {
      const float noise = philox::normal(philox::draw(p.seed, static_cast<uint32_t>(e), child, p.generation, kMutation));
      const float mutated = __fadd_rn(weight, __fmul_rn(noise, p.mutation));
      exists = exists && severed.w[i] >= p.severance;
      weight = !exists ? 0.0f : mutated > p.limit ? p.limit : mutated < -p.limit ? -p.limit : mutated;
    }
    p.new_weights[to + e] = weight, p.new_mask[to + e] = exists;
  }
}

}  // namespace nk::rollout
