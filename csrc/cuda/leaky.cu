// The leaky integrator of neurokernels/ops/lif/leaky.py, c_t = max(decay c_{t-1} + gain x_t, floor), forward and backward in time, for
// layers too small to fill a GPU: see lif_stream.cuh.
#include "cuda/lif_stream.cuh"

namespace nk::lif {

/// Forward: x to trace. Backward: g, and of x and trace what is needed, to dx and the others.
struct Leaky {
  const void *decay, *gain, *v0;
  double decay_number, gain_number, floor;
  int64_t total, width, period;
  Series x, trace, g, dx;
  void *dv0, *ddecay, *dgain;
  int steps, has_floor, is_float16, unused;
};

template <class S>
struct Leak {
  S decay, gain, floor, dead_at;

  __device__ __forceinline__ Leak(const Leaky& p, const Here& h) {
    const S infinity = static_cast<S>(__int_as_float(0x7f800000));
    const int64_t at = h.n % p.period;
    decay = value_or<S>(p.decay, p.decay_number, at, h.exists);
    gain = value_or<S>(p.gain, p.gain_number, at, h.exists);
    floor = p.has_floor ? static_cast<S>(p.floor) : -infinity;
    dead_at = p.has_floor ? floor : infinity - infinity;  // NaN: nothing is below it
  }
};

template <class X>
__device__ __forceinline__ void leaky_forward(const Leaky& p, unsigned char* memory) {
  using S = typename Format<X>::State;
  const Here h = here(p.total);
  if (h.first >= p.total) return;
  const Leak<S> leak(p, h);
  const Format<X> format(p.is_float16);
  unsigned char* const mine = memory + threadIdx.x / kLanes * (Stream<X>::kBytes + Sink<S>::kBytes);
  Stream<X> xs(p.x, mine, h, p.width, p.steps);
  const Sink<S> trace(p.trace, mine + Stream<X>::kBytes, h, p.width, Format<S>(false));
  S c = value_or<S>(p.v0, 0.0, h.n, h.exists);
  const auto step = [&](S x, int k) {
    const S input = leak.gain * x;
    c = at_least(leak.decay * c + input, leak.floor);
    trace.put(k, c);
  };
  NK_ROLLED
  for (int i = 0; i < kStages; ++i) {
    xs.issue(i * kChunk, i);
    commit();
  }
  for (int t = 0, stage = 0; t < p.steps; t += kChunk, stage = (stage + 1) % kStages) {
    wait<kStages - 1>();
    __syncwarp();
    const int count = min(kChunk, p.steps - t);
    if (count == kChunk) {
      S x[kChunk];
      xs.take(stage, format, x);
      __syncwarp();
      xs.issue(t + kStages * kChunk, stage);
      NK_UNROLL
      for (int k = 0; k < kChunk; ++k) step(x[k], k);
    } else {
      NK_ROLLED
      for (int k = 0; k < count; ++k) step(format.widen(xs.take(stage, k)), k);
    }
    commit();
    trace.flush(t, count);
  }
}

template <class X>
__device__ __forceinline__ void leaky_backward(const Leaky& p, unsigned char* memory) {
  using S = typename Format<X>::State;
  const Here h = here(p.total);
  if (h.first >= p.total) return;
  const Leak<S> leak(p, h);
  const Format<X> format(p.is_float16);
  const Format<S> as_it_is(false);
  const bool reads_x = p.x.mode != kNothing, reads_trace = p.trace.mode != kNothing;
  const int rings = Stream<S>::kBytes * (reads_trace ? 2 : 1) + (reads_x ? Stream<X>::kBytes : 0);
  unsigned char* at = memory + threadIdx.x / kLanes * (rings + Sink<X>::kBytes);
  Stream<S> gs(p.g, at, h, p.width, p.steps);
  at += Stream<S>::kBytes;
  Stream<S> cs(p.trace, at, h, p.width, p.steps);
  at += reads_trace ? Stream<S>::kBytes : 0;
  Stream<X> xs(p.x, at, h, p.width, p.steps);
  at += reads_x ? Stream<X>::kBytes : 0;
  const Sink<X> dx(p.dx, at, h, p.width, format);
  const S c0 = value_or<S>(p.v0, 0.0, h.n, h.exists);
  S a = 0, ddecay = 0, dgain = 0;
  const int last = (p.steps - 1) / kChunk * kChunk;
  const auto issue = [&](int t, int stage) {
    gs.issue(t, stage);
    cs.issue(t, stage);
    xs.issue(t, stage);
    commit();
  };
  const auto before = [&](int t) { return t > 0 && p.ddecay && h.exists ? cs.mine[(t - 1) * cs.time] : c0; };
  S next = before(last);  // asked for a chunk ahead
  NK_ROLLED
  for (int i = 0; i < kStages; ++i) issue(last - i * kChunk, i);
  for (int t = last, stage = 0; t >= 0 && p.steps > 0; t -= kChunk, stage = (stage + 1) % kStages) {
    S g[kChunk], c[kChunk] = {}, x[kChunk] = {};
    const S start = next;
    wait<kStages - 1>();
    __syncwarp();
    gs.take(stage, as_it_is, g);
    cs.take(stage, as_it_is, c);
    xs.take(stage, format, x);
    __syncwarp();
    issue(t - kStages * kChunk, stage);
    next = before(t - kChunk);
    const int count = min(kChunk, p.steps - t);
    const auto chunk = [&](auto whole) {
      NK_UNROLL
      for (int k = kChunk - 1; k >= 0; --k) {
        if (!whole.value && k >= count) continue;
        S z = g[k] + a;
        z = reads_trace && c[k] <= leak.dead_at ? S(0) : z;
        dx.put(k, leak.gain * z);
        ddecay += z * (k == 0 ? start : c[k > 0 ? k - 1 : 0]);
        dgain += z * x[k];
        a = leak.decay * z;
      }
    };
    if (count == kChunk)
      chunk(Flag<true>{});
    else
      chunk(Flag<false>{});
    dx.flush(t, count);
  }
  store_if(p.dv0, h, a);
  store_if(p.ddecay, h, ddecay);
  store_if(p.dgain, h, dgain);
}

}  // namespace nk::lif

#define NK_LEAKY(SUFFIX, X)                                    \
  NK_KERNEL(leaky_forward_##SUFFIX, nk::lif::Leaky, 128) {     \
    NK_SHARED(memory);                                         \
    nk::lif::leaky_forward<X>(p, memory);                      \
  }                                                            \
  NK_KERNEL(leaky_backward_##SUFFIX, nk::lif::Leaky, 128) {    \
    NK_SHARED(memory);                                         \
    nk::lif::leaky_backward<X>(p, memory);                     \
  }

NK_LEAKY(f32, float)
NK_LEAKY(f64, double)
NK_LEAKY(f16, nk::lif::Half)
