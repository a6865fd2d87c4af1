// exp of arguments that are not positive, in a form that the compiler vectorises (libm's is a call per element).
#pragma once

#include <cmath>
#include <cstdint>

#include "common/element.h"
#include "common/multiversion.h"

namespace nk {

NK_INLINE double exp_nonpositive(double x) { return std::exp(x); }

/// Cody-Waite reduction by ln 2 and a polynomial of degree 6; within 2 ulp, subnormal results included; NaN for NaN.
NK_INLINE float exp_nonpositive(float x) {
  const float bounded = x < -105.0f ? -105.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which then stands in the lowest bits
  const float shifted = bounded * 1.44269504f + magic, n = shifted - magic;
  const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n in two factors: n reaches -152 and one factor's exponent stops at -126.
  const int32_t whole = bit_cast<int32_t>(shifted) - bit_cast<int32_t>(magic), half = whole >> 1;
  return p * bit_cast<float>((half + 127) << 23) * bit_cast<float>((whole - half + 127) << 23);
}

}  // namespace nk
