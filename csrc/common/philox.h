// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011): four random words from a 64-bit key and a counter of four words. A draw
// depends on these alone, so it is the same whichever thread makes it. neurokernels/ops/evolution/philox.py is the same in torch.
#pragma once

#include "common/integers.h"
#include "common/multiversion.h"

#ifdef __CUDACC__
#define NK_UNROLLED(TIMES) _Pragma("unroll")
#else
#define NK_UNROLLED(TIMES) NK_PRAGMA_TEXT(GCC unroll TIMES)
#define NK_PRAGMA_TEXT(TEXT) _Pragma(#TEXT)
#endif

namespace nk::philox {

struct Words {
  uint32_t w[4];
};

NK_INLINE Words draw(uint64_t seed, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
  NK_UNROLLED(10)
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53u} * a, right = uint64_t{0xCD9E8D57u} * c;
    a = static_cast<uint32_t>(right >> 32) ^ b ^ low, c = static_cast<uint32_t>(left >> 32) ^ d ^ high;
    b = static_cast<uint32_t>(right), d = static_cast<uint32_t>(left);
    low += 0x9E3779B9u, high += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}

/// A word as an integer in [0, bound).
NK_INLINE uint32_t below(uint32_t word, uint32_t bound) { return static_cast<uint32_t>(uint64_t{word} * bound >> 32); }

/// The sum of the twelve ten-bit numbers of a draw, less its mean, in units of its standard deviation: a normal number that is exact in
/// float32, and so the same everywhere.
NK_INLINE float normal(const Words& words) {
  uint32_t total = 0;
  NK_UNROLLED(4)
  for (int i = 0; i < 4; ++i) total += (words.w[i] & 1023) + (words.w[i] >> 10 & 1023) + (words.w[i] >> 20 & 1023);
  return static_cast<float>(static_cast<int32_t>(total) - 6138) * 0x1p-10f;
}

}  // namespace nk::philox
