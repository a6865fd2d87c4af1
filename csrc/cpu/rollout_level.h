// One compilation of the rollout: how many bytes its registers have, and what it is called with.
#pragma once

#include "cpu/rollout.h"

// Vector types are lowered before GCC clones functions for several targets, so that target_clones would come too late: rollout_v4.cpp,
// rollout_v3.cpp and rollout_baseline.cpp compile the same header, each with its own instruction set and in its own namespace.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define NK_ROLLOUT_LEVELS 1
#else
#define NK_ROLLOUT_LEVELS 0
#endif

namespace nk::rollout {

/// Registers that one weight is broadcast to at once, and the lanes that they have at most.
constexpr int kMostRegisters = 4, kMostLanes = kMostRegisters * 16;

/// Rows beside those of hidden units: inputs before them, outputs and nobody behind.
constexpr int kRows = kInputs + kCommands + 1;

/// A connection that exists: its weight and the row that it reads.
struct Edge {
  float weight;
  int32_t row;
};

/// Two targets of one layer, which share the rows that both read, or one target and a second that is nobody. Their connections follow those
/// of the pair before: up to `shared` both read one row, up to `zipped` each reads its own (in both parts one entry for the first and one
/// for the second in turn), and up to `end` the first reads what it has more.
struct Pair {
  int32_t rows[2];  // where their sums belong
  float biases[2];  // what the bias, an input that is always on, adds
  int32_t count, shared, zipped, end;
};

/// What is left of a network when one agent's severed connections are gone.
struct Plan {
  const Edge* edges;
  const Pair* pairs;  // those of the hidden layers, then those of the outputs
  const int32_t* layer_ends;
  int32_t layers, end;
};

/// One agent in as many mazes as there are lanes. Cells are numbered through the mazes of all lanes.
struct Episode {
  const Plan* plan;
  const uint8_t* around;  // the walls of a cell, twice: shifted by a heading they begin with the wall in front
  const int32_t *start, *goal, *facing;
  int32_t lanes, width, hidden;  // lanes: a register's, twice or four times as many
  int64_t steps;
  bool forget;
  Activation activation;
  const int32_t* segments;  // of the integer tanh, kKnots - 1: how each begins, and in the lower half how it rises; null in float mode
  int32_t *position, *heading, *motor, *goals;  // [kMostLanes], changed
  float *rows, *fresh;  // [kRows + hidden, lanes], aligned: inputs and hidden units, which are the state; new sums, also of outputs
};

#if NK_ROLLOUT_LEVELS
namespace v4 {
void run(const Episode& episode);
constexpr int kRegister = 64;
}  // namespace v4
namespace v3 {
void run(const Episode& episode);
constexpr int kRegister = 32;
}  // namespace v3
#endif
namespace baseline {
void run(const Episode& episode);
constexpr int kRegister = 16;
}  // namespace baseline

}  // namespace nk::rollout
