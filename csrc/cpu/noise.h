// Noise for a vector of units of a row.
#pragma once

#include "../philox.h"
#include "../recurrence.h"
#include "vec.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace rnnfast {

// The products of the lower halves of 64 bits with m.
inline Bits<double> low_product(Bits<double> a, uint32_t m) {
#if defined(__AVX512F__)
  return bit_cast<Bits<double>>(
      _mm512_maskz_mul_epu32(0xff, bit_cast<__m512i>(a), bit_cast<__m512i>(Bits<double>{} + m)));
#elif defined(__AVX2__)
  return bit_cast<Bits<double>>(
      _mm256_mul_epu32(bit_cast<__m256i>(a), bit_cast<__m256i>(Bits<double>{} + m)));
#elif defined(__SSE2__)
  return bit_cast<Bits<double>>(_mm_mul_epu32(bit_cast<__m128i>(a), bit_cast<__m128i>(Bits<double>{} + m)));
#else
  return (a & 0xffffffffu) * m;
#endif
}

// The first two words for the units from `unit` on, the upper 24 bits. Not inlined: it is the same for all
// cells.
template <class C>
__attribute__((noinline)) void random_bits(uint64_t key, uint32_t unit, uint32_t row, uint32_t step,
                                           uint32_t group, Bits<C> (&out)[2]) {
  constexpr int kParts = sizeof(double) / sizeof(C);  // 64-bit lanes are half as many as those of float
  Bits<double> words[kParts][2];
  for (int part = 0; part < kParts; ++part) {
    const Bits<double> zero{};
    Bits<double> c[4] = {zero + unit + part, zero + row, zero + step, zero + group};
    for (int lane = 0; lane < kLanes<double>; ++lane) c[0][lane] += lane * kParts;
    philox(c, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), low_product);
    for (int i = 0; i < 2; ++i) words[part][i] = c[i] & 0xffffffffu;
  }
  for (int i = 0; i < 2; ++i) {
    if constexpr (kParts == 1) {
      out[i] = words[0][i] >> 8;
    } else {
      out[i] = bit_cast<Bits<C>>(words[0][i] | words[1][i] << 32) >> 8;
    }
  }
}

// What is kept of h and c by the units from `unit` on, at a step in time.
template <class S>
Kept<Vec<Compute<S>>> kept_shares(const Noise& noise, int64_t unit, int64_t row, int64_t step,
                                  int64_t group) {
  using C = Compute<S>;
  const auto mean = [](double p) { return broadcast<S>(static_cast<C>(p)); };
  if (!noise.seed) return {mean(noise.zoneout_h), mean(noise.zoneout_c)};
  if (noise.zoneout_h <= 0 && noise.zoneout_c <= 0) return {mean(0), mean(0)};
  Bits<C> bits[2];
  random_bits<C>(static_cast<uint64_t>(noise.seed[0]), static_cast<uint32_t>(unit),
                 static_cast<uint32_t>(row), place_of_step(noise.seed, step),
                 place_of_group(noise.seed, group), bits);
  const auto one_below = [&](const Bits<C>& word, double p) {
    return word < Bits<C>{} + threshold(p) ? broadcast<S>(1) : broadcast<S>(0);
  };
  return {one_below(bits[0], noise.zoneout_h), one_below(bits[1], noise.zoneout_c)};
}

// What candidates of these units are multiplied with: zero, or what keeps their mean.
template <class S>
Vec<Compute<S>> dropout_factor(const Noise& noise, int64_t unit, int64_t row, int64_t group) {
  using C = Compute<S>;
  if (!noise.seed || noise.dropout <= 0) return broadcast<S>(1);
  Bits<C> bits[2];
  random_bits<C>(static_cast<uint64_t>(noise.seed[0]), static_cast<uint32_t>(unit),
                 static_cast<uint32_t>(row), kAllSteps, place_of_group(noise.seed, group), bits);
  return bits[0] < Bits<C>{} + threshold(noise.dropout)
             ? broadcast<S>(0)
             : broadcast<S>(static_cast<C>(1 / (1 - noise.dropout)));
}

}  // namespace rnnfast
