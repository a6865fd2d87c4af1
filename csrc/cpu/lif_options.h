// Options that become types: each helper calls its argument with a tag, so that a kernel's loops are compiled without branches.
#pragma once

#include <type_traits>

#include "cpu/lif_block.h"

namespace nk::lif {

/// What a step leaves for the backward pass.
enum class Bits { kNone, kConstant, kBoxcar };

template <auto kValue>
using Tag = std::integral_constant<decltype(kValue), kValue>;

template <class F>
NK_INLINE void with_flag(bool flag, F&& f) {
  if (flag) {
    f(Tag<true>{});
  } else {
    f(Tag<false>{});
  }
}

/// Whether the gradient goes through the reset. Without one there is nothing to attach, and nothing is ever reset (lif_block.h: load).
inline bool attached(const Rule& rule) { return !rule.detach && rule.reset != Reset::kNone; }

/// Calls f with subtract and attached.
template <class F>
NK_INLINE void with_gradient(const Rule& rule, F&& f) {
  with_flag(rule.reset == Reset::kSubtract, [&](auto subtract) __attribute__((always_inline)) {
    with_flag(attached(rule), [&](auto through) __attribute__((always_inline)) { f(subtract, through); });
  });
}

/// Calls f with a null pointer of the storage type, which stands for the type.
template <class T, class F>
NK_INLINE void with_storage(Dtype dtype, F&& f) {
  if constexpr (sizeof(T) == sizeof(double)) {
    f(static_cast<double*>(nullptr));
  } else {
    switch (dtype) {
      case Dtype::kBfloat16: return f(static_cast<Bfloat16*>(nullptr));
      case Dtype::kFloat16: return f(static_cast<Float16*>(nullptr));
      default: return f(static_cast<float*>(nullptr));
    }
  }
}

/// Which parameters have gradients. Trained leaks alone are the usual case, and three sums less per step.
enum class Learns { kNothing, kDecay, kAnything };

template <class F>
NK_INLINE void with_learns(bool any, bool only_decay, F&& f) {
  if (!any) {
    f(Tag<Learns::kNothing>{});
  } else if (only_decay) {
    f(Tag<Learns::kDecay>{});
  } else {
    f(Tag<Learns::kAnything>{});
  }
}

/// Calls f with attached, what learns, and whether the Lorentzian is computed on the way. The unusual attached reset has one version,
/// which reads its surrogate and wants every sum (lif.cpp gives it both): each combination costs seconds to compile.
template <class F>
NK_INLINE void with_reverse(bool through, bool any, bool only_decay, bool lorentz, F&& f) {
  if (through) return f(Tag<true>{}, Tag<Learns::kAnything>{}, Tag<false>{});
  with_learns(any, only_decay, [&](auto learns) __attribute__((always_inline)) {
    with_flag(lorentz, [&](auto on_the_way) __attribute__((always_inline)) { f(Tag<false>{}, learns, on_the_way); });
  });
}

template <class F>
NK_INLINE void with_bits(bool any, bool boxcar, F&& f) {
  if (!any) {
    f(Tag<Bits::kNone>{});
  } else if (boxcar) {
    f(Tag<Bits::kBoxcar>{});
  } else {
    f(Tag<Bits::kConstant>{});
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

}  // namespace nk::lif
