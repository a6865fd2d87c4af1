// From the connections that could be there to those of one agent that matter.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/rollout_level.h"

namespace nk::rollout {

class Planner {
 public:
  explicit Planner(const Network& network)
      : network_(network),
        edges_(network.first[network.units + kCommands] + 1),
        packed_(edges_.size()),
        ends_(network.units + kCommands),
        biases_(network.units + kCommands),
        live_(kInputs + network.units) {}

  /// The plan of an agent, valid until the next one; `one` is an input that is on. Weights of zero are skipped where `zeros` says that they
  /// change nothing. Units that no output can depend on are left out unless `all` are wanted.
  Plan plan(const float* weights, const uint8_t* mask, float one, bool zeros, bool all) {
    gather(weights, mask, one, zeros);
    find_live(all);
    return pack();
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

  Plan pack() {
    const int32_t outputs = network_.units + kCommands;
    packed_end_ = 0, pairs_.clear(), layer_ends_.clear();
    for (int32_t layer = 0, target = 0; layer <= network_.layers; ++layer) {
      const int32_t end = layer < network_.layers ? network_.layer_ends[layer] : outputs;
      for (; target < end; target += 2) pair(target, target + 1 < end ? target + 1 : outputs);
      target = end;
      layer_ends_.push_back(static_cast<int32_t>(pairs_.size()));
    }
    return {packed_.data(), pairs_.data(), layer_ends_.data(), network_.layers, layer_ends_.back()};
  }

  bool works(int32_t target) const { return target >= network_.units ? target < network_.units + kCommands : live_[kInputs + target]; }

  /// Appends two targets; the second one may be nobody. Their common rows come first even if one of them is not needed: the order of a sum
  /// must not depend on what is needed.
  void pair(int32_t first, int32_t second) {
    if (!works(first) && !works(second)) return;
    const bool both = works(first) && works(second);
    split(first, second);
    if (both ? own_[1].size() > own_[0].size() : works(second)) {
      std::swap(first, second), std::swap(own_[0], own_[1]), std::swap(common_[0], common_[1]);
    }
    const int32_t nobody = network_.units + kCommands;
    Pair made{{kInputs + first, kInputs + (both ? second : nobody)}, {biases_[first], both ? biases_[second] : 0.0f}, 1 + both, 0, 0, 0};
    if (both) zip(common_[0], common_[1], common_[0].size());
    made.shared = packed_end_;
    const size_t zipped = both ? own_[1].size() : 0;
    zip(own_[0], own_[1], zipped);
    made.zipped = packed_end_;
    if (!both) append(common_[0], 0);
    append(own_[0], zipped);
    made.end = packed_end_;
    pairs_.push_back(made);
  }

  /// The connections of two targets to rows that both read, and the others; all lists ascend. Where few rows are common none count as such: a
  /// load less is not worth a loop more.
  void split(int32_t first, int32_t second) {
    for (auto* lists : {common_, own_}) lists[0].clear(), lists[1].clear();
    const bool alone = second >= network_.units + kCommands;
    const Edge *a = &edges_[begin(first)], *a_end = &edges_[ends_[first]];
    const Edge *b = alone ? a : &edges_[begin(second)], *b_end = alone ? a : &edges_[ends_[second]];
    const bool sharing = 2 * common(a, a_end, b, b_end) >= std::min(a_end - a, b_end - b);
    while (sharing && a < a_end && b < b_end) {
      if (a->row == b->row) common_[0].push_back(*a++), common_[1].push_back(*b++);
      else if (a->row < b->row) own_[0].push_back(*a++);
      else own_[1].push_back(*b++);
    }
    own_[0].insert(own_[0].end(), a, a_end), own_[1].insert(own_[1].end(), b, b_end);
  }

  static ptrdiff_t common(const Edge* a, const Edge* a_end, const Edge* b, const Edge* b_end) {
    ptrdiff_t found = 0;
    while (a < a_end && b < b_end) {
      const int32_t one = a->row, other = b->row;
      found += one == other, a += one <= other, b += other <= one;
    }
    return found;
  }

  void zip(const std::vector<Edge>& first, const std::vector<Edge>& second, size_t count) {
    for (size_t i = 0; i < count; ++i) packed_[packed_end_++] = first[i], packed_[packed_end_++] = second[i];
  }

  void append(const std::vector<Edge>& some, size_t from) {
    for (; from < some.size(); ++from) packed_[packed_end_++] = some[from];
  }

  const Network& network_;
  std::vector<Edge> edges_, packed_;
  int32_t packed_end_ = 0;
  std::vector<Edge> common_[2], own_[2];
  std::vector<int32_t> ends_;
  std::vector<float> biases_;
  std::vector<uint8_t> live_;
  std::vector<Pair> pairs_;
  std::vector<int32_t> layer_ends_, stack_;
};

}  // namespace nk::rollout
