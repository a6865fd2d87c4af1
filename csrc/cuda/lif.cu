// LIF neurons forward and backward in time, for layers too small to fill a GPU: see lif_stream.cuh. The definition, the residuals and
// the names are those of neurokernels/ops/lif (reference.py, README.md); a product and a sum are rounded separately (-fmad=false).
#include "cuda/lif_stream.cuh"

namespace nk::lif {

enum Reset : int { kZero = 0, kSubtract = 1, kNoReset = 2 };
enum Kind : int { kPlain = 0, kBits = 1, kMembrane = 2 };  // what is kept: nothing or checkpoints, two bits, membranes

/// The rule, and its parameters as a tensor of the last dimensions in which they vary, or as a number.
struct Rule {
  const void *decay, *threshold, *gain, *v_reset, *v0, *left;
  double decay_number, threshold_number, gain_number, v_reset_number, floor, peak, slope, low, per_unit;
  int64_t total, width, period;
  int steps, refractory, reset, above, has_floor, detach, shape, last, is_float16, unused;
};

struct Forward {
  Rule rule;
  Series x, spikes;
  void *membrane, *left, *residual, *counts;
};

struct Backward {
  Rule rule;
  Series g, x, dx, u;
  const void *da, *residual, *counts, *table;
  void *dv0, *ddecay, *dthreshold, *dgain, *dv_reset;
};

/// The next number above; what nothing reaches if there is none.
__device__ __forceinline__ float above(float x) {
  const int bits = __float_as_int(x);
  if (!(x < __int_as_float(0x7f800000))) return __int_as_float(0x7fc00000);
  return x == 0 ? __int_as_float(1) : __int_as_float(bits + (bits < 0 ? -1 : 1));
}
__device__ __forceinline__ double above(double x) {
  const long long bits = __double_as_longlong(x);
  if (!(x < __longlong_as_double(0x7ff0000000000000))) return __longlong_as_double(0x7ff8000000000000);
  return x == 0 ? __longlong_as_double(1) : __longlong_as_double(bits + (bits < 0 ? -1 : 1));
}

/// A neuron of type S in registers. Options are numbers, so that a step has few instructions and no branch: a reset above the threshold
/// is one that reaches the next number, no floor is one at minus infinity, a membrane without a reset has zero subtracted. Only whether
/// neurons rest is known when a step is compiled (RESTS), for they seldom do.
template <class S>
struct Neuron {
  S decay, threshold, gain, v_reset, reset_at, less, floor, dead_at, slope;
  int refractory;
  bool to_v_reset, subtracts, boxcar;

  __device__ __forceinline__ Neuron(const Rule& p, const Here& h)
      : slope(static_cast<S>(p.slope)),
        refractory(p.refractory),
        to_v_reset(p.reset == kZero),
        subtracts(p.reset == kSubtract),
        boxcar(p.shape == 1) {
    const int64_t at = h.n % p.period;
    const S infinity = static_cast<S>(__int_as_float(0x7f800000));
    decay = value_or<S>(p.decay, p.decay_number, at, h.exists);
    threshold = value_or<S>(p.threshold, p.threshold_number, at, h.exists);
    gain = value_or<S>(p.gain, p.gain_number, at, h.exists);
    v_reset = value_or<S>(p.v_reset, p.v_reset_number, at, h.exists);
    reset_at = p.above ? above(threshold) : threshold;
    less = subtracts ? threshold : S(0);
    floor = p.has_floor ? static_cast<S>(p.floor) : -infinity;
    dead_at = p.has_floor ? floor : infinity - infinity;  // NaN: nothing is below it
  }

  /// The membrane before the reset. NaN passes the floor.
  template <bool RESTS>
  __device__ __forceinline__ S membrane(S x, S c, int left) const {
    const S input = gain * x, u = at_least(decay * c + input, floor);
    return RESTS && left > 0 ? v_reset : u;
  }
  __device__ __forceinline__ bool fires(S u) const { return u >= threshold; }
  __device__ __forceinline__ bool resets(S u) const { return u >= reset_at; }
  __device__ __forceinline__ bool is_dead(S u, bool resting) const { return resting | (u <= dead_at); }
  __device__ __forceinline__ S carried(S u) const {
    const S target = to_v_reset ? v_reset : u - less;
    return resets(u) ? target : u;
  }
  __device__ __forceinline__ int rest(S u, int left) const { return fires(u) ? refractory : max(left - 1, 0); }

  /// Bit 0 where dL/ds reaches u, bit 1 where dL/dc does.
  __device__ __forceinline__ uint32_t bits(S u, bool resting) const {
    const bool live = !is_dead(u, resting);
    const bool takes = live & (!boxcar | (fabs(slope * (u - threshold)) < S(1)));
    const bool keeps = live & !(to_v_reset & resets(u));
    return (takes ? 1u : 0u) | (keeps ? 2u : 0u);
  }
};

// Forward --------------------------------------------------------------------------------------------------------------------------

template <class X, int KIND>
__device__ __forceinline__ void forward(const Forward& p, unsigned char* memory) {
  using S = typename Format<X>::State;
  const Rule& r = p.rule;
  const Here h = here(r.total);
  if (h.first >= r.total) return;
  const Neuron<S> neuron(r, h);
  const Format<X> format(r.is_float16);
  unsigned char* const mine = memory + threadIdx.x / kLanes * (Stream<X>::kBytes + Sink<X>::kBytes);
  Stream<X> xs(p.x, mine, h, r.width, r.steps);
  const Sink<X> spikes(p.spikes, mine + Stream<X>::kBytes, h, r.width, format);
  S* kept = static_cast<S*>(p.residual) + h.n;  // moves on with time
  S c = value_or<S>(r.v0, 0.0, h.n, h.exists);
  int left = value_or<int>(r.left, 0.0, h.n, h.exists);
  NK_ROLLED
  for (int i = 0; i < kStages; ++i) {
    xs.issue(i * kChunk, i);
    commit();
  }
  uint32_t word = 0;
  const auto step = [&](auto rests, S x, int k) {
    const S u = neuron.template membrane<rests.value>(x, c, left);
    spikes.put(k, neuron.fires(u) ? S(1) : S(0));
    if (KIND == kMembrane) {
      if (h.exists) *kept = u;
      kept += r.total;
    }
    if (KIND == kBits) word |= neuron.bits(u, rests.value && left > 0) << 2 * k;
    c = neuron.carried(u);
    if (rests.value) left = neuron.rest(u, left);
  };
  const auto chunk = [&](auto rests, const S(&x)[kChunk]) {
    NK_UNROLL
    for (int k = 0; k < kChunk; ++k) step(rests, x[k], k);
  };
  for (int t = 0, stage = 0; t < r.steps; t += kChunk, stage = (stage + 1) % kStages) {
    wait<kStages - 1>();
    __syncwarp();
    word = 0;
    const int count = min(kChunk, r.steps - t);
    if (count == kChunk) {
      S x[kChunk];
      xs.take(stage, format, x);
      __syncwarp();
      xs.issue(t + kStages * kChunk, stage);
      if (r.refractory)
        chunk(Flag<true>{}, x);
      else
        chunk(Flag<false>{}, x);
    } else {
      NK_ROLLED
      for (int k = 0; k < count; ++k) step(Flag<true>{}, format.widen(xs.take(stage, k)), k);
    }
    commit();
    spikes.flush(t, count);
    const bool more = h.exists && t + kChunk < r.steps;
    if (KIND == kBits && h.exists) static_cast<uint32_t*>(p.residual)[t / kChunk * r.total + h.n] = word;
    if (KIND == kPlain && p.residual && more) kept[t / kChunk * r.total] = c;
    if (p.counts && more) static_cast<uint8_t*>(p.counts)[t / kChunk * r.total + h.n] = min(left, 255);
  }
  store_if(p.membrane, h, c);
  store_if(p.left, h, left);
}

// Backward by bits -----------------------------------------------------------------------------------------------------------------

template <class X>
__device__ __forceinline__ void backward_bits(const Backward& p, unsigned char* memory) {
  using S = typename Format<X>::State;
  const Rule& r = p.rule;
  const Here h = here(r.total);
  if (h.first >= r.total) return;
  const Neuron<S> neuron(r, h);
  const Format<X> format(r.is_float16);
  unsigned char* at = memory + threadIdx.x / kLanes * (Stream<X>::kBytes + Rows<uint32_t>::kBytes + Sink<X>::kBytes);
  Stream<X> gs(p.g, at, h, r.width, r.steps);
  const Rows<uint32_t> words(p.residual, at += Stream<X>::kBytes, h);
  const Sink<X> dx(p.dx, at += Rows<uint32_t>::kBytes, h, r.width, format);
  const S peak = static_cast<S>(r.peak), through = peak * neuron.threshold;
  S a = value_or<S>(p.da, 0.0, h.n, h.exists);
  const int last = (r.steps - 1) / kChunk * kChunk;
  const auto issue = [&](int t, int stage) {
    gs.issue(t, stage);
    words.issue(t / kChunk - (t < 0), stage);
    commit();
  };
  NK_ROLLED
  for (int i = 0; i < kStages; ++i) issue(last - i * kChunk, i);
  uint32_t word = 0;
  const auto step = [&](auto attached, S g, int k) {
    S direct = peak * g;
    if (attached.value) direct -= through * a;
    const S z = (word >> 2 * k & 1 ? direct : S(0)) + (word >> (2 * k + 1) & 1 ? a : S(0));
    dx.put(k, neuron.gain * z);
    a = neuron.decay * z;
  };
  const auto chunk = [&](auto attached, const S(&g)[kChunk]) {
    NK_UNROLL
    for (int k = kChunk - 1; k >= 0; --k) step(attached, g[k], k);
  };
  for (int t = last, stage = 0; t >= 0 && r.steps > 0; t -= kChunk, stage = (stage + 1) % kStages) {
    wait<kStages - 1>();
    __syncwarp();
    word = h.exists ? words.take(stage) : 0;
    const int count = min(kChunk, r.steps - t);
    S g[kChunk];
    if (count == kChunk) {
      gs.take(stage, format, g);
    } else {
      NK_ROLLED
      for (int k = count - 1; k >= 0; --k) {
        const S value = format.widen(gs.take(stage, k));
        if (r.detach)
          step(Flag<false>{}, value, k);
        else
          step(Flag<true>{}, value, k);
      }
    }
    __syncwarp();
    issue(t - kStages * kChunk, stage);
    if (count == kChunk) {
      if (r.detach)
        chunk(Flag<false>{}, g);
      else
        chunk(Flag<true>{}, g);
    }
    dx.flush(t, count);
  }
  store_if(p.dv0, h, a);
}

// Backward by a replay -------------------------------------------------------------------------------------------------------------

template <class S>
__device__ __forceinline__ S interpolated(S y, const Rule& r, const S* table) {
  S position = (y - static_cast<S>(r.low)) * static_cast<S>(r.per_unit);
  const bool within = position >= S(0) && position <= static_cast<S>(r.last);
  position = within ? position : S(0);
  const int index = min(static_cast<int>(position), r.last - 1);
  const S below = table[index], above = table[index + 1];
  return within ? below + (position - static_cast<S>(index)) * (above - below) : S(0);
}

/// a / b for b >= 1, in single precision within a unit in the last place: IEEE's division has a branch, which no instruction of another
/// step passes.
__device__ __forceinline__ float quotient(float a, float b) {
  const float inverse = reciprocal(b), first = a * inverse;
  const float better = __fmaf_rn(__fmaf_rn(-b, first, a), inverse, first);
  return b > 8.5e37f ? 0.0f : better;  // about 2^126: the inverse was flushed to zero
}
__device__ __forceinline__ double quotient(double a, double b) { return a / b; }

/// The surrogate's derivative at each membrane less the threshold, the shape chosen once: neurokernels/surrogate.py.
template <class S>
__device__ __forceinline__ void surrogates(const S (&u)[kChunk], S threshold, const Rule& r, const S* table, S (&sigma)[kChunk]) {
  const S peak = static_cast<S>(r.peak), slope = static_cast<S>(r.slope), one = 1;
#define NK_SHAPE(CODE, EXPRESSION)                          \
  case CODE:                                                \
    NK_UNROLL                                               \
    for (int k = 0; k < kChunk; ++k) {                      \
      const S y = u[k] - threshold, z = fabs(slope * y);    \
      (void)y, (void)z, sigma[k] = EXPRESSION;              \
    }                                                       \
    break
  switch (r.shape) {
    NK_SHAPE(1, z < one ? peak : S(0));
    NK_SHAPE(2, peak * (z >= one ? S(0) : one - z));
    NK_SHAPE(3, quotient(peak, one + z * z));
    NK_SHAPE(4, quotient(peak * exp(-z), (one + exp(-z)) * (one + exp(-z))));
    NK_SHAPE(5, quotient(peak, (one + z) * (one + z)));
    NK_SHAPE(6, peak * exp(-z * z));
    NK_SHAPE(7, peak * exp(-z));
    NK_SHAPE(8, interpolated(y, r, table));
    default:
      NK_UNROLL
      for (int k = 0; k < kChunk; ++k) sigma[k] = peak;
  }
#undef NK_SHAPE
}

/// What the way back adds up, and carries.
template <class S>
struct Gradient {
  S a, decay, threshold, gain, v_reset;
};

/// A chunk of the way back. Where GENERAL is false it is whole, and its resets are detached; where LEARNS is false no gradients of
/// parameters are added up.
template <bool LEARNS, bool GENERAL, class X, class S>
__device__ __forceinline__ void back(const Neuron<S>& neuron, bool detach, int count, const S (&g)[kChunk], const S (&x)[kChunk],
    const S (&u)[kChunk], const S (&sigma)[kChunk], S start, uint32_t resting, const Sink<X>& dx, Gradient<S>& d) {
  NK_UNROLL
  for (int k = kChunk - 1; k >= 0; --k) {
    if (GENERAL && k >= count) continue;
    const bool rests = resting >> k & 1, resets = neuron.resets(u[k]), dead = neuron.is_dead(u[k], rests);
    const S from = g[k] * sigma[k];
    S jump = 0;
    if (GENERAL && !detach) jump = d.a * (neuron.to_v_reset ? neuron.v_reset - u[k] : -neuron.threshold) * sigma[k];
    S keep = dead | (neuron.to_v_reset & resets) ? S(0) : d.a;
    if (GENERAL) keep += dead ? S(0) : jump;
    const S z = (dead ? S(0) : from) + keep;
    dx.put(k, neuron.gain * z);
    if (LEARNS) {
      d.decay += z * (k == 0 ? start : neuron.carried(u[k > 0 ? k - 1 : 0]));
      d.gain += z * x[k];
      d.threshold += rests ? S(0) : -from - (neuron.subtracts & resets ? d.a : S(0)) - jump;
      d.v_reset += !rests & neuron.to_v_reset & resets ? d.a : S(0);
    }
    d.a = neuron.decay * z;
  }
}

template <class X, int KIND>
__device__ __forceinline__ void backward_replay(const Backward& p, unsigned char* memory) {
  using S = typename Format<X>::State;
  using Kept = Stream<S>;
  const Rule& r = p.rule;
  const Here h = here(r.total);
  if (h.first >= r.total) return;
  const Neuron<S> neuron(r, h);
  const Format<X> format(r.is_float16);
  const Format<S> as_it_is(false);
  // One ring for g, one for x where it is read, one for the membranes that were kept, one for what stands before each chunk.
  constexpr bool kMembranes = KIND == kMembrane;
  const bool reads_x = p.x.mode != kNothing, learns = p.ddecay || p.dthreshold || p.dgain || p.dv_reset;
  const int rings = Stream<X>::kBytes * (reads_x ? 2 : 1) + (kMembranes ? Kept::kBytes : 0) + Rows<S>::kBytes;
  unsigned char* at = memory + threadIdx.x / kLanes * (rings + Sink<X>::kBytes);
  Stream<X> gs(p.g, at, h, r.width, r.steps);
  at += Stream<X>::kBytes;
  Stream<X> xs(p.x, at, h, r.width, r.steps);
  at += reads_x ? Stream<X>::kBytes : 0;
  Kept us(p.u, at, h, 0, r.steps);
  at += kMembranes ? Kept::kBytes : 0;
  const Rows<S> before(p.residual, at, h);
  const Sink<X> dx(p.dx, at + Rows<S>::kBytes, h, r.width, format);
  const S* const table = static_cast<const S*>(p.table);
  const S c0 = value_or<S>(r.v0, 0.0, h.n, h.exists);
  const bool rests = r.refractory > 0;
  const int last = (r.steps - 1) / kChunk * kChunk;
  const auto issue = [&](int t, int stage) {
    gs.issue(t, stage);
    xs.issue(t, stage);
    if (kMembranes) us.issue(t, stage);
    before.issue(kMembranes ? t - 1 : t / kChunk - 1 - (t < 0), stage);
    commit();
  };
  const auto countdown = [&](int t) {
    if (!rests || t < 0 || !h.exists) return 0;
    if (t == 0) return value_or<int>(r.left, 0.0, h.n, true);
    return static_cast<int>(static_cast<const uint8_t*>(p.counts)[(t / kChunk - 1) * r.total + h.n]);
  };
  Gradient<S> d = {value_or<S>(p.da, 0.0, h.n, h.exists), 0, 0, 0, 0};
  int left_before = countdown(last);
  NK_ROLLED
  for (int i = 0; i < kStages; ++i) issue(last - i * kChunk, i);
  for (int t = last, stage = 0; t >= 0 && r.steps > 0; t -= kChunk, stage = (stage + 1) % kStages) {
    S g[kChunk], x[kChunk] = {}, u[kChunk] = {}, sigma[kChunk];
    wait<kStages - 1>();
    __syncwarp();
    gs.take(stage, format, g);
    xs.take(stage, format, x);
    if (kMembranes) us.take(stage, as_it_is, u);
    const S row = h.exists && t > 0 ? before.take(stage) : S(0);
    __syncwarp();
    issue(t - kStages * kChunk, stage);
    // The membranes of the chunk, from what stands before it, and a bit for each that rests.
    const S start = t == 0 ? c0 : kMembranes ? neuron.carried(row) : row;
    uint32_t resting = 0;
    const auto replay = [&](auto rests) {
      S c = start;
      int left = left_before;
      NK_UNROLL
      for (int k = 0; k < kChunk; ++k) {
        if (!kMembranes) {
          u[k] = neuron.template membrane<rests.value>(x[k], c, left);
          c = neuron.carried(u[k]);
        }
        if (rests.value) {
          resting |= (left > 0 ? 1u : 0u) << k;
          left = neuron.rest(u[k], left);
        }
      }
    };
    if (rests)
      replay(Flag<true>{});
    else
      replay(Flag<false>{});
    left_before = countdown(t - kChunk);
    surrogates(u, neuron.threshold, r, table, sigma);
    const int count = min(kChunk, r.steps - t);
    if (sizeof(S) > 4 || count < kChunk || !r.detach)
      back<true, true>(neuron, r.detach, count, g, x, u, sigma, start, resting, dx, d);
    else if (learns)
      back<true, false>(neuron, true, count, g, x, u, sigma, start, resting, dx, d);
    else
      back<false, false>(neuron, true, count, g, x, u, sigma, start, resting, dx, d);
    dx.flush(t, count);
  }
  store_if(p.dv0, h, d.a);
  store_if(p.ddecay, h, d.decay);
  store_if(p.dthreshold, h, d.threshold);
  store_if(p.dgain, h, d.gain);
  store_if(p.dv_reset, h, d.v_reset);
}

}  // namespace nk::lif

#define NK_LIF_KERNEL(NAME, ARGUMENTS, THREADS, BODY) \
  NK_KERNEL(NAME, nk::lif::ARGUMENTS, THREADS) {      \
    NK_SHARED(memory);                                \
    BODY(p, memory);                                  \
  }
#define NK_LIF(SUFFIX, X)                                                                                                     \
  NK_LIF_KERNEL(lif_forward_##SUFFIX##_plain, Forward, 128, (nk::lif::forward<X, nk::lif::kPlain>))                           \
  NK_LIF_KERNEL(lif_forward_##SUFFIX##_bits, Forward, 128, (nk::lif::forward<X, nk::lif::kBits>))                             \
  NK_LIF_KERNEL(lif_forward_##SUFFIX##_membrane, Forward, 128, (nk::lif::forward<X, nk::lif::kMembrane>))                     \
  NK_LIF_KERNEL(lif_backward_##SUFFIX##_plain, Backward, 128, (nk::lif::backward_replay<X, nk::lif::kPlain>))                 \
  NK_LIF_KERNEL(lif_backward_##SUFFIX##_bits, Backward, 128, nk::lif::backward_bits<X>)                                       \
  NK_LIF_KERNEL(lif_backward_##SUFFIX##_membrane, Backward, 128, (nk::lif::backward_replay<X, nk::lif::kMembrane>))

NK_LIF(f32, float)
NK_LIF(f64, double)
NK_LIF(f16, nk::lif::Half)
