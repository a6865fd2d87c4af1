// The recurrences of LIF over one chunk of steps and one block of neurons: plain loops over lanes, compiled for several instruction
// sets. No fused multiply-adds (-ffp-contract=off), so that every backend and instruction set gives the same spikes.

#include "common/exp.h"
#include "cpu/lif_block.h"

// Rows never overlap: callers hand out distinct tensors and buffers.
#define NK_LANES _Pragma("GCC ivdep") for (int l = 0; l < lanes; ++l)

namespace nk::lif {
namespace {

template <class T>
NK_INLINE T magnitude(T y) {
  return y < 0 ? -y : y;
}

/// The carried membrane where a step resets.
template <Reset kReset, class T>
NK_INLINE T target(T u, T threshold, T v_reset) {
  return kReset == Reset::kZero ? v_reset : kReset == Reset::kSubtract ? u - threshold : u;
}

template <Reset kReset, bool kRefractory, bool kBits, class T>
NK_INLINE void step_row(const Uniform<T>& k, Lanes<T>& s, const T* x, T* u_row, T* spikes, uint8_t* rest_row, uint32_t* words,
                        int shift, int lanes) {
  const T floor = k.floor, slope = k.slope;
  const int32_t refractory = k.refractory;
  const bool everywhere = !k.boxcar;
  NK_LANES {
    T u = s.decay[l] * s.c[l] + s.gain[l] * x[l];
    const bool low = u <= floor;
    u = low ? floor : u;
    const bool rests = kRefractory && s.left[l] > 0;
    if (kRefractory) u = rests ? s.v_reset[l] : u;
    const bool fires = u >= s.threshold[l], resets = u >= s.reset_at[l];
    s.c[l] = resets ? target<kReset>(u, s.threshold[l], s.v_reset[l]) : u;
    u_row[l] = u;
    spikes[l] = fires ? T(1) : T(0);
    if (kRefractory) {
      const int32_t counted = rests ? s.left[l] - 1 : 0;
      s.left[l] = fires ? refractory : counted;
      rest_row[l] = rests;
    }
    if (kBits) {
      const bool live = !low & !rests;
      const bool near = everywhere | (magnitude(slope * (u - s.threshold[l])) < T(1));
      const bool keeps = kReset == Reset::kZero ? live & !resets : live;
      words[l] |= (uint32_t(live & near) | uint32_t(keeps) << 1) << shift;
    }
  }
}

/// dL/d(decay c + gain x) of one step, and the sums that parameters need. `kAttached` sends the gradient through the reset as well.
template <Reset kReset, bool kAttached, bool kLearns, class T>
NK_INLINE void reverse_row(const Uniform<T>& k, const Lanes<T>& s, const T* u, const T* sigma, const T* x, const uint8_t* rests,
                           const T* before, const T* g, T* dx, T* a, const Sums<T>& sums, int lanes) {
  const T floor = k.floor;
  T *ddecay = sums.decay, *dthreshold = sums.threshold, *dgain = sums.gain, *dv_reset = sums.v_reset;
  NK_LANES {
    const bool resets = u[l] >= s.reset_at[l], live = rests[l] == 0;
    const T direct = g[l] * sigma[l];
    T through = kReset == Reset::kZero && resets ? T(0) : a[l];
    T theta = -direct;
    if (kReset == Reset::kSubtract) theta = theta - (resets ? a[l] : T(0));
    if (kAttached) {
      const T jump = kReset == Reset::kZero ? s.v_reset[l] - u[l] : -s.threshold[l];
      const T turned = a[l] * jump * sigma[l];
      through = through + turned;
      theta = theta - turned;
    }
    const bool passes = live & !(u[l] <= floor);
    const T z = passes ? direct + through : T(0);
    if (kLearns) {
      ddecay[l] += z * before[l];
      dgain[l] += z * x[l];
      dthreshold[l] += live ? theta : T(0);
      if (kReset == Reset::kZero) dv_reset[l] += live & resets ? a[l] : T(0);
    }
    dx[l] = s.gain[l] * z;
    a[l] = s.decay[l] * z;
  }
}

template <bool kAttachedSubtract, class T>
NK_INLINE void reverse_bits_rows(const Uniform<T>& k, const Lanes<T>& s, const uint32_t* words, Rows<const T> g, Rows<T> dx, T* a,
                                 int steps, int lanes) {
  const T peak = k.peak;
  for (int t = steps - 1; t >= 0; --t) {
    const T* g_row = g[t];
    T* dx_row = dx[t];
    const uint32_t takes = 1u << (2 * t), keeps = 2u << (2 * t);
    NK_LANES {
      T direct = peak * g_row[l];
      if (kAttachedSubtract) direct = direct - peak * s.threshold[l] * a[l];
      const T z = (words[l] & takes ? direct : T(0)) + (words[l] & keeps ? a[l] : T(0));
      dx_row[l] = s.gain[l] * z;
      a[l] = s.decay[l] * z;
    }
  }
}

template <Reset kReset, bool kAttached, class T>
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
    T dc = resets ? target<kReset>(du, dtheta, dreset) : du;
    if (kAttached) dc = dc + ds * (kReset == Reset::kZero ? s.v_reset[l] - u[l] : -s.threshold[l]);
    d.c[l] = dc;
    dspikes[l] = ds;
  }
}

template <Reset kReset, class T>
NK_INLINE void carry_row(const Lanes<T>& s, const T* u, T* c, int lanes) {
  NK_LANES c[l] = u[l] >= s.reset_at[l] ? target<kReset>(u[l], s.threshold[l], s.v_reset[l]) : u[l];
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

// Surrogates -----------------------------------------------------------------------------------------------------------------------

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

template <Shape kShape, class T>
NK_INLINE void surrogate_row(const Uniform<T>& k, const Lanes<T>& s, const T* u, T* sigma, int lanes) {
  NK_LANES sigma[l] = shape_of<kShape>(k, u[l] - s.threshold[l]);
}

// Options become types ---------------------------------------------------------------------------------------------------------------

template <auto kValue>
using Tag = std::integral_constant<decltype(kValue), kValue>;

template <class F>
NK_INLINE void with_reset(Reset reset, F&& f) {
  switch (reset) {
    case Reset::kZero: return f(Tag<Reset::kZero>{});
    case Reset::kSubtract: return f(Tag<Reset::kSubtract>{});
    case Reset::kNone: return f(Tag<Reset::kNone>{});
  }
}

template <class F>
NK_INLINE void with_flag(bool flag, F&& f) {
  if (flag) {
    f(Tag<true>{});
  } else {
    f(Tag<false>{});
  }
}

/// Reset and whether the gradient goes through it, which makes no difference without a reset.
template <class F>
NK_INLINE void with_gradient(const Rule& rule, F&& f) {
  const bool attached = !rule.detach;
  switch (rule.reset) {
    case Reset::kZero: return attached ? f(Tag<Reset::kZero>{}, Tag<true>{}) : f(Tag<Reset::kZero>{}, Tag<false>{});
    case Reset::kSubtract: return attached ? f(Tag<Reset::kSubtract>{}, Tag<true>{}) : f(Tag<Reset::kSubtract>{}, Tag<false>{});
    case Reset::kNone: return f(Tag<Reset::kNone>{}, Tag<false>{});
  }
}

template <class F>
NK_INLINE void with_shape(Shape shape, F&& f) {
  switch (shape) {
    case Shape::kConstant: return f(Tag<Shape::kConstant>{});
    case Shape::kBoxcar: return f(Tag<Shape::kBoxcar>{});
    case Shape::kTent: return f(Tag<Shape::kTent>{});
    case Shape::kLorentz: return f(Tag<Shape::kLorentz>{});
    case Shape::kLogistic: return f(Tag<Shape::kLogistic>{});
    case Shape::kSuperspike: return f(Tag<Shape::kSuperspike>{});
    case Shape::kGauss: return f(Tag<Shape::kGauss>{});
    case Shape::kLaplace: return f(Tag<Shape::kLaplace>{});
    case Shape::kTable: return f(Tag<Shape::kTable>{});
  }
}

constexpr uint8_t kNobodyRests[kLanes] = {};

template <class T>
NK_INLINE const uint8_t* rests_of(const Replayed<T>& r, int t) {
  return r.resting ? r.resting[t] : kNobodyRests;
}

template <class T>
NK_INLINE void step_chunk_any(const Rule& rule, const Uniform<T>& k, Lanes<T>& s, Rows<const T> x, Rows<T> u, Rows<T> spikes,
                              Rows<uint8_t> resting, uint32_t* words, int steps, int lanes) {
  with_reset(rule.reset, [&](auto reset) __attribute__((always_inline)) {
    with_flag(rule.refractory > 0, [&](auto refractory) __attribute__((always_inline)) {
      with_flag(words != nullptr, [&](auto bits) __attribute__((always_inline)) {
        for (int t = 0; t < steps; ++t) {
          step_row<reset.value, refractory.value, bits.value>(k, s, x[t], u[t], spikes[t], refractory.value ? resting[t] : nullptr,
                                                              words, 2 * t, lanes);
        }
      });
    });
  });
}

template <class T>
NK_INLINE void reverse_chunk_any(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, const Replayed<T>& r, Rows<const T> g,
                                 Rows<T> dx, T* a, const Sums<T>& sums, int steps, int lanes) {
  alignas(64) T carried[kLanes];
  with_gradient(rule, [&](auto reset, auto attached) __attribute__((always_inline)) {
    with_flag(sums.any(), [&](auto learns) __attribute__((always_inline)) {
      for (int t = steps - 1; t >= 0; --t) {
        const T* before = r.before;
        if (learns.value && t > 0) {
          carry_row<reset.value>(s, r.u[t - 1], carried, lanes);
          before = carried;
        }
        reverse_row<reset.value, attached.value, learns.value>(k, s, r.u[t], r.sigma[t], learns.value ? r.x[t] : nullptr, rests_of(r, t),
                                                               before, g[t], dx[t], a, sums, lanes);
      }
    });
  });
}

template <class T>
NK_INLINE void tangent_chunk_any(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, const Replayed<T>& r, Directions<T>& d,
                                 Rows<const T> dx, Rows<T> dspikes, int steps, int lanes) {
  alignas(64) T carried[kLanes];
  with_gradient(rule, [&](auto reset, auto attached) __attribute__((always_inline)) {
    for (int t = 0; t < steps; ++t) {
      if (t > 0) carry_row<reset.value>(s, r.u[t - 1], carried, lanes);
      tangent_row<reset.value, attached.value>(k, s, r.u[t], r.sigma[t], r.x[t], rests_of(r, t), t ? carried : r.before, d, dx[t],
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

template <class Storage>
NK_INLINE void widen_all(const void* from, int64_t stride, Rows<float> to, int steps, int lanes) {
  for (int t = 0; t < steps; ++t) {
    const Storage* in = static_cast<const Storage*>(from) + t * stride;
    float* out = to[t];
    NK_LANES out[l] = widen(in[l]);
  }
}

template <class Storage>
NK_INLINE void narrow_all(Rows<float> from, void* to, int64_t stride, int steps, int lanes) {
  for (int t = 0; t < steps; ++t) {
    const float* in = from[t];
    Storage* out = static_cast<Storage*>(to) + t * stride;
    NK_LANES out[l] = narrow<Storage>(in[l]);
  }
}

}  // namespace

// What is compiled once per instruction set; everything above is inlined into it.
#define NK_VERSIONS(T)                                                                                                             \
  template <>                                                                                                                      \
  NK_MULTIVERSION void step_chunk(const Rule& rule, const Uniform<T>& k, Lanes<T>& s, Rows<const T> x, Rows<T> u, Rows<T> spikes,  \
                                  Rows<uint8_t> resting, uint32_t* words, int steps, int lanes) {                                  \
    step_chunk_any<T>(rule, k, s, x, u, spikes, resting, words, steps, lanes);                                                     \
  }                                                                                                                                \
  template <>                                                                                                                      \
  NK_MULTIVERSION void rest_chunk(const Uniform<T>& k, Lanes<T>& s, Rows<const T> u, Rows<uint8_t> resting, int steps,             \
                                  int lanes) {                                                                                     \
    for (int t = 0; t < steps; ++t) rest_row<T>(k, s, u[t], resting[t], lanes);                                                    \
  }                                                                                                                                \
  template <>                                                                                                                      \
  NK_MULTIVERSION void carry(const Rule& rule, const Lanes<T>& s, const T* u, T* c, int lanes) {                                   \
    with_reset(rule.reset, [&](auto reset) __attribute__((always_inline)) { carry_row<reset.value>(s, u, c, lanes); });            \
  }                                                                                                                                \
  template <>                                                                                                                      \
  NK_MULTIVERSION void surrogate_chunk(Shape shape, const Uniform<T>& k, const Lanes<T>& s, Rows<const T> u, Rows<T> sigma,        \
                                       int steps, int lanes) {                                                                     \
    surrogate_chunk_any<T>(shape, k, s, u, sigma, steps, lanes);                                                                   \
  }                                                                                                                                \
  template <>                                                                                                                      \
  NK_MULTIVERSION void reverse_chunk(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, const Replayed<T>& r,               \
                                     Rows<const T> g, Rows<T> dx, T* a, const Sums<T>& sums, int steps, int lanes) {               \
    reverse_chunk_any<T>(rule, k, s, r, g, dx, a, sums, steps, lanes);                                                             \
  }                                                                                                                                \
  template <>                                                                                                                      \
  NK_MULTIVERSION void reverse_bits_chunk(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, const uint32_t* words,         \
                                          Rows<const T> g, Rows<T> dx, T* a, int steps, int lanes) {                               \
    with_flag(rule.reset == Reset::kSubtract && !rule.detach, [&](auto attached) __attribute__((always_inline)) {                  \
      reverse_bits_rows<attached.value>(k, s, words, g, dx, a, steps, lanes);                                                      \
    });                                                                                                                            \
  }                                                                                                                                \
  template <>                                                                                                                      \
  NK_MULTIVERSION void tangent_chunk(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, const Replayed<T>& r,               \
                                     Directions<T>& d, Rows<const T> dx, Rows<T> dspikes, int steps, int lanes) {                  \
    tangent_chunk_any<T>(rule, k, s, r, d, dx, dspikes, steps, lanes);                                                             \
  }

NK_VERSIONS(float)
NK_VERSIONS(double)

NK_MULTIVERSION void widen_rows(Dtype dtype, const void* from, int64_t from_stride, Rows<float> to, int steps, int lanes) {
  dtype == Dtype::kBfloat16 ? widen_all<Bfloat16>(from, from_stride, to, steps, lanes)
                            : widen_all<Float16>(from, from_stride, to, steps, lanes);
}

NK_MULTIVERSION void narrow_rows(Dtype dtype, Rows<float> from, void* to, int64_t to_stride, int steps, int lanes) {
  dtype == Dtype::kBfloat16 ? narrow_all<Bfloat16>(from, to, to_stride, steps, lanes)
                            : narrow_all<Float16>(from, to, to_stride, steps, lanes);
}

}  // namespace nk::lif
