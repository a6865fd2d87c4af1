// Whole episodes of one agent, its mazes in the lanes of one, two or four registers.
//
// Rows of lanes lie in memory that stays in the first cache: eight inputs, then the hidden units. A weight is loaded once for all registers
// of its row, and a row once for two targets that read it. Layers are computed to fresh rows first, then squashed into place: a recurrent
// layer reads itself one step earlier.
#pragma once

#include "cpu/rollout_lanes.h"

namespace nk::rollout::NK_LEVEL {

template <int R>
struct Walkers {
  I position[R], heading[R], motor[R], goals[R], start[R], goal[R], facing[R];
};

template <int R>
NK_INLINE void load(I (&to)[R], const int32_t* from) {
  __builtin_memcpy(to, from, sizeof(to));
}

template <int R>
NK_INLINE void store(int32_t* to, const I (&from)[R]) {
  __builtin_memcpy(to, from, sizeof(from));
}

/// Whether each walker is at its goal, and whether the way in front of it is free.
struct Sight {
  I there, free;
};

/// Writes the inputs of register r; `one` is the bit pattern of an input that is on.
template <int R>
NK_INLINE Sight sense(const Episode& e, const Walkers<R>& w, int r, int32_t one, F* rows) {
  const I sides = gather(e.around, w.position[r]) >> w.heading[r], there = w.position[r] == w.goal[r];
  const I seen[kInputs] = {-(sides >> 3 & 1), -(sides & 1), -(sides >> 1 & 1), all(-1), there,
                           w.motor[r] == 0, w.motor[r] == 1, w.motor[r] == 2};
  for (int i = 0; i < kInputs; ++i) rows[i * R + r] = F(seen[i] & one);
  return {there, (sides & 1) == 0};
}

template <int R>
NK_INLINE void load(F (&to)[R], const F* rows, int32_t row) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) to[r] = rows[int64_t{row} * R + r];
}

template <int R>
NK_INLINE void add(float weight, const F (&row)[R], F (&total)[R]) {
  const F factor = all(weight);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) total[r] = fma(factor, row[r], total[r]);
}

/// The sums of a pair: 2 R chains of additions, as one that waits for the one before takes four cycles. The order of a target's own sum is
/// the same whether its partner is there or not.
template <int R>
NK_INLINE void sum(const Pair& pair, const Edge* edges, const Edge* edge, const F* rows, F* fresh) {
  F first[R], second[R], row[R], other[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) first[r] = all(pair.biases[0]), second[r] = all(pair.biases[1]);
  for (const Edge* end = edges + pair.shared; edge != end; edge += 2) {
    load<R>(row, rows, edge[0].row);
    add<R>(edge[0].weight, row, first), add<R>(edge[1].weight, row, second);
  }
  for (const Edge* end = edges + pair.zipped; edge != end; edge += 2) {
    load<R>(row, rows, edge[0].row), load<R>(other, rows, edge[1].row);
    add<R>(edge[0].weight, row, first), add<R>(edge[1].weight, other, second);
  }
  for (const Edge* end = edges + pair.end; edge != end; ++edge) load<R>(row, rows, edge->row), add<R>(edge->weight, row, first);
  F *to = fresh + int64_t{pair.rows[0]} * R, *beside = fresh + int64_t{pair.rows[1]} * R;
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) to[r] = first[r], beside[r] = second[r];
}

/// Hidden units of one step, layer by layer, and the outputs, which are left in `fresh`.
template <int R, class Squash>
NK_INLINE void think(const Plan& plan, const Squash& squash, F* rows, F* fresh) {
  int32_t pair = 0, edge = 0;
  for (int layer = 0; layer <= plan.layers; ++layer) {
    const int32_t begin = pair, end = layer < plan.layers ? plan.layer_ends[layer] : plan.end;
    for (; pair != end; edge = plan.pairs[pair++].end) sum<R>(plan.pairs[pair], plan.edges, plan.edges + edge, rows, fresh);
    if (layer == plan.layers) break;
    for (int32_t p = begin; p != end; ++p)
      for (int i = 0; i < plan.pairs[p].count; ++i) {
        const int64_t at = int64_t{plan.pairs[p].rows[i]} * R;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) rows[at + r] = squash(fresh[at + r]);
      }
  }
}

/// The commands of register r, carried out.
template <int R>
NK_INLINE void act(const Episode& e, Walkers<R>& w, int r, Sight sight, const F* outputs) {
  const F forward = outputs[r], left = outputs[R + r], right = outputs[2 * R + r];
  const I turns = left > forward, better = right > (turns ? left : forward);
  const I command = better ? all(2) : (turns & 1), heading = w.heading[r];
  // North and south are a row away, east and south ahead in the numbering.
  const I stride = (heading & 1) == 0 ? all(e.width) : all(1), move = stride * (((heading + 1) & 2) - 1);
  const I walked = w.position[r] + (move & sight.free & (command == 0));
  const I turned = (heading - (command == 2) + (command == 1)) & 3;
  w.goals[r] -= sight.there;
  w.position[r] = sight.there ? w.start[r] : walked;
  w.heading[r] = sight.there ? w.facing[r] : turned;
  w.motor[r] = e.forget ? (sight.there ? all(kNoCommand) : command) : command;
}

template <int R, class Squash>
void walk(const Episode& e, const Squash& squash, float one) {
  const Plan& plan = *e.plan;
  F *rows = reinterpret_cast<F*>(e.rows), *fresh = reinterpret_cast<F*>(e.fresh), *outputs = fresh + int64_t{kInputs + e.hidden} * R;
  Walkers<R> w;
  load<R>(w.position, e.position), load<R>(w.heading, e.heading), load<R>(w.motor, e.motor), load<R>(w.goals, e.goals);
  load<R>(w.start, e.start), load<R>(w.goal, e.goal), load<R>(w.facing, e.facing);
  int32_t on;
  __builtin_memcpy(&on, &one, sizeof(on));
  for (int64_t t = 0; t < e.steps; ++t) {
    Sight sight[R];
    for (int r = 0; r < R; ++r) sight[r] = sense<R>(e, w, r, on, rows);
    think<R>(plan, squash, rows, fresh);
    for (int r = 0; r < R; ++r) act<R>(e, w, r, sight[r], outputs);
    if (e.forget)
      for (int u = 0; u < e.hidden; ++u)
        for (int r = 0; r < R; ++r) rows[(kInputs + u) * R + r] = F(I(rows[(kInputs + u) * R + r]) & ~sight[r].there);
  }
  store<R>(e.position, w.position), store<R>(e.heading, w.heading), store<R>(e.motor, w.motor), store<R>(e.goals, w.goals);
}

template <class Squash>
NK_INLINE void pick(const Episode& e, const Squash& squash, float one = 1.0f) {
  if (e.lanes == kLanes) return walk<1>(e, squash, one);
  if (e.lanes == 2 * kLanes) return walk<2>(e, squash, one);
  return walk<4>(e, squash, one);
}

void run(const Episode& e) {
  const bool exact = e.segments != nullptr;
  switch (e.activation) {
    case Activation::kTanh: return exact ? pick(e, IntegerTanh{e.segments}, 127.0f) : pick(e, Tanh{});
    case Activation::kRelu: return pick(e, Relu{});
    case Activation::kSign: return exact ? pick(e, Sign{127.0f}, 127.0f) : pick(e, Sign{1.0f});
  }
}

}  // namespace nk::rollout::NK_LEVEL
