// The leaky integrator: v_t = max(decay v_{t-1} + gain x_t, floor), its gradient and its tangent.
#include "cpu/lif_rows.h"

#define NK_LANES _Pragma("GCC ivdep") for (int l = 0; l < lanes; ++l)

namespace nk::lif {
namespace {

template <class T>
NK_INLINE void forward_any(T floor, Lanes<T>& s, Rows<const T> x, Rows<T> trace, int steps, int lanes) {
  for (int t = 0; t < steps; ++t) {
    const T* in = x[t];
    T* out = trace[t];
    NK_LANES {
      const T u = s.decay[l] * s.c[l] + s.gain[l] * in[l];
      out[l] = s.c[l] = u <= floor ? floor : u;
    }
  }
}

/// The gradient of one step; `before` is the trace one step earlier.
template <class T>
NK_INLINE void backward_any(T floor, const Lanes<T>& s, const T* x, const T* trace, const T* before, const T* g, T* dx, T* a,
                            T* ddecay, T* dgain, int lanes) {
  NK_LANES {
    const T z = trace[l] <= floor ? T(0) : g[l] + a[l];
    ddecay[l] += z * before[l];
    dgain[l] += z * x[l];
    dx[l] = s.gain[l] * z;
    a[l] = s.decay[l] * z;
  }
}

template <class T>
NK_INLINE void tangent_any(T floor, const Lanes<T>& s, const T* x, const T* trace, const T* before, const T* dx, Directions<T>& d,
                           T* out, int lanes) {
  NK_LANES {
    const T moved = d.decay[l] * before[l] + s.decay[l] * d.c[l] + d.gain[l] * x[l] + s.gain[l] * dx[l];
    out[l] = d.c[l] = trace[l] <= floor ? T(0) : moved;
  }
}

// One function per type and direction, compiled per instruction set.
template <class T>
void forward_chunk(T floor, Lanes<T>& s, Rows<const T> x, Rows<T> trace, int steps, int lanes);
template <class T>
void backward_row(T floor, const Lanes<T>& s, const T* x, const T* trace, const T* before, const T* g, T* dx, T* a, T* ddecay,
                  T* dgain, int lanes);
template <class T>
void tangent_row(T floor, const Lanes<T>& s, const T* x, const T* trace, const T* before, const T* dx, Directions<T>& d, T* out,
                 int lanes);

#define NK_VERSIONS(T)                                                                                                              \
  template <>                                                                                                                       \
  NK_MULTIVERSION void forward_chunk(T floor, Lanes<T>& s, Rows<const T> x, Rows<T> trace, int steps, int lanes) {                  \
    forward_any<T>(floor, s, x, trace, steps, lanes);                                                                               \
  }                                                                                                                                 \
  template <>                                                                                                                       \
  NK_MULTIVERSION void backward_row(T floor, const Lanes<T>& s, const T* x, const T* trace, const T* before, const T* g, T* dx,     \
                                    T* a, T* ddecay, T* dgain, int lanes) {                                                         \
    backward_any<T>(floor, s, x, trace, before, g, dx, a, ddecay, dgain, lanes);                                                    \
  }                                                                                                                                 \
  template <>                                                                                                                       \
  NK_MULTIVERSION void tangent_row(T floor, const Lanes<T>& s, const T* x, const T* trace, const T* before, const T* dx,            \
                                   Directions<T>& d, T* out, int lanes) {                                                           \
    tangent_any<T>(floor, s, x, trace, before, dx, d, out, lanes);                                                                  \
  }

NK_VERSIONS(float)
NK_VERSIONS(double)

/// What the dtype of x says about the trace, which is in the type of the state.
Dtype state_dtype(Dtype dtype) { return dtype == Dtype::kFloat64 ? dtype : Dtype::kFloat32; }

struct Forward {
  Dtype dtype;
  Size size;
  const Rule& rule;
  const void* v0;
  Series x, trace;

  template <class T>
  void run(const Block& block) const {
    Lanes<T> s;
    load(s, rule, {v0, nullptr}, block);
    Input<T> in(dtype, x, block);
    for (int64_t t = 0; t < size.steps; t += kChunk) {
      const int steps = static_cast<int>(std::min<int64_t>(kChunk, size.steps - t));
      forward_chunk<T>(uniform<T>(rule).floor, s, in.rows(t, steps), at<T>(trace, block, t), steps, block.lanes);
    }
  }
};

/// The trace one step before t: the start before the first step, zeros where no derivative looks at it.
template <class T>
const T* before(const Series& trace, const Block& block, const T* start, int64_t t) {
  return t > 0 && trace.data ? at<T>(trace, block, t - 1).data : start;
}

struct Backward {
  Dtype dtype;
  Size size;
  const Rule& rule;
  const void* v0;
  Series x, trace, g;
  const Gradients& gradients;

  template <class T>
  void run(const Block& block) const {
    Lanes<T> s;
    load(s, rule, {v0, nullptr}, block);
    Input<T> x_in(dtype, x, block), trace_in(state_dtype(dtype), trace, block), g_in(state_dtype(dtype), g, block);
    Output<T> dx(dtype, gradients.x, block);
    alignas(64) T a[kLanes] = {}, ddecay[kLanes] = {}, dgain[kLanes] = {};
    for (int64_t chunk = last_chunk(size); chunk >= 0; --chunk) {
      const int64_t t = chunk * kChunk;
      const int steps = static_cast<int>(std::min<int64_t>(kChunk, size.steps - t));
      const Rows<const T> xs = x_in.rows(t, steps), traces = trace_in.rows(t, steps), gs = g_in.rows(t, steps);
      const Rows<T> dxs = dx.rows(t);
      for (int i = steps - 1; i >= 0; --i) {
        backward_row<T>(uniform<T>(rule).floor, s, xs[i], traces[i], before<T>(trace, block, s.c, t + i), gs[i], dxs[i], a, ddecay,
                        dgain, block.lanes);
      }
      dx.flush(t, steps);
    }
    if (gradients.v0) std::copy_n(a, block.lanes, row<T>(gradients.v0, size, block, 0));
    if (gradients.decay) std::copy_n(ddecay, block.lanes, row<T>(gradients.decay, size, block, 0));
    if (gradients.gain) std::copy_n(dgain, block.lanes, row<T>(gradients.gain, size, block, 0));
  }
};

struct Tangent {
  Dtype dtype;
  Size size;
  const Rule& rule;
  const void* v0;
  Series x, trace;
  const Tangents& tangents;
  Series out;

  template <class T>
  void run(const Block& block) const {
    Lanes<T> s;
    load(s, rule, {v0, nullptr}, block);
    Directions<T> d;
    fill(d.decay, tangents.decay, 0.0, block);
    fill(d.gain, tangents.gain, 0.0, block);
    fill(d.c, tangents.v0, 0.0, block);
    Input<T> x_in(dtype, x, block), dx_in(dtype, tangents.x, block);
    const Rows<T> traces = at<T>(trace, block, 0), outs = at<T>(out, block, 0);
    for (int64_t t = 0; t < size.steps; t += kChunk) {
      const int steps = static_cast<int>(std::min<int64_t>(kChunk, size.steps - t));
      const Rows<const T> xs = x_in.rows(t, steps), dxs = dx_in.rows(t, steps);
      for (int i = 0; i < steps; ++i) {
        tangent_row<T>(uniform<T>(rule).floor, s, xs[i], traces[t + i], before<T>(trace, block, s.c, t + i), dxs[i], d, outs[t + i],
                       block.lanes);
      }
    }
  }
};

}  // namespace

void leaky_forward(Dtype dtype, Size size, const Rule& rule, const void* v0, Series x, Series trace, int threads) {
  run_blocks(Forward{dtype, size, rule, v0, x, trace}, threads);
}

void leaky_backward(Dtype dtype, Size size, const Rule& rule, const void* v0, Series x, Series trace, Series g,
                    const Gradients& gradients, int threads) {
  run_blocks(Backward{dtype, size, rule, v0, x, trace, g, gradients}, threads);
}

void leaky_tangent(Dtype dtype, Size size, const Rule& rule, const void* v0, Series x, Series trace, const Tangents& tangents,
                   Series out, int threads) {
  run_blocks(Tangent{dtype, size, rule, v0, x, trace, tangents, out}, threads);
}

}  // namespace nk::lif
