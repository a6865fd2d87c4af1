// LIF time-stepping on the CPU: what bindings.cpp calls. Raw pointers, sizes and strides; no torch, no Python.
//
// Neurons are seen as [outer, inner]: every tensor over time has a stride per step and per outer index (in elements) and stride 1
// along inner. Tensors over neurons alone are contiguous [outer * inner] in the type of the state.
#pragma once

#include <cstdint>

#include "common/element.h"

namespace nk::lif {

enum class Reset : int { kZero = 0, kSubtract = 1, kNone = 2 };
enum class Residual : int { kNone = 0, kBits = 1, kRecompute = 2, kMembrane = 3 };
enum class Shape : int { kConstant, kBoxcar, kTent, kLorentz, kLogistic, kSuperspike, kGauss, kLaplace, kTable };

/// Steps per 32-bit word of bits and per checkpoint (rule.py: CHUNK).
constexpr int kChunk = 16;

/// A tensor over time and neurons.
struct Series {
  void* data = nullptr;
  int64_t step = 0, outer = 0;
};

struct Size {
  int64_t steps, outer, inner;
};

/// Options and parameters; a parameter that has a pointer does not use its number.
struct Rule {
  Reset reset;
  bool above, has_floor;
  int refractory;
  bool detach;
  Shape shape;
  Residual residual;
  double decay, threshold, gain, v_reset, floor, peak, slope, low, high;
  const void *decays, *thresholds, *gains, *v_resets, *table;
  int64_t table_size;
};

/// State before the first step; null stands for zero.
struct Start {
  const void* membrane;
  const int32_t* countdown;
};

/// What the forward pass keeps (rule.py: Forward).
struct Kept {
  void* residual;
  uint8_t* counts;
};

void forward(Dtype dtype, Size size, const Rule& rule, Start start, Series x, Series spikes, void* membrane, int32_t* countdown,
             Kept kept, int threads);

/// Gradients that are not wanted are null.
struct Gradients {
  Series x;
  void *v0, *decay, *threshold, *gain, *v_reset;
};

void backward(Dtype dtype, Size size, const Rule& rule, Start start, Series x, Series g, const void* g_membrane, Kept kept,
              const Gradients& gradients, int threads);

/// Tangents that are zero are null.
struct Tangents {
  Series x;
  const void *v0, *decay, *threshold, *gain, *v_reset;
};

void tangent(Dtype dtype, Size size, const Rule& rule, Start start, Series x, const Tangents& tangents, Series spikes,
             void* membrane, int threads);

/// The leaky integrator. Its trace and the trace's gradient are in the type of the state.
void leaky_forward(Dtype dtype, Size size, const Rule& rule, const void* v0, Series x, Series trace, int threads);
void leaky_backward(Dtype dtype, Size size, const Rule& rule, const void* v0, Series x, Series trace, Series g,
                    const Gradients& gradients, int threads);
void leaky_tangent(Dtype dtype, Size size, const Rule& rule, const void* v0, Series x, Series trace, const Tangents& tangents,
                   Series out, int threads);

}  // namespace nk::lif
