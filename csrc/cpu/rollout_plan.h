// From the connections that could be there to those of one agent that matter.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/rollout_level.h"

namespace nk::rollout {

class Planner {
 public:
  explicit Planner(const Network& network)
      : network_(network),
        edges_(network.first[network.units + kCommands] + 1),
        ends_(network.units + kCommands),
        biases_(network.units + kCommands),
        live_(kInputs + network.units),
        units_(network.units),
        layer_ends_(network.layers) {}

  /// The plan of an agent, valid until the next one; `one` is an input that is on. Weights of zero are skipped where `zeros` says that they
  /// change nothing. Units that no output can depend on are left out unless `all` are wanted.
  Plan plan(const float* weights, const uint8_t* mask, float one, bool zeros, bool all) {
    gather(weights, mask, one, zeros);
    find_live(all);
    return compact();
  }

 private:
  int32_t begin(int target) const { return target ? ends_[target - 1] : 0; }

  void gather(const float* weights, const uint8_t* mask, float one, bool zeros) {
    int32_t found = 0;
    for (int target = 0; target < network_.units + kCommands; ++target) {
      biases_[target] = 0;
      for (int32_t e = network_.first[target]; e < network_.first[target + 1]; ++e) {
        if (network_.rows[e] == kBias) {
          biases_[target] = mask[e] ? one * weights[e] : 0.0f;
          continue;
        }
        edges_[found] = {weights[e], network_.rows[e]};
        found += (mask[e] != 0) & (!zeros | (weights[e] != 0.0f));  // no branch: which connections exist cannot be predicted
      }
      ends_[target] = found;
    }
  }

  /// Marks what the outputs read, and what that reads, until nothing new is found.
  void find_live(bool all) {
    live_.assign(live_.size(), all);
    if (all) return;
    stack_.clear();
    for (int target = network_.units; target < network_.units + kCommands; ++target) mark(target);
    while (!stack_.empty()) {
      const int unit = stack_.back();
      stack_.pop_back();
      mark(unit);
    }
  }

  void mark(int target) {
    for (int32_t e = begin(target); e < ends_[target]; ++e) {
      const int32_t row = edges_[e].row;
      if (live_[row]) continue;
      live_[row] = true;
      if (row >= kInputs) stack_.push_back(row - kInputs);
    }
  }

  Plan compact() {
    int32_t edges = 0, units = 0;
    Plan plan{edges_.data(), units_.data(), layer_ends_.data(), network_.layers, {}};
    for (int layer = 0, unit = 0; layer < network_.layers; ++layer) {
      for (; unit < network_.layer_ends[layer]; ++unit) {
        if (!live_[kInputs + unit]) continue;
        for (int32_t e = begin(unit); e < ends_[unit]; ++e) edges_[edges++] = edges_[e];
        units_[units++] = {kInputs + unit, edges, biases_[unit]};
      }
      layer_ends_[layer] = units;
    }
    for (int c = 0; c < kCommands; ++c) {
      plan.outputs[c] = edges;
      for (int32_t e = begin(network_.units + c); e < ends_[network_.units + c]; ++e) edges_[edges++] = edges_[e];
    }
    plan.outputs[kCommands] = edges;
    return plan;
  }

  const Network& network_;
  std::vector<Edge> edges_;
  std::vector<int32_t> ends_;
  std::vector<float> biases_;
  std::vector<uint8_t> live_;
  std::vector<Unit> units_;
  std::vector<int32_t> layer_ends_, stack_;
};

}  // namespace nk::rollout
