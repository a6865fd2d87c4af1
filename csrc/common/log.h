// log in a form that the compiler vectorises (libm's is a call per element), by the reduction and the polynomials of fdlibm.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/element.h"
#include "common/multiversion.h"

namespace nk {
namespace log_parts {

template <class T>
struct Parts;
template <>
struct Parts<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23;
  static constexpr Bits kOne = 0x3f800000, kRootHalf = 0x3f3504f3, kFraction = 0x007fffff, kMagicBits = 0x4b400000;
  static constexpr float kMagic = 12582912.0f, kHigh = 6.9313812256e-01f, kLow = 9.0580006145e-06f;
  static NK_INLINE float series(float z) {
    const float w = z * z;
    return w * (0.40000972152f + w * 0.24279078841f) + z * (0.66666662693f + w * 0.28498786688f);
  }
};
template <>
struct Parts<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52;
  static constexpr Bits kOne = 0x3ff0000000000000, kRootHalf = 0x3fe6a09e667f3bcd, kFraction = 0x000fffffffffffff,
                        kMagicBits = 0x4338000000000000;
  static constexpr double kMagic = 6755399441055744.0, kHigh = 6.93147180369123816490e-01, kLow = 1.90821492927058770002e-10;
  static NK_INLINE double series(double z) {
    const double w = z * z;
    const double odd = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    const double even = 6.666666666666735130e-01 + w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01));
    return odd + z * even;
  }
};

}  // namespace log_parts

/// log of a number that is not subnormal, within 1 ulp: minus infinity at 0, NaN below, infinity and NaN as they come.
template <class T>
NK_INLINE T log_of(T x) {
  using P = log_parts::Parts<T>;
  using Bits = typename P::Bits;
  // x = 2^k m with m in [sqrt(1/2), sqrt(2)): the exponent of x over sqrt(1/2), taken from bits.
  const Bits shifted = bit_cast<Bits>(x) + (P::kOne - P::kRootHalf);
  const Bits biased = static_cast<Bits>(static_cast<std::make_unsigned_t<Bits>>(shifted) >> P::kMantissa);
  const T m = bit_cast<T>((shifted & P::kFraction) + P::kRootHalf);
  const T k = bit_cast<T>(biased - (P::kOne >> P::kMantissa) + P::kMagicBits) - P::kMagic;
  const T f = m - T(1), s = f / (T(2) + f), half = T(0.5) * f * f;
  const T value = k * P::kHigh - ((half - (s * (half + P::series(s * s)) + k * P::kLow)) - f);
  constexpr T kInfinity = std::numeric_limits<T>::infinity(), kNan = std::numeric_limits<T>::quiet_NaN();
  const T low = x == T(0) ? -kInfinity : kNan;
  return x > T(0) ? (x < kInfinity ? value : x) : low;
}

}  // namespace nk
