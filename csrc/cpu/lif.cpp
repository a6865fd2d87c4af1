// LIF forward, backward and tangent: chunks of steps over blocks of neurons, through the recurrences of lif_kernels.h.
#include "cpu/lif.h"

#include "cpu/lif_options.h"
#include "cpu/lif_rows.h"

namespace nk::lif {
namespace {

struct Forward {
  Dtype dtype;
  Size size;
  const Rule& rule;
  Start start;
  Series x, spikes;
  void* membrane;
  int32_t* countdown;
  Kept kept;

  template <class T>
  void run(const Block& block) const {
    Lanes<T> s;
    alignas(64) uint32_t words[kLanes];
    const Uniform<T> k = uniform<T>(rule);
    const bool bits = rule.residual == Residual::kBits;
    const bool direct = rule.refractory == 0 && rule.residual != Residual::kMembrane;
    Slow<T> slow(*this, block);
    load(s, rule, start, block);
    for (int64_t t = 0, chunk = 0; t < size.steps; t += kChunk, ++chunk) {
      const int steps = static_cast<int>(std::min<int64_t>(kChunk, size.steps - t));
      if (chunk > 0) checkpoint(s, block, chunk - 1);
      if (bits) std::fill_n(words, block.lanes, 0u);
      if (direct) {
        fire_chunk<T>(rule, k, dtype, s, raw_rows<const void>(dtype, x, block, t, nullptr), raw_rows<void>(dtype, spikes, block, t, nullptr),
                      bits ? words : nullptr, steps, block.lanes);
      } else {
        fire_slowly(k, s, slow, bits ? words : nullptr, block, t, steps);
      }
      if (bits) std::copy_n(words, block.lanes, row<uint32_t>(kept.residual, size, block, chunk));
    }
    std::copy_n(s.c, block.lanes, row<T>(membrane, size, block, 0));
    if (countdown) std::copy_n(s.left, block.lanes, countdown + block.first);
  }

  template <class T>
  struct Slow {
    Slow(const Forward& f, const Block& block) : out(f.dtype, f.spikes, block) {}  // buffers stay unset
    Output<T> out;
    Buffer<T> u;
    Buffer<uint8_t> resting;
  };

  /// Through the membranes of a chunk, which are kept or thrown away: with refractory steps, and for residual "membrane".
  template <class T>
  void fire_slowly(const Uniform<T>& k, Lanes<T>& s, Slow<T>& slow, uint32_t* words, const Block& block, int64_t t, int steps) const {
    const bool keeps = rule.residual == Residual::kMembrane;
    const Rows<T> u = keeps ? Rows<T>{row<T>(kept.residual, size, block, t), size.outer * size.inner} : Rows<T>(slow.u);
    const Rows<uint8_t> resting = slow.resting;
    replay_chunk<T>(rule, k, dtype, s, raw_rows<const void>(dtype, x, block, t, nullptr), u, resting, steps, block.lanes);
    spike_chunk<T>(s, u, slow.out.rows(t), steps, block.lanes);
    slow.out.flush(t, steps);
    if (words) bits_chunk<T>(rule, k, s, u, resting, words, steps, block.lanes);
  }

  template <class T>
  void checkpoint(const Lanes<T>& s, const Block& block, int64_t index) const {
    if (rule.residual == Residual::kRecompute) std::copy_n(s.c, block.lanes, row<T>(kept.residual, size, block, index));
    if (!kept.counts) return;
    // A replay is one chunk long: a countdown beyond 255 rests as surely as 255 does.
    uint8_t* counts = row<uint8_t>(kept.counts, size, block, index);
    for (int l = 0; l < block.lanes; ++l) counts[l] = static_cast<uint8_t>(std::min(s.left[l], 255));
  }
};

/// Goes through the chunks of a block again, in any order, and has their membranes and surrogates at hand.
template <class T>
class Replay {
 public:
  Replay(Dtype dtype, const Size& size, const Rule& rule, Start start, const Series& x, Kept kept, const Block& block)
      : dtype_(dtype), size_(size), rule_(rule), start_(start), x_(x), kept_(kept), block_(block), k_(uniform<T>(rule)) {
    load(lanes, rule, start, block);
  }

  /// Chunk number `chunk` from what was kept; its rows stay valid until the next call.
  Replayed<T> from_kept(int64_t chunk, int steps) {
    enter(chunk);
    return onward(chunk, steps, rule_.shape != Shape::kLorentz || attached(rule_));
  }

  /// The chunk after the last one, from the state that the last one left.
  Replayed<T> onward(int64_t chunk, int steps, bool needs_sigma = true) {
    const int64_t t = chunk * kChunk, neurons = size_.outer * size_.inner;
    const bool keeps_u = rule_.residual == Residual::kMembrane;
    Rows<const T> u{u_.rows[0], kLanes};
    std::copy_n(lanes.c, block_.lanes, before_);
    if (keeps_u) {
      u = {row<T>(kept_.residual, size_, block_, t), neurons};
      if (rule_.refractory) rest_chunk<T>(k_, lanes, u, resting_, steps, block_.lanes);
    } else {
      const Rows<const void> x = raw_rows<const void>(dtype_, x_, block_, t, kZeros);
      replay_chunk<T>(rule_, k_, dtype_, lanes, x, u_, resting_, steps, block_.lanes);
    }
    if (needs_sigma) surrogate_chunk<T>(rule_.shape, k_, lanes, u, sigma_, steps, block_.lanes);
    const Rows<const uint8_t> resting{rule_.refractory ? resting_.rows[0] : nullptr, kLanes};
    return {u, {needs_sigma ? sigma_.rows[0] : nullptr, needs_sigma ? kLanes : 0}, resting, before_};
  }

  const Uniform<T>& uniforms() const { return k_; }

  Lanes<T> lanes;

 private:
  /// The state as it was before a chunk.
  void enter(int64_t chunk) {
    if (chunk == 0) {
      fill(lanes.c, start_.membrane, 0.0, block_);
      fill(lanes.left, start_.countdown, 0.0, block_);
      return;
    }
    if (rule_.residual == Residual::kMembrane) {
      carry<T>(rule_, lanes, row<T>(kept_.residual, size_, block_, chunk * kChunk - 1), lanes.c, block_.lanes);
    } else {
      std::copy_n(row<T>(kept_.residual, size_, block_, chunk - 1), block_.lanes, lanes.c);
    }
    if (kept_.counts) std::copy_n(row<uint8_t>(kept_.counts, size_, block_, chunk - 1), block_.lanes, lanes.left);
  }

  Dtype dtype_;
  const Size& size_;
  const Rule& rule_;
  Start start_;
  Series x_;
  Kept kept_;
  Block block_;
  Uniform<T> k_;
  Buffer<T> u_, sigma_;
  Buffer<uint8_t> resting_;
  alignas(64) T before_[kLanes];
};

struct Backward {
  Dtype dtype;
  Size size;
  const Rule& rule;
  Start start;
  Series x, g;
  const void* g_membrane;
  Kept kept;
  const Gradients& gradients;

  template <class T>
  void run(const Block& block) const {
    alignas(64) T a[kLanes];
    std::copy_n(static_cast<const T*>(g_membrane) + block.first, block.lanes, a);
    if (rule.residual == Residual::kBits) {
      through_bits(a, block);
    } else {
      through_membranes(a, block);
    }
    if (gradients.v0) std::copy_n(a, block.lanes, row<T>(gradients.v0, size, block, 0));
  }

  template <class T>
  void through_bits(T* a, const Block& block) const {
    Lanes<T> s;
    alignas(64) T nowhere[kLanes];
    load(s, rule, start, block);
    for (int64_t chunk = last_chunk(size); chunk >= 0; --chunk) {
      const int64_t t = chunk * kChunk;
      const int steps = static_cast<int>(std::min<int64_t>(kChunk, size.steps - t));
      const uint32_t* words = row<uint32_t>(kept.residual, size, block, chunk);
      const Rows<void> dx = raw_rows<void>(dtype, gradients.x, block, t, nowhere);
      const Rows<const void> in = raw_rows<const void>(dtype, g, block, t, nullptr);
      reverse_bits_chunk<T>(rule, uniform<T>(rule), dtype, s, words, in, dx, a, steps, block.lanes);
    }
  }

  template <class T>
  void through_membranes(T* a, const Block& block) const {
    Replay<T> replay(dtype, size, rule, start, x, kept, block);
    alignas(64) T nowhere[kLanes];
    alignas(64) T sums[4][kLanes] = {};
    const bool others = gradients.threshold || gradients.gain || gradients.v_reset || attached(rule);
    const Sums<T> wanted = others            ? Sums<T>{sums[0], sums[1], sums[2], sums[3]}
                           : gradients.decay ? Sums<T>{sums[0], nullptr, nullptr, nullptr}
                                             : Sums<T>{};
    for (int64_t chunk = last_chunk(size); chunk >= 0; --chunk) {
      const int64_t t = chunk * kChunk;
      const int steps = static_cast<int>(std::min<int64_t>(kChunk, size.steps - t));
      const Replayed<T> r = replay.from_kept(chunk, steps);
      const Rows<const void> xs = raw_rows<const void>(dtype, x, block, t, kZeros), gs = raw_rows<const void>(dtype, g, block, t, kZeros);
      const Rows<void> dx = raw_rows<void>(dtype, gradients.x, block, t, nowhere);
      reverse_chunk<T>(rule, replay.uniforms(), dtype, replay.lanes, r, xs, gs, dx, a, wanted, steps, block.lanes);
    }
    void* const outs[4] = {gradients.decay, gradients.threshold, gradients.gain, gradients.v_reset};
    for (int i = 0; i < 4; ++i) {
      if (outs[i]) std::copy_n(sums[i], block.lanes, row<T>(outs[i], size, block, 0));
    }
  }
};

struct Tangent {
  Dtype dtype;
  Size size;
  const Rule& rule;
  Start start;
  Series x;
  const Tangents& tangents;
  Series spikes;
  void* membrane;

  template <class T>
  void run(const Block& block) const {
    Directions<T> d;
    fill(d.decay, tangents.decay, 0.0, block);
    fill(d.threshold, tangents.threshold, 0.0, block);
    fill(d.gain, tangents.gain, 0.0, block);
    fill(d.v_reset, tangents.v_reset, 0.0, block);
    fill(d.c, tangents.v0, 0.0, block);
    Replay<T> replay(dtype, size, rule, start, x, {}, block);
    Input<T> in(dtype, x, block), dx(dtype, tangents.x, block);
    Output<T> out(dtype, spikes, block);
    for (int64_t chunk = 0; chunk <= last_chunk(size); ++chunk) {
      const int64_t t = chunk * kChunk;
      const int steps = static_cast<int>(std::min<int64_t>(kChunk, size.steps - t));
      const Replayed<T> r = replay.onward(chunk, steps);
      tangent_chunk<T>(rule, replay.uniforms(), replay.lanes, r, in.rows(t, steps), d, dx.rows(t, steps), out.rows(t), steps, block.lanes);
      out.flush(t, steps);
    }
    std::copy_n(d.c, block.lanes, row<T>(membrane, size, block, 0));
  }
};

}  // namespace

void forward(Dtype dtype, Size size, const Rule& rule, Start start, Series x, Series spikes, void* membrane, int32_t* countdown,
             Kept kept, int threads) {
  run_blocks(Forward{dtype, size, rule, start, x, spikes, membrane, countdown, kept}, threads);
}

void backward(Dtype dtype, Size size, const Rule& rule, Start start, Series x, Series g, const void* g_membrane, Kept kept,
              const Gradients& gradients, int threads) {
  run_blocks(Backward{dtype, size, rule, start, x, g, g_membrane, kept, gradients}, threads);
}

void tangent(Dtype dtype, Size size, const Rule& rule, Start start, Series x, const Tangents& tangents, Series spikes,
             void* membrane, int threads) {
  run_blocks(Tangent{dtype, size, rule, start, x, tangents, spikes, membrane}, threads);
}

}  // namespace nk::lif
