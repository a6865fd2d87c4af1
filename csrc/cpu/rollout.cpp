// Picks the instruction set, cuts the mazes into groups of lanes, and shares agents and groups among threads.
#include "cpu/rollout.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/parallel.h"
#include "cpu/rollout_level.h"
#include "cpu/rollout_plan.h"

namespace nk::rollout {
namespace {

struct Compiled {
  void (*run)(const Episode& episode);
  int32_t lanes;
};

Compiled compiled(Level level) {
#if NK_ROLLOUT_LEVELS
  if (level == Level::kV4) return {v4::run, v4::kRegister / 4};
  if (level == Level::kV3) return {v3::run, v3::kRegister / 4};
#endif
  (void)level;
  return {baseline::run, baseline::kRegister / 4};
}

Level best() {
  static const Level found = has(Level::kV4) ? Level::kV4 : has(Level::kV3) ? Level::kV3 : Level::kBaseline;
  return found;
}

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<float, Free>;

Memory allocated(int64_t floats) {
  const size_t bytes = (std::max<int64_t>(floats, 1) * sizeof(float) + 63) / 64 * 64;
  Memory memory(static_cast<float*>(std::aligned_alloc(64, bytes)));
  if (!memory) throw std::bad_alloc();
  std::fill_n(memory.get(), bytes / sizeof(float), 0.0f);
  return memory;
}

/// The walls of all mazes, each cell's four bits twice, and the bytes behind them that a gather may read.
std::vector<uint8_t> doubled(const Mazes& mazes, int64_t cells) {
  std::vector<uint8_t> around(mazes.count * cells + 3);
  for (int64_t i = 0; i < mazes.count * cells; ++i) around[i] = mazes.walls[i] | static_cast<uint8_t>(mazes.walls[i] << 4);
  return around;
}

/// The integer tanh: what each segment begins with, and in the lower half how it rises.
struct Table {
  int32_t segments[kKnots - 1];

  explicit Table(const int32_t* knots) {
    for (int i = 0; knots && i < kKnots - 1; ++i) segments[i] = knots[i] << 16 | (knots[i + 1] - knots[i]);
  }
};

/// Mazes [first, first + count) in the lanes of one group. Lanes that are left over repeat the last maze.
struct Group {
  int64_t first;
  int32_t count, lanes;

  int64_t maze(int lane) const { return first + std::min(lane, count - 1); }
};

/// One thread's memory and what it has read of the agent and the group at hand.
class Worker {
 public:
  Worker(const Agents& agents, const Network& network, const Mazes& mazes, const Options& options, const uint8_t* around,
         const Table& table)
      : agents_(agents),
        network_(network),
        mazes_(mazes),
        cells_(int64_t{mazes.height} * mazes.width),
        around_(around),
        planner_(network),
        rows_(allocated(int64_t{kRows + network.units} * kMostLanes)),
        fresh_(allocated(int64_t{kRows + network.units} * kMostLanes)) {
    episode_.width = mazes.width, episode_.hidden = network.units;
    episode_.steps = options.steps, episode_.forget = options.forget, episode_.activation = network.activation;
    episode_.segments = options.knots ? table.segments : nullptr;
    episode_.start = start_, episode_.goal = goal_, episode_.facing = facing_;
    episode_.position = position_, episode_.heading = heading_, episode_.motor = motor_, episode_.goals = goals_;
    episode_.rows = rows_.get(), episode_.fresh = fresh_.get();
  }

  /// Reads the connections of an agent; only those that a command can depend on unless all units are wanted.
  void meet(int64_t agent, bool all) {
    agent_ = agent;
    const int64_t edges = network_.first[network_.units + kCommands];
    const bool exact = episode_.segments != nullptr;
    plan_ = planner_.plan(agents_.weights + agent * edges, agents_.mask + agent * edges, exact ? 127.0f : 1.0f, exact, all);
    episode_.plan = &plan_;
  }

  void run(const Compiled& kernel, const Group& group, const State* from, const State* to, int32_t* goals) {
    enter(group, from);
    kernel.run(episode_);
    std::copy_n(goals_, group.count, goals + agent_ * mazes_.count + group.first);
    if (to) leave(group, *to);
  }

 private:
  int32_t offset(const Group& group, int lane) const { return static_cast<int32_t>((group.maze(lane) - group.first) * cells_); }

  void enter(const Group& group, const State* from) {
    episode_.lanes = group.lanes, episode_.around = around_ + group.first * cells_;
    std::fill_n(rows_.get(), int64_t{kInputs + network_.units} * group.lanes, 0.0f);
    for (int l = 0; l < group.lanes; ++l) {
      const int64_t maze = group.maze(l), at = agent_ * mazes_.count + maze;
      start_[l] = mazes_.start[maze] + offset(group, l), goal_[l] = mazes_.goal[maze] + offset(group, l);
      facing_[l] = mazes_.facing[maze], goals_[l] = 0;
      position_[l] = from ? from->position[at] + offset(group, l) : start_[l];
      heading_[l] = from ? from->heading[at] : facing_[l], motor_[l] = from ? from->motor[at] : kNoCommand;
      for (int64_t u = 0; from && u < network_.units; ++u) row(group, u)[l] = from->hidden[at * network_.units + u];
    }
  }

  void leave(const Group& group, const State& to) {
    for (int l = 0; l < group.count; ++l) {
      const int64_t at = agent_ * mazes_.count + group.first + l;
      to.position[at] = position_[l] - offset(group, l), to.heading[at] = heading_[l], to.motor[at] = motor_[l];
      for (int64_t u = 0; u < network_.units; ++u) to.hidden[at * network_.units + u] = row(group, u)[l];
    }
  }

  float* row(const Group& group, int64_t unit) { return rows_.get() + (kInputs + unit) * group.lanes; }

  const Agents& agents_;
  const Network& network_;
  const Mazes& mazes_;
  const int64_t cells_;
  const uint8_t* around_;
  Planner planner_;
  Plan plan_{};
  Episode episode_{};
  int64_t agent_ = -1;
  Memory rows_, fresh_;
  int32_t start_[kMostLanes], goal_[kMostLanes], facing_[kMostLanes];
  int32_t position_[kMostLanes], heading_[kMostLanes], motor_[kMostLanes], goals_[kMostLanes];
};

}  // namespace

bool has(Level level) {
#if NK_ROLLOUT_LEVELS
  if (level == Level::kV4) return __builtin_cpu_supports("x86-64-v4");
  if (level == Level::kV3) return __builtin_cpu_supports("x86-64-v3");
#endif
  return level == Level::kBaseline || level == Level::kBest;
}

void run(const Agents& agents, const Network& network, const Mazes& mazes, const Options& options, const State* from, const State* to,
         int32_t* goals, int threads, Level level) {
  if (!has(level))
    throw std::invalid_argument("rollout: this processor or build lacks instruction set level " + std::to_string(int(level)));
  const Compiled kernel = compiled(level == Level::kBest ? best() : level);
  const std::vector<uint8_t> around = doubled(mazes, int64_t{mazes.height} * mazes.width);
  const Table table(options.knots);
  std::vector<Group> groups;
  for (int64_t first = 0; first < mazes.count;) {
    const int64_t left = mazes.count - first;
    const int32_t lanes = kernel.lanes * (left > 2 * kernel.lanes ? 4 : left > kernel.lanes ? 2 : 1);
    groups.push_back({first, static_cast<int32_t>(std::min<int64_t>(left, lanes)), lanes});
    first += lanes;
  }
  const int64_t count = groups.size();
  parallel_for(agents.count * count, 1, threads, [&](int64_t begin, int64_t end) {
    Worker worker(agents, network, mazes, options, around.data(), table);
    for (int64_t task = begin; task < end; ++task) {
      if (task == begin || task % count == 0) worker.meet(task / count, to != nullptr);
      worker.run(kernel, groups[task % count], from, to, goals);
    }
  });
}

}  // namespace nk::rollout
