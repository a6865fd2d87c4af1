// What the kernels of rollouts share: their arguments, a walker in a maze, activations.
//
// A warp is one agent in up to 32 mazes. Lane l walks in maze l, whatever the network that says where to.
#pragma once

#include "common/tanh.h"
#include "cuda/device.cuh"

namespace nk::rollout {

using device::kAll;
using device::lane;

// In the order of neurokernels/ops/evolution/network.py.
constexpr int kTanh = 0, kRelu = 1, kSign = 2;
constexpr int kInputs = 8, kCommands = 3, kNoCommand = 3;

constexpr int kMostThreads = 128;

/// neurokernels/ops/evolution/cuda.py has the same.
struct Rollout {
  const void* weights;      // [agents, edges], float or int8
  const uint8_t* mask;      // [agents, edges]
  const int32_t* wiring;    // [edges]: the row that a connection reads and, times 2^16, one more than its target if it is the target's last
  const int32_t* layer_ends;  // [layers], in hidden units
  const uint8_t* walls;     // [mazes, cells]
  const int32_t* places;    // [3, mazes]: start, goal, heading at the start
  const int32_t *position, *heading, *motor;  // [agents, mazes]; null for the beginning
  const float* hidden;                        // [agents, mazes, units]
  int32_t *new_position, *new_heading, *new_motor;  // null unless wanted
  float* new_hidden;
  int32_t* goals;  // [agents, mazes]
  int32_t mazes, cells, width, units, layers, edges, steps, activation, forget;
  int32_t recurrent;   // whether units read units, in a network of one layer
  uint32_t columns;    // of one layer: the column of each input in a unit's row, four bits each, 15 for none
  int32_t sources;     // of one layer: columns of a unit's row
  int32_t chunks, span;  // blocks of an agent; mazes of a warp, 16 or 32
  int32_t list_cost;   // what a step may cost for connections to be listed rather than multiplied as matrices
  int32_t walls_stride;  // bytes between mazes in shared memory, 0 for walls that stay in global memory
  int32_t warp_bytes, list_bytes;  // of shared memory: of a warp, of a block's lists
  uint32_t table[32];  // the integer tanh: what a segment begins with, with what rounds the result, and in the lower ten bits how it rises
};

struct Floats {
  using T = float;
  static constexpr float kOne = 1;
  static constexpr bool kDropsZeros = false;  // zero times an infinite unit is NaN
};
struct Integers {
  using T = int;
  static constexpr int kOne = 127;
  static constexpr bool kDropsZeros = true;
};

__device__ __forceinline__ float weight(const Rollout& p, Floats, int64_t at) { return static_cast<const float*>(p.weights)[at]; }
__device__ __forceinline__ int weight(const Rollout& p, Integers, int64_t at) { return static_cast<const int8_t*>(p.weights)[at]; }

__device__ __forceinline__ float multiplied(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ int multiplied(int a, int b, int c) { return a * b + c; }

/// See common/tanh.h. NaN stays NaN.
__device__ __forceinline__ float squashed(float x, unsigned) {
  x = device::larger(device::smaller(x, tanh::kMost), -tanh::kMost);
  const float y = __fmul_rn(x, x);
  float p = __fmaf_rn(tanh::kP3, y, tanh::kP2), q = __fmaf_rn(tanh::kQ4, y, tanh::kQ3);
  p = __fmaf_rn(p, y, tanh::kP1), q = __fmaf_rn(q, y, tanh::kQ2);
  p = __fmaf_rn(p, y, tanh::kP0), q = __fmaf_rn(q, y, tanh::kQ1);
  return __fmul_rn(__fmul_rn(x, p), device::reciprocal(__fmaf_rn(q, y, 1.0f)));
}

/// Linear between the knots, of which lane i holds the i-th segment: neurokernels/ops/evolution/fixed.py.
__device__ __forceinline__ int squashed(int total, unsigned segment) {
  const int size = min(total < 0 ? -total : total, 512 * 32 - 1);
  const unsigned found = __shfl_sync(kAll, segment, size >> 9);
  const int value = static_cast<int>((found >> 10) + (found & 1023) * (size & 511)) >> 15;
  return total < 0 ? -value : value;
}

__device__ __forceinline__ float signed_one(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x; }
__device__ __forceinline__ int signed_one(int x) { return x > 0 ? 127 : x < 0 ? -127 : 0; }
__device__ __forceinline__ float rectified(float x) { return x <= 0 ? 0.0f : x; }
__device__ __forceinline__ int rectified(int x) { return x; }  // refused for integers

/// The largest of three outputs; the first of equal ones. NaN is larger than nothing.
template <class T>
__device__ __forceinline__ int command(T forward, T left, T right) {
  const bool turns = left > forward;
  return right > (turns ? left : forward) ? 2 : turns;
}

/// One lane's walker, in maze `first` + lane; lanes beyond the last maze repeat it.
struct Walker {
  const uint8_t* walls;
  int64_t at;  // of the agent and the maze in [agents, mazes]
  int32_t maze, position, heading, motor, goals, start, goal, facing;
  bool mine, there, free;

  __device__ __forceinline__ Walker(const Rollout& p, int64_t agent, int first, unsigned char* own) {
    const int behind = lane() & (p.span - 1);
    maze = min(first + behind, p.mazes - 1);
    mine = lane() < p.span && first + lane() < p.mazes;
    at = agent * p.mazes + maze;
    start = p.places[maze], goal = p.places[p.mazes + maze], facing = p.places[2 * p.mazes + maze];
    position = p.position ? p.position[at] : start, heading = p.heading ? p.heading[at] : facing;
    motor = p.motor ? p.motor[at] : kNoCommand;
    goals = 0, there = free = false;
    walls = p.walls + int64_t{maze} * p.cells;
    if (p.walls_stride) {
      const int count = min(p.span, p.mazes - first);
      for (int m = 0; m < count; ++m)
        for (int cell = lane(); cell < p.cells; cell += 32) own[m * p.walls_stride + cell] = p.walls[int64_t{first + m} * p.cells + cell];
      __syncwarp();
      walls = own + (maze - first) * p.walls_stride;
    }
  }

  /// The inputs as bits: walls left, in front and right, a bias, the goal, the last command.
  __device__ __forceinline__ int sense() {
    const int sides = (walls[position] * 17) >> heading;  // the four bits twice: front, right, back, left
    there = position == goal, free = (sides & 1) == 0;
    return (sides >> 3 & 1) | (sides & 3) << 1 | 8 | int{there} << 4 | (32 << motor & 0xe0);
  }

  __device__ __forceinline__ void act(const Rollout& p, int given) {
    // North and south are a row away, east and south ahead in the numbering.
    const int stride = heading & 1 ? 1 : p.width, move = ((heading + 1) & 2) ? stride : -stride;
    const int walked = given == 0 && free ? position + move : position;
    const int turned = (heading + (given == 2) - (given == 1)) & 3;
    goals += there;
    position = there ? start : walked, heading = there ? facing : turned;
    motor = p.forget && there ? kNoCommand : given;
  }

  __device__ __forceinline__ void leave(const Rollout& p) const {
    if (!mine) return;
    p.goals[at] = goals;
    if (p.new_position) p.new_position[at] = position, p.new_heading[at] = heading, p.new_motor[at] = motor;
  }
};

}  // namespace nk::rollout
