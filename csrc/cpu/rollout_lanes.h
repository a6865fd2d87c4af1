// A number for each of several mazes: a vector register, the few operations that C++ has no sign for, and the activations.
//
// No function template of the standard library is used here: an instance made for a new processor would be the one that the linker
// keeps for all.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <cstdint>

#include "common/multiversion.h"
#include "common/tanh.h"
#include "cpu/rollout_level.h"

namespace nk::rollout::NK_LEVEL {

typedef float F __attribute__((vector_size(kRegister)));
/// Integers, or minus one where a condition holds and zero elsewhere.
typedef int32_t I __attribute__((vector_size(kRegister)));
constexpr int kLanes = kRegister / 4;

NK_INLINE F all(float value) { return value - F{}; }  // 0 + value would be an addition: it turns -0 to 0
NK_INLINE I all(int32_t value) { return I{} + value; }

// The core is compiled without contraction of a * b + c, for the sake of spikes: here it is written out. Integers below 2^24 come out
// the same with and without it.
NK_INLINE F fma(F a, F b, F c) {
#if NK_REGISTER == 64
  return _mm512_fmadd_ps(a, b, c);
#elif NK_REGISTER == 32
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

/// a / b within two units in the last place.
NK_INLINE F quotient(F a, F b) {
#if NK_REGISTER == 64
  const F estimate = _mm512_maskz_rcp14_ps(0xffff, b);  // and one of Newton's steps: a division would take as long as all the rest
  return a * fma(estimate, _mm512_fnmadd_ps(b, estimate, all(1.0f)), estimate);
#else
  return a / b;
#endif
}

/// x, or the limit that it exceeds; NaN stays NaN, which is why the limit comes first.
NK_INLINE F at_most(F limit, F x) {
#if NK_REGISTER == 64
  return _mm512_maskz_min_ps(0xffff, limit, x);
#else
  return limit < x ? limit : x;
#endif
}
NK_INLINE F at_least(F limit, F x) {
#if NK_REGISTER == 64
  return _mm512_maskz_max_ps(0xffff, limit, x);
#else
  return limit > x ? limit : x;
#endif
}

/// Bytes at these places, in the lowest eight bits of each lane; the three bytes behind the last one must be readable.
NK_INLINE I gather(const uint8_t* from, I place) {
#if NK_REGISTER == 64
  return I(_mm512_mask_i32gather_epi32(__m512i{}, 0xffff, __m512i(place), from, 1));
#elif NK_REGISTER == 32
  return I(_mm256_i32gather_epi32(reinterpret_cast<const int*>(from), __m256i(place), 1));
#else
  I result;
  for (int l = 0; l < kLanes; ++l) result[l] = from[place[l]];
  return result;
#endif
}

/// Entries of a table of 32. Permutations: on many processors a gather takes as long as all of the integer tanh.
NK_INLINE I look_up(const int32_t* table, I place) {
#if NK_REGISTER == 64
  return I(_mm512_permutex2var_epi32(_mm512_loadu_si512(table), __m512i(place), _mm512_loadu_si512(table + 16)));
#elif NK_REGISTER == 32
  __m256 found[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) found[i] = _mm256_permutevar8x32_ps(_mm256_loadu_ps(reinterpret_cast<const float*>(table) + 8 * i), __m256i(place));
  const __m256 odd = __m256(place << 28), upper = __m256(place << 27);  // what a blend looks at is the sign
  return I(_mm256_blendv_ps(_mm256_blendv_ps(found[0], found[1], odd), _mm256_blendv_ps(found[2], found[3], odd), upper));
#else
  I result;
  for (int l = 0; l < kLanes; ++l) result[l] = table[place[l]];
  return result;
#endif
}

/// The sum of the products of the upper and of the lower halves, none of which is negative.
NK_INLINE I halves(I a, I b) {
#if NK_REGISTER == 64
  return I(_mm512_madd_epi16(__m512i(a), __m512i(b)));
#elif NK_REGISTER == 32
  return I(_mm256_madd_epi16(__m256i(a), __m256i(b)));
#else
  return (a >> 16) * (b >> 16) + (a & 0xffff) * (b & 0xffff);
#endif
}

NK_INLINE F magnitude(F a) { return F(I(a) & 0x7fffffff); }
NK_INLINE F signed_like(F a, F like) { return F(I(a) | (I(like) & int32_t(0x80000000u))); }

/// See common/tanh.h. NaN stays NaN.
struct Tanh {
  NK_INLINE F operator()(F x) const {
    x = at_least(all(-tanh::kMost), at_most(all(tanh::kMost), x));
    const F y = x * x;
    F p = fma(all(tanh::kP3), y, all(tanh::kP2));
    F q = fma(all(tanh::kQ4), y, all(tanh::kQ3));
    p = fma(p, y, all(tanh::kP1));
    q = fma(q, y, all(tanh::kQ2));
    p = fma(p, y, all(tanh::kP0));
    q = fma(q, y, all(tanh::kQ1));
    return quotient(x * p, fma(q, y, all(1.0f)));
  }
};

struct Relu {
  NK_INLINE F operator()(F x) const { return x <= all(0.0f) ? all(0.0f) : x; }
};

/// NaN stays NaN, zero is zero.
struct Sign {
  float one;
  NK_INLINE F operator()(F x) const { return x > all(0.0f) ? all(one) : x < all(0.0f) ? all(-one) : x; }
};

/// Linear between the knots of a table, in integers.
struct IntegerTanh {
  const int32_t* segments;
  NK_INLINE F operator()(F total) const {
    constexpr int32_t kSegment = 512, kLast = kSegment * (kKnots - 1) - 1;
    const I size = __builtin_convertvector(at_most(all(float{kLast}), magnitude(total)), I);
    const I rest = (size & (kSegment - 1)) | kSegment << 16;
    const I scaled = halves(look_up(segments, size >> 9), rest) + kSegment * 32;
    return signed_like(__builtin_convertvector(scaled >> 15, F), total);
  }
};

}  // namespace nk::rollout::NK_LEVEL
