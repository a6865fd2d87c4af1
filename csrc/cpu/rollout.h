// Agents that walk through mazes, and their offspring, on the CPU: what bindings.cpp calls. Lanes are mazes: all lanes of a register run
// the same agent, so weights are broadcast and an agent's severed connections are no work. See rollout_kernel.h.
#pragma once

#include <cstdint>

namespace nk::rollout {

enum class Activation : int { kTanh = 0, kRelu = 1, kSign = 2 };

/// Inputs that there can be, in the order of neurokernels/ops/evolution/network.py: three walls, bias, goal, three last commands.
constexpr int kInputs = 8, kBias = 3, kCommands = 3, kNoCommand = 3;

/// `count` mazes of height x width cells; walls [count, cells], the rest [count].
struct Mazes {
  int64_t count;
  int32_t height, width;
  const uint8_t* walls;
  const int32_t *start, *goal, *facing;
};

/// Connections of any agent. Targets are the hidden units, layer by layer, and the three outputs: those into target j are [first[j],
/// first[j + 1]), and each one reads a row: an input, or kInputs + a hidden unit.
struct Network {
  int32_t units, layers;
  const int32_t *layer_ends, *first, *rows;
  Activation activation;
};

/// [agents, connections]. In exact mode weights are the integers of neurokernels/ops/evolution/fixed.py, held in float32.
struct Agents {
  int64_t count;
  const float* weights;
  const uint8_t* mask;
};

/// [agents, mazes] and [agents, mazes, units]; null where there is none.
struct State {
  int32_t *position, *heading, *motor;
  float* hidden;
};

struct Options {
  int64_t steps;
  bool forget;           // whether the way back to the start clears hidden units and the last command
  const int32_t* knots;  // the table of the integer tanh, kKnots of them; null in float mode
};
constexpr int kKnots = 33;

/// Instruction sets, best first; kBest is the best that this processor has.
enum class Level : int { kBest = -1, kV4 = 0, kV3 = 1, kBaseline = 2 };
bool has(Level level);

/// `goals` [agents, mazes]. Starts from `from` unless it is null, leaves the state in `to` unless that is. A result depends on its agent
/// and its maze alone; in exact mode not on the level either. Throws std::invalid_argument for a level that is not there.
void run(const Agents& agents, const Network& network, const Mazes& mazes, const Options& options, const State* from, const State* to,
         int32_t* goals, int threads, Level level = Level::kBest);

/// The next generation of [agents, edges]: `kept` parents as they are, then children of parents drawn at random, their weights mutated
/// within [-limit, limit] and their connections severed where a word is below `severance` (of 2^32).
struct Brood {
  int64_t agents, edges, kept;
  const float* weights;
  const uint8_t* mask;
  const int64_t* parents;
  uint32_t generation;
  uint64_t seed, severance;
  float mutation, limit;
};
void offspring(const Brood& brood, float* weights, uint8_t* mask, int threads);

}  // namespace nk::rollout
