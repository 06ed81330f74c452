// Random words that are a function of a counter and a key: Philox4x32-10 (Salmon, Moraes, Dror and Shaw,
// "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#pragma once

#include <cstdint>

#include "cells/cell.h"

namespace rnnfast {

// Replaces counters by random words. Word: 64 bits, or a vector of such, of which the lower 32 are the word;
// product(a, m): of the lower 32 bits of `a` and m, all 64 bits.
template <class Word, class Product>
RNNFAST_INLINE void philox(Word (&c)[4], uint32_t key0, uint32_t key1, const Product& product) {
  for (int round = 0; round < 10; ++round) {
    const Word a = product(c[0], 0xD2511F53u), b = product(c[2], 0xCD9E8D57u);
    c[0] = (b >> 32) ^ c[1] ^ static_cast<uint64_t>(key0);
    c[1] = b;
    c[2] = (a >> 32) ^ c[3] ^ static_cast<uint64_t>(key1);
    c[3] = a;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
}

// A seed is a key, and where counting begins: of steps in the lower half of the second number, of groups in
// the upper one.
RNNFAST_INLINE uint32_t place_of_step(const int64_t* seed, int64_t step) {
  return static_cast<uint32_t>(step + seed[1]);
}
RNNFAST_INLINE uint32_t place_of_group(const int64_t* seed, int64_t group) {
  return static_cast<uint32_t>(group + (seed[1] >> 32));
}

// How noise draws: of the words at {unit, row, step, group} the first decides over h, the second over c; over
// candidates the first at a step that there is not. What has a probability happens where the upper 24 bits
// are below the share of 2^24 that it is.
constexpr uint32_t kAllSteps = 0xffffffffu;

constexpr uint32_t threshold(double probability) {
  const double share = probability * (1 << 24);
  const uint32_t below = static_cast<uint32_t>(share);
  return below < share ? below + 1 : below;
}

}  // namespace rnnfast
