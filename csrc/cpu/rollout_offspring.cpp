// The next generation: every number from a counter, so any thread may make any child.
#include <algorithm>
#include <vector>

#include "common/multiversion.h"
#include "common/parallel.h"
#include "common/philox.h"
#include "cpu/rollout.h"

namespace nk::rollout {
namespace {

// What a draw is for, the fourth word of its counter: neurokernels/ops/evolution/philox.py.
enum Stream : uint32_t { kParent = 3, kMutation = 4, kSeverance = 5 };

/// Whether the connections of a child are severed: each word of a draw decides on one of four.
NK_MULTIVERSION void sever(const Brood& brood, uint32_t child, uint8_t* severed) {
  for (int64_t block = 0; block < (brood.edges + 3) / 4; ++block) {
    const philox::Words words = philox::draw(brood.seed, static_cast<uint32_t>(block), child, brood.generation, kSeverance);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) severed[4 * block + i] = words.w[i] < brood.severance;
  }
}

NK_MULTIVERSION void mutate(const Brood& brood, uint32_t child, const float* from, const uint8_t* exists, float* to) {
  const float limit = brood.limit, mutation = brood.mutation;
  const uint64_t seed = brood.seed;
  const uint32_t generation = brood.generation;
#pragma GCC ivdep
  for (int64_t e = 0; e < brood.edges; ++e) {
    const philox::Words words = philox::draw(seed, static_cast<uint32_t>(e), child, generation, kMutation);
    const float mutated = from[e] + philox::normal(words) * mutation;
    const float bounded = mutated > limit ? limit : mutated < -limit ? -limit : mutated;
    to[e] = exists[e] ? bounded : 0.0f;
  }
}

}  // namespace

void offspring(const Brood& brood, float* weights, uint8_t* mask, int threads) {
  const int64_t edges = brood.edges;
  parallel_for(brood.agents, 1, threads, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> severed(edges + 3);
    for (int64_t agent = begin; agent < end; ++agent) {
      const uint32_t child = static_cast<uint32_t>(agent);
      const uint32_t word = philox::draw(brood.seed, 0, child, brood.generation, kParent).w[0];
      const int64_t parent =
          brood.parents[agent < brood.kept ? agent : philox::below(word, static_cast<uint32_t>(brood.kept))] * edges;
      float* to = weights + agent * edges;
      uint8_t* exists = mask + agent * edges;
      std::copy_n(brood.mask + parent, edges, exists);
      std::copy_n(brood.weights + parent, edges, to);
      if (agent < brood.kept) continue;
      if (brood.severance) {
        sever(brood, child, severed.data());
        for (int64_t e = 0; e < edges; ++e) exists[e] &= static_cast<uint8_t>(!severed[e]);
      }
      mutate(brood, child, brood.weights + parent, exists, to);
    }
  });
}

}  // namespace nk::rollout
