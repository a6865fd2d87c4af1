// Storage types of tensors and their conversion to and from the type that is computed in, without intrinsics: every branch is a
// select on integers, so that the compiler vectorises it at each level of the instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/multiversion.h"

namespace nk {

/// Dtypes by the code that Python hands over (neurokernels/_core/native.py).
enum class Dtype : int { kFloat32 = 0, kFloat64 = 1, kBfloat16 = 2, kFloat16 = 3 };

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class To, class From>
NK_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

NK_INLINE float widen(float value) { return value; }
NK_INLINE double widen(double value) { return value; }
NK_INLINE float widen(Bfloat16 value) { return bit_cast<float>(uint32_t{value.bits} << 16); }
NK_INLINE float widen(Float16 value) {
  const uint32_t sign = (uint32_t{value.bits} & 0x8000u) << 16, magnitude = (uint32_t{value.bits} & 0x7fffu) << 13;
  const uint32_t exponent = magnitude & 0x0f800000u;
  const uint32_t normal = magnitude + (112u << 23), special = magnitude | 0x7f800000u;
  const float subnormal = bit_cast<float>(magnitude + (113u << 23)) - bit_cast<float>(113u << 23);
  uint32_t bits = exponent == 0x0f800000u ? special : normal;
  bits = exponent == 0 ? bit_cast<uint32_t>(subnormal) : bits;
  return bit_cast<float>(bits | sign);
}

/// 1 where a condition holds, else 0: a select between bit patterns.
template <class To>
NK_INLINE To one_if(bool condition) {
  return condition ? To(1) : To(0);
}
template <>
NK_INLINE Bfloat16 one_if<Bfloat16>(bool condition) {
  return {static_cast<uint16_t>(condition ? 0x3f80u : 0u)};
}
template <>
NK_INLINE Float16 one_if<Float16>(bool condition) {
  return {static_cast<uint16_t>(condition ? 0x3c00u : 0u)};
}

// Rounding is to nearest, ties to even, as torch rounds; NaN stays NaN.
template <class To, class T>
NK_INLINE To narrow(T value);
template <>
NK_INLINE float narrow<float, float>(float value) {
  return value;
}
template <>
NK_INLINE double narrow<double, double>(double value) {
  return value;
}
template <>
NK_INLINE Bfloat16 narrow<Bfloat16, float>(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value), rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<uint16_t>(value != value ? 0x7fc0u : rounded >> 16)};
}
template <>
NK_INLINE Float16 narrow<Float16, float>(float value) {
  const uint32_t all = bit_cast<uint32_t>(value), sign = all & 0x80000000u, bits = all ^ sign;
  const uint32_t special = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const float magic = bit_cast<float>(126u << 23);  // adding 0.5 leaves a subnormal's bits at the end of the mantissa
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(bits) + magic) - (126u << 23);
  const uint32_t normal = (bits - (112u << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  uint32_t half = bits < (113u << 23) ? subnormal : normal;
  half = bits >= (143u << 23) ? special : half;
  return {static_cast<uint16_t>(half | (sign >> 16))};
}

}  // namespace nk
