// The recurrences of LIF over one chunk of steps and one block of neurons: plain loops over lanes, compiled for several instruction
// sets. No fused multiply-adds (-ffp-contract=off), so that every backend and instruction set gives the same spikes.
//
// Each type of the state is a file of its own, lif_float.cpp and lif_double.cpp: they take a minute to compile, and so share cores.
#pragma once

#include "common/exp.h"
#include "cpu/lif_options.h"

// Rows never overlap: callers hand out distinct tensors and buffers.
#define NK_LANES _Pragma("GCC ivdep") for (int l = 0; l < lanes; ++l)
#define NK_LANES_FROM(first) _Pragma("GCC ivdep") for (int l = first; l < lanes; ++l)

namespace nk::lif {

template <class T>
NK_INLINE T magnitude(T y) {
  return y < 0 ? -y : y;
}

/// The carried membrane where a step resets.
template <bool kSubtract, class T>
NK_INLINE T target(T u, T threshold, T v_reset) {
  return kSubtract ? u - threshold : v_reset;
}

/// A parameter of lane l. `uniform` is lane 0's value, read before the loop: one register instead of a load per lane.
template <bool kUniform, class T>
NK_INLINE T of(const T* values, T uniform, int l) {
  return kUniform ? uniform : values[l];
}

/// Two bits: whether dL/ds reaches u (surrogate not zero, floor not holding), and whether dL/dc does. Selects on 32-bit lanes, which
/// vectorise where arithmetic on bool does not.
template <Bits kBits, bool kSubtract, class T>
NK_INLINE uint32_t code(T y, T slope, bool low, bool resets) {
  const uint32_t takes = kBits == Bits::kConstant ? 1u : magnitude(slope * y) < T(1) ? 1u : 0u;
  const uint32_t keeps = !kSubtract && resets ? 0u : 2u;
  return low ? 0u : takes | keeps;
}

template <bool kSubtract, Bits kBits, bool kUniform, class Storage, class T>
NK_INLINE void fire_row(const Uniform<T>& k, Lanes<T>& s, const Storage* x, Storage* spikes, uint32_t* words, int shift, int first, int lanes) {
  const T floor = k.floor, slope = k.slope;
  const T decay = s.decay[0], gain = s.gain[0], threshold = s.threshold[0], reset_at = s.reset_at[0], v_reset = s.v_reset[0];
  NK_LANES_FROM(first) {
    const T theta = of<kUniform>(s.threshold, threshold, l);
    T u = of<kUniform>(s.decay, decay, l) * s.c[l] + of<kUniform>(s.gain, gain, l) * widen(x[l]);
    const bool low = u <= floor;
    u = low ? floor : u;
    const bool resets = u >= of<kUniform>(s.reset_at, reset_at, l);
    s.c[l] = resets ? (kSubtract ? u - theta : of<kUniform>(s.v_reset, v_reset, l)) : u;
    spikes[l] = one_if<Storage>(u >= theta);
    if (kBits != Bits::kNone) words[l] |= code<kBits, kSubtract>(u - theta, slope, low, resets) << shift;
  }
}

/// The same with refractory steps, or for a derivative: it writes u instead of spikes.
template <bool kSubtract, bool kRefractory, class Storage, class T>
NK_INLINE void replay_row(const Uniform<T>& k, Lanes<T>& s, const Storage* x, T* u_row, uint8_t* rest_row, int first, int lanes) {
  const T floor = k.floor;
  const int32_t refractory = k.refractory;
  NK_LANES_FROM(first) {
    T u = s.decay[l] * s.c[l] + s.gain[l] * widen(x[l]);
    u = u <= floor ? floor : u;
    if (kRefractory) {
      const bool rests = s.left[l] > 0;
      const int32_t counted = rests ? s.left[l] - 1 : 0;
      u = rests ? s.v_reset[l] : u;
      s.left[l] = u >= s.threshold[l] ? refractory : counted;
      rest_row[l] = rests;
    }
    s.c[l] = u >= s.reset_at[l] ? target<kSubtract>(u, s.threshold[l], s.v_reset[l]) : u;
    u_row[l] = u;
  }
}

/// Spikes and bits of a step that was replayed.
template <class T>
NK_INLINE void spike_row(const Lanes<T>& s, const T* u, T* spikes, int lanes) {
  NK_LANES spikes[l] = u[l] >= s.threshold[l] ? T(1) : T(0);
}

template <bool kSubtract, Bits kBits, class T>
NK_INLINE void bits_row(const Uniform<T>& k, const Lanes<T>& s, const T* u, const uint8_t* rests, uint32_t* words, int shift, int lanes) {
  const T floor = k.floor, slope = k.slope;
  NK_LANES {
    const bool blocked = (u[l] <= floor) | (rests[l] != 0);
    words[l] |= code<kBits, kSubtract>(u[l] - s.threshold[l], slope, blocked, u[l] >= s.reset_at[l]) << shift;
  }
}

template <Shape kShape, class T>
NK_INLINE T shape_of(const Uniform<T>& k, T y) {
  const T z = magnitude(k.slope * y);
  if constexpr (kShape == Shape::kConstant) return k.peak;
  if constexpr (kShape == Shape::kBoxcar) return z < 1 ? k.peak : T(0);
  if constexpr (kShape == Shape::kTent) return k.peak * (T(1) - z < 0 ? T(0) : T(1) - z);
  if constexpr (kShape == Shape::kLorentz) return k.peak / (T(1) + z * z);
  if constexpr (kShape == Shape::kSuperspike) return k.peak / ((T(1) + z) * (T(1) + z));
  if constexpr (kShape == Shape::kGauss) return k.peak * exp_nonpositive(-(z * z));
  if constexpr (kShape == Shape::kLaplace) return k.peak * exp_nonpositive(-z);
  if constexpr (kShape == Shape::kLogistic) {
    const T e = exp_nonpositive(-z);
    return k.peak * e / ((T(1) + e) * (T(1) + e));
  }
  if constexpr (kShape == Shape::kTable) {
    const T last = static_cast<T>(k.table_size - 1), position = (y - k.low) * (last / (k.high - k.low));
    const bool inside = (position >= 0) & (position <= last);
    const T safe = inside ? position : T(0);
    const int64_t floor = static_cast<int64_t>(safe), left = floor < k.table_size - 2 ? floor : k.table_size - 2;
    const T value = k.table[left] + (safe - static_cast<T>(left)) * (k.table[left + 1] - k.table[left]);
    return inside ? value : T(0);
  }
}

/// dL/d(decay c + gain x) of one step, and the sums that parameters need. `kAttached` sends the gradient through the reset as well;
/// `kLorentz` computes the most usual surrogate here, where its division hides behind loads, instead of reading it.
template <bool kSubtract, bool kAttached, Learns kLearns, bool kLorentz, class Storage, class T>
NK_INLINE void reverse_row(const Uniform<T>& k, const Lanes<T>& s, const T* u, const T* sigma, const Storage* x, const uint8_t* rests,
                           const T* before, const Storage* g, Storage* dx, T* a, const Sums<T>& sums, int first, int lanes) {
  const T floor = k.floor;
  T *ddecay = sums.decay, *dthreshold = sums.threshold, *dgain = sums.gain, *dv_reset = sums.v_reset;
  NK_LANES_FROM(first) {
    const bool resets = u[l] >= s.reset_at[l], live = rests[l] == 0;
    const T slope = kLorentz ? shape_of<Shape::kLorentz>(k, u[l] - s.threshold[l]) : sigma[l];
    const T direct = widen(g[l]) * slope;
    T through = !kSubtract && resets ? T(0) : a[l];
    T theta = -direct;
    if (kSubtract) theta = theta - (resets ? a[l] : T(0));
    if (kAttached) {
      const T jump = kSubtract ? -s.threshold[l] : s.v_reset[l] - u[l];
      const T turned = a[l] * jump * slope;
      through = through + turned;
      theta = theta - turned;
    }
    const bool passes = live & !(u[l] <= floor);
    const T z = passes ? direct + through : T(0);
    if (kLearns != Learns::kNothing) ddecay[l] += z * before[l];
    if (kLearns == Learns::kAnything) {
      dgain[l] += z * widen(x[l]);
      dthreshold[l] += live ? theta : T(0);
      if (!kSubtract) dv_reset[l] += live & resets ? a[l] : T(0);
    }
    dx[l] = narrow<Storage>(s.gain[l] * z);
    a[l] = s.decay[l] * z;
  }
}

template <bool kAttachedSubtract, bool kUniform, class Storage, class T>
NK_INLINE void reverse_bits_row(const Uniform<T>& k, const Lanes<T>& s, const uint32_t* words, int shift, const Storage* g, Storage* dx,
                                T* a, int first, int lanes) {
  const T peak = k.peak, decay = s.decay[0], gain = s.gain[0];
  const uint32_t takes = 1u << shift, keeps = 2u << shift;
  NK_LANES_FROM(first) {
    T direct = peak * widen(g[l]);
    if (kAttachedSubtract) direct = direct - peak * s.threshold[l] * a[l];
    const T z = (words[l] & takes ? direct : T(0)) + (words[l] & keeps ? a[l] : T(0));
    dx[l] = narrow<Storage>(of<kUniform>(s.gain, gain, l) * z);
    a[l] = of<kUniform>(s.decay, decay, l) * z;
  }
}

template <bool kSubtract, bool kAttached, class T>
NK_INLINE void tangent_row(const Uniform<T>& k, const Lanes<T>& s, const T* u, const T* sigma, const T* x, const uint8_t* rests,
                           const T* before, Directions<T>& d, const T* dx, T* dspikes, int lanes) {
  const T floor = k.floor;
  NK_LANES {
    const bool live = rests[l] == 0, resets = u[l] >= s.reset_at[l];
    const bool passes = live & !(u[l] <= floor);
    const T moved = d.decay[l] * before[l] + s.decay[l] * d.c[l] + d.gain[l] * x[l] + s.gain[l] * dx[l];
    const T du = passes ? moved : T(0);
    const T dtheta = live ? d.threshold[l] : T(0), dreset = live ? d.v_reset[l] : T(0);
    const T ds = live ? sigma[l] * (du - dtheta) : T(0);
    T dc = resets ? target<kSubtract>(du, dtheta, dreset) : du;
    if (kAttached) dc = dc + ds * (kSubtract ? -s.threshold[l] : s.v_reset[l] - u[l]);
    d.c[l] = dc;
    dspikes[l] = ds;
  }
}

template <bool kSubtract, class T>
NK_INLINE void carry_row(const Lanes<T>& s, const T* u, T* c, int lanes) {
  NK_LANES c[l] = u[l] >= s.reset_at[l] ? target<kSubtract>(u[l], s.threshold[l], s.v_reset[l]) : u[l];
}

template <class T>
NK_INLINE void rest_row(const Uniform<T>& k, Lanes<T>& s, const T* u, uint8_t* rests, int lanes) {
  const int32_t refractory = k.refractory;
  NK_LANES {
    const int32_t left = s.left[l], counted = left > 0 ? left - 1 : 0;
    rests[l] = left > 0;
    s.left[l] = u[l] >= s.threshold[l] ? refractory : counted;
  }
}

template <Shape kShape, class T>
NK_INLINE void surrogate_row(const Uniform<T>& k, const Lanes<T>& s, const T* u, T* sigma, int lanes) {
  NK_LANES sigma[l] = shape_of<kShape>(k, u[l] - s.threshold[l]);
}

// Chunks: options become types ------------------------------------------------------------------------------------------------------

inline constexpr uint8_t kNobodyRests[kLanes] = {};

template <class T>
NK_INLINE const uint8_t* rests_of(const Replayed<T>& r, int t) {
  return r.resting ? r.resting[t] : kNobodyRests;
}

/// Lanes between two looks ahead.
constexpr int kStrip = 128;

template <class T>
NK_INLINE void prefetch(const T* row, bool for_writing) {
  for (int l = 0; l < kStrip; l += 64 / int(sizeof(T))) {
    for_writing ? __builtin_prefetch(row + l, 1) : __builtin_prefetch(row + l, 0);
  }
}

/// Calls f(first, last) on strips of a row, and before each asks for the same strip of the rows that the next step reads and writes:
/// they lie a whole time step apart, where no hardware prefetcher looks, and a store that misses waits for its line. Measured on
/// rows that stream from the L3 cache: 0.40 to 0.30 ns per update, where memcpy takes 0.23.
template <class F, class In, class Out>
NK_INLINE void by_strips(const In* next_in, Out* next_out, int lanes, F&& f) {
  for (int first = 0; first < lanes; first += kStrip) {
    const bool whole = first + kStrip <= lanes;
    if (whole) prefetch(next_in + first, false), prefetch(next_out + first, true);
    f(first, whole ? first + kStrip : lanes);  // in one place: each copy of a loop is compiled for every option and instruction set
  }
}

template <class T>
NK_INLINE void fire_chunk_any(const Rule& rule, const Uniform<T>& k, Dtype dtype, Lanes<T>& s, Rows<const void> x, Rows<void> spikes,
                              uint32_t* words, int steps, int lanes) {
  with_storage<T>(dtype, [&](auto* type) __attribute__((always_inline)) {
    using Storage = std::remove_pointer_t<decltype(type)>;
    const Rows<const Storage> in = x.as<const Storage>();
    const Rows<Storage> out = spikes.as<Storage>();
    with_flag(rule.reset == Reset::kSubtract, [&](auto subtract) __attribute__((always_inline)) {
      with_bits(words != nullptr, k.boxcar, [&](auto bits) __attribute__((always_inline)) {
        with_flag(k.parameters, [&](auto uniform) __attribute__((always_inline)) {
          for (int t = 0; t < steps; ++t) {
            const int next = t + 1 < steps ? t + 1 : t;
            by_strips(in[next], out[next], lanes, [&](int first, int last) __attribute__((always_inline)) {
              fire_row<subtract.value, bits.value, uniform.value>(k, s, in[t], out[t], words, 2 * t, first, last);
            });
          }
        });
      });
    });
  });
}

template <class T>
NK_INLINE void reverse_bits_chunk_any(const Rule& rule, const Uniform<T>& k, Dtype dtype, const Lanes<T>& s, const uint32_t* words,
                                      Rows<const void> g, Rows<void> dx, T* a, int steps, int lanes) {
  with_storage<T>(dtype, [&](auto* type) __attribute__((always_inline)) {
    using Storage = std::remove_pointer_t<decltype(type)>;
    const Rows<const Storage> in = g.as<const Storage>();
    const Rows<Storage> out = dx.as<Storage>();
    with_flag(rule.reset == Reset::kSubtract && !rule.detach, [&](auto attached) __attribute__((always_inline)) {
      with_flag(k.parameters, [&](auto uniform) __attribute__((always_inline)) {
        for (int t = steps - 1; t >= 0; --t) {
          const int next = t > 0 ? t - 1 : 0;
          by_strips(in[next], out[next], lanes, [&](int first, int last) __attribute__((always_inline)) {
            reverse_bits_row<attached.value, uniform.value>(k, s, words, 2 * t, in[t], out[t], a, first, last);
          });
        }
      });
    });
  });
}

template <class T>
NK_INLINE void replay_chunk_any(const Rule& rule, const Uniform<T>& k, Dtype dtype, Lanes<T>& s, Rows<const void> x, Rows<T> u,
                                Rows<uint8_t> resting, int steps, int lanes) {
  with_storage<T>(dtype, [&](auto* type) __attribute__((always_inline)) {
    const auto in = x.as<const std::remove_pointer_t<decltype(type)>>();
    with_flag(rule.reset == Reset::kSubtract, [&](auto subtract) __attribute__((always_inline)) {
      with_flag(rule.refractory > 0, [&](auto refractory) __attribute__((always_inline)) {
        for (int t = 0; t < steps; ++t) {
          const int next = t + 1 < steps ? t + 1 : t;
          by_strips(in[next], u[next], lanes, [&](int first, int last) __attribute__((always_inline)) {
            replay_row<subtract.value, refractory.value>(k, s, in[t], u[t], refractory.value ? resting[t] : nullptr, first, last);
          });
        }
      });
    });
  });
}

template <class T>
NK_INLINE void bits_chunk_any(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, Rows<const T> u, Rows<const uint8_t> resting,
                              uint32_t* words, int steps, int lanes) {
  with_flag(rule.reset == Reset::kSubtract, [&](auto subtract) __attribute__((always_inline)) {
    with_bits(true, k.boxcar, [&](auto bits) __attribute__((always_inline)) {
      for (int t = 0; t < steps; ++t) bits_row<subtract.value, bits.value>(k, s, u[t], resting[t], words, 2 * t, lanes);
    });
  });
}

template <class T>
NK_INLINE void reverse_chunk_any(const Rule& rule, const Uniform<T>& k, Dtype dtype, const Lanes<T>& s, const Replayed<T>& r,
                                 Rows<const void> x, Rows<const void> g, Rows<void> dx, T* a, const Sums<T>& sums, int steps, int lanes) {
  alignas(64) T carried[kLanes];
  with_storage<T>(dtype, [&](auto* type) __attribute__((always_inline)) {
    using Storage = std::remove_pointer_t<decltype(type)>;
    const Rows<const Storage> inputs = x.as<const Storage>(), in = g.as<const Storage>();
    const Rows<Storage> out = dx.as<Storage>();
    with_flag(rule.reset == Reset::kSubtract, [&](auto subtract) __attribute__((always_inline)) {
      with_reverse(attached(rule), sums.any(), sums.only_decay(), r.sigma.data == nullptr,
                   [&](auto through, auto learns, auto lorentz) __attribute__((always_inline)) {
        for (int t = steps - 1; t >= 0; --t) {
          const T* before = r.before;
          if (learns.value != Learns::kNothing && t > 0) {
            carry_row<subtract.value>(s, r.u[t - 1], carried, lanes);
            before = carried;
          }
          const Storage* x_row = learns.value == Learns::kAnything ? inputs[t] : nullptr;
          const int next = t > 0 ? t - 1 : 0;
          by_strips(in[next], out[next], lanes, [&](int first, int last) __attribute__((always_inline)) {
            reverse_row<subtract.value, through.value, learns.value, lorentz.value>(k, s, r.u[t], r.sigma[t], x_row, rests_of(r, t), before,
                                                                                    in[t], out[t], a, sums, first, last);
          });
        }
      });
    });
  });
}

template <class T>
NK_INLINE void tangent_chunk_any(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, const Replayed<T>& r, Rows<const T> x,
                                 Directions<T>& d, Rows<const T> dx, Rows<T> dspikes, int steps, int lanes) {
  alignas(64) T carried[kLanes];
  with_gradient(rule, [&](auto subtract, auto attached) __attribute__((always_inline)) {
    for (int t = 0; t < steps; ++t) {
      if (t > 0) carry_row<subtract.value>(s, r.u[t - 1], carried, lanes);
      tangent_row<subtract.value, attached.value>(k, s, r.u[t], r.sigma[t], x[t], rests_of(r, t), t ? carried : r.before, d, dx[t],
                                               dspikes[t], lanes);
    }
  });
}

template <class T>
NK_INLINE void surrogate_chunk_any(Shape shape, const Uniform<T>& k, const Lanes<T>& s, Rows<const T> u, Rows<T> sigma, int steps,
                                   int lanes) {
  with_shape(shape, [&](auto kind) __attribute__((always_inline)) {
    for (int t = 0; t < steps; ++t) surrogate_row<kind.value>(k, s, u[t], sigma[t], lanes);
  });
}

// What is compiled once per instruction set; everything above is inlined into it.
#define NK_VERSIONS(T)                                                                                                                           \
  template <>                                                                                                                                    \
  NK_MULTIVERSION void fire_chunk(const Rule& rule, const Uniform<T>& k, Dtype dtype, Lanes<T>& s, Rows<const void> x, Rows<void> spikes,        \
                                  uint32_t* words, int steps, int lanes) {                                                                       \
    fire_chunk_any<T>(rule, k, dtype, s, x, spikes, words, steps, lanes);                                                                        \
  }                                                                                                                                              \
  template <>                                                                                                                                    \
  NK_MULTIVERSION void replay_chunk(const Rule& rule, const Uniform<T>& k, Dtype dtype, Lanes<T>& s, Rows<const void> x, Rows<T> u,              \
                                    Rows<uint8_t> resting, int steps, int lanes) {                                                               \
    replay_chunk_any<T>(rule, k, dtype, s, x, u, resting, steps, lanes);                                                                         \
  }                                                                                                                                              \
  template <>                                                                                                                                    \
  NK_MULTIVERSION void spike_chunk(const Lanes<T>& s, Rows<const T> u, Rows<T> spikes, int steps, int lanes) {                                   \
    for (int t = 0; t < steps; ++t) spike_row<T>(s, u[t], spikes[t], lanes);                                                                     \
  }                                                                                                                                              \
  template <>                                                                                                                                    \
  NK_MULTIVERSION void bits_chunk(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, Rows<const T> u, Rows<const uint8_t> resting,        \
                                  uint32_t* words, int steps, int lanes) {                                                                       \
    bits_chunk_any<T>(rule, k, s, u, resting, words, steps, lanes);                                                                              \
  }                                                                                                                                              \
  template <>                                                                                                                                    \
  NK_MULTIVERSION void rest_chunk(const Uniform<T>& k, Lanes<T>& s, Rows<const T> u, Rows<uint8_t> resting, int steps, int lanes) {              \
    for (int t = 0; t < steps; ++t) rest_row<T>(k, s, u[t], resting[t], lanes);                                                                  \
  }                                                                                                                                              \
  template <>                                                                                                                                    \
  NK_MULTIVERSION void carry(const Rule& rule, const Lanes<T>& s, const T* u, T* c, int lanes) {                                                 \
    with_flag(rule.reset == Reset::kSubtract, [&](auto subtract) __attribute__((always_inline)) { carry_row<subtract.value>(s, u, c, lanes); }); \
  }                                                                                                                                              \
  template <>                                                                                                                                    \
  NK_MULTIVERSION void surrogate_chunk(Shape shape, const Uniform<T>& k, const Lanes<T>& s, Rows<const T> u, Rows<T> sigma, int steps,           \
                                       int lanes) {                                                                                              \
    surrogate_chunk_any<T>(shape, k, s, u, sigma, steps, lanes);                                                                                 \
  }                                                                                                                                              \
  template <>                                                                                                                                    \
  NK_MULTIVERSION void reverse_chunk(const Rule& rule, const Uniform<T>& k, Dtype dtype, const Lanes<T>& s, const Replayed<T>& r,                \
                                     Rows<const void> x, Rows<const void> g, Rows<void> dx, T* a, const Sums<T>& sums, int steps,                \
                                     int lanes) {                                                                                                \
    reverse_chunk_any<T>(rule, k, dtype, s, r, x, g, dx, a, sums, steps, lanes);                                                                 \
  }                                                                                                                                              \
  template <>                                                                                                                                    \
  NK_MULTIVERSION void reverse_bits_chunk(const Rule& rule, const Uniform<T>& k, Dtype dtype, const Lanes<T>& s, const uint32_t* words,          \
                                          Rows<const void> g, Rows<void> dx, T* a, int steps, int lanes) {                                       \
    reverse_bits_chunk_any<T>(rule, k, dtype, s, words, g, dx, a, steps, lanes);                                                                 \
  }                                                                                                                                              \
  template <>                                                                                                                                    \
  NK_MULTIVERSION void tangent_chunk(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, const Replayed<T>& r, Rows<const T> x,            \
                                     Directions<T>& d, Rows<const T> dx, Rows<T> dspikes, int steps, int lanes) {                                \
    tangent_chunk_any<T>(rule, k, s, r, x, d, dx, dspikes, steps, lanes);                                                                        \
  }

}  // namespace nk::lif
