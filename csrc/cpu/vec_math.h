// Elementary functions on SIMD values.
#pragma once

#include "vec.h"

namespace rnnfast {
namespace detail {

// Constants of a format, and two Chebyshev interpolations:
//   p(u^2) with tanh(u) = u + u^3 p(u^2), for |u| <= ln(2)/4; the relative error in tanh is 6e-10 (float32)
//   and
//          5e-20 (float64), up to 0.21 ten times that at most;
//   q(u)   with e^u = 1 + u + u^2 q(u), for |u| <= ln(2)/2; the relative error in e^u is 3e-10 and 3e-19.
template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float k2Log2e = 0x1.715476p+1f, kHalfLn2High = 0x1.62ep-2f, kHalfLn2Low = 0x1.0bfbe8p-16f;
  // Adding 1.5 * 2^23 leaves the rounded integer in the low bits.
  static constexpr float kRound = 0x1.8p+23f;
  static constexpr int kMantissaBits = 23;
  static constexpr uint32_t kOne = 0x3f800000u, kSign = 0x80000000u;
  static constexpr float kLeastExponent = 126;
  static constexpr float kIsOne = 9.02f;    // tanh rounds to 1 from here on
  static constexpr float kIsZero = 104.1f;  // e^-a rounds to 0 from here on
  static constexpr float p[] = {-3.3333331510763538e-1f, 1.3332241175588651e-1f, -5.2995560633200301e-2f};
  static constexpr float q[] = {0.5f,
                                1.6666666681704215e-1f,
                                4.1666464197405692e-2f,
                                8.3333108446478626e-3f,
                                1.3933730715792083e-3f,
                                1.9891080463998404e-4f};
};

template <>
struct MathConstants<double> {
  static constexpr double k2Log2e = 0x1.71547652b82fep+1, kHalfLn2High = 0x1.62e42f8p-2,
                          kHalfLn2Low = 0x1.be8e7bcd5e4f2p-28;
  static constexpr double kRound = 0x1.8p+52;
  static constexpr int kMantissaBits = 52;
  static constexpr uint64_t kOne = 0x3ff0000000000000u, kSign = 0x8000000000000000u;
  static constexpr double kLeastExponent = 1022;
  static constexpr double kIsOne = 19.1;
  static constexpr double kIsZero = 745.2;
  static constexpr double p[] = {
      -3.333333333333333318e-1, 1.3333333333332834311e-1, -5.3968253965595991028e-2, 2.1869488004918158612e-2,
      -8.863184921203574414e-3, 3.5896486309680249029e-3, -1.3953356679571345518e-3};
  static constexpr double q[] = {0.5,
                                 1.6666666666666671e-1,
                                 4.1666666666666670e-2,
                                 8.3333333333260831e-3,
                                 1.3888888888883711e-3,
                                 1.9841269875002279e-4,
                                 2.4801587325677462e-5,
                                 2.7557255170000887e-6,
                                 2.7557273478718580e-7,
                                 2.5105312729622102e-8,
                                 2.0914755325893202e-9};
};

// p 2^-n for 0.7 < p < 1.5 and a whole n of at most twice the exponent's range; subnormal, in the end zero,
// where 2^-n is.
template <class T>
__attribute__((always_inline)) inline Vec<T> scaled_down(Vec<T> p, Vec<T> n) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>)
    return bit_cast<Vec<T>>(_mm512_maskz_scalef_ps(0xffff, bit_cast<__m512>(p), bit_cast<__m512>(-n)));
  if constexpr (std::is_same_v<T, double>)
    return bit_cast<Vec<T>>(_mm512_maskz_scalef_pd(0xff, bit_cast<__m512d>(p), bit_cast<__m512d>(-n)));
#endif
  using C = MathConstants<T>;
  const auto power = [](Vec<T> whole) {  // 2^-whole
    return bit_cast<Vec<T>>(C::kOne - (bit_cast<Bits<T>>(whole + C::kRound) << C::kMantissaBits));
  };
  const Vec<T> normal = n > C::kLeastExponent ? Vec<T>{} + C::kLeastExponent : n;
  return (p * power(normal)) * power(n - normal);
}

// With a = n ln(2)/2 + u and s = 2^n, tanh(n ln(2)/2) is (s - 1) / (s + 1), and the addition theorem gives
//   tanh(a) = ((s - 1) + (s + 1) tanh(u)) / ((s + 1) + (s - 1) tanh(u))
//           = 1 - (2 - 2 tanh(u)) / ((s + 1) + (s - 1) tanh(u)).
// Near zero n is 0 and the first quotient is 2 tanh(u) / 2: nothing cancels and nothing is rounded twice.
// Above 1/2 the second form leaves one rounding, of the difference, which BPTT's 1 - h^2 would magnify.
template <class T>
__attribute__((always_inline)) inline Vec<T> tanh(Vec<T> x) {
  using C = MathConstants<T>;
  const Bits<T> sign = bit_cast<Bits<T>>(x) & C::kSign;
  Vec<T> a = bit_cast<Vec<T>>(bit_cast<Bits<T>>(x) ^ sign);
  a = a > C::kIsOne ? Vec<T>{} + C::kIsOne : a;  // written so that NaN stays NaN

  // Not quite the nearest multiple: n changes from 1 to 2 just where the second form takes over, as the first
  // loses most with n = 2.
  const Vec<T> shifted = (a - static_cast<T>(0.03)) * C::k2Log2e + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> s = bit_cast<Vec<T>>((bit_cast<Bits<T>>(shifted) << C::kMantissaBits) + C::kOne);
  const Vec<T> u = (a - n * C::kHalfLn2High) - n * C::kHalfLn2Low;
  const Vec<T> square = u * u;

  constexpr int last = sizeof(C::p) / sizeof(T) - 1;
  Vec<T> p = Vec<T>{} + C::p[last];
#pragma GCC unroll 8
  for (int i = last - 1; i >= 0; --i) p = p * square + C::p[i];
  const Vec<T> tanh_u = (u * square) * p + u;

  const Vec<T> up = s + 1, down = s - 1;
  const auto large = a > static_cast<T>(0.55);  // tanh(0.5493) is 1/2
  const Vec<T> quotient = (large ? 2 - 2 * tanh_u : up * tanh_u + down) / (down * tanh_u + up);
  return bit_cast<Vec<T>>(bit_cast<Bits<T>>(large ? 1 - quotient : quotient) | sign);
}

// With e = e^-|x|, sigmoid(x) is 1 / (1 + e) for positive x and e / (1 + e) for negative: nothing cancels.
// What rounding takes from 1 + e is made good afterwards: three roundings would be more than 2 ulp in places.
template <class T>
__attribute__((always_inline)) inline Vec<T> sigmoid(Vec<T> x) {
  using C = MathConstants<T>;
  Vec<T> a = bit_cast<Vec<T>>(bit_cast<Bits<T>>(x) & ~C::kSign);
  a = a > C::kIsZero ? Vec<T>{} + C::kIsZero : a;  // written so that NaN stays NaN

  const Vec<T> n = (a * (C::k2Log2e / 2) + C::kRound) - C::kRound;
  const Vec<T> u = (n * (2 * C::kHalfLn2High) - a) + n * (2 * C::kHalfLn2Low);
  constexpr int last = sizeof(C::q) / sizeof(T) - 1;
  Vec<T> q = Vec<T>{} + C::q[last];
#pragma GCC unroll 16
  for (int i = last - 1; i >= 0; --i) q = q * u + C::q[i];
  const Vec<T> e = scaled_down<T>(u * u * q + u + 1, n);
  const Vec<T> sum = 1 + e, lost = e - (sum - 1);
  const Vec<T> quotient = (x < 0 ? e : Vec<T>{} + 1) / sum;
  const Vec<T> reciprocal = x < 0 ? 1 - quotient : quotient;  // of the sum
  return quotient - quotient * (lost * reciprocal);
}

}  // namespace detail

// Within 2 ulp (float32), odd, exact at 0, +-1 where it saturates, NaN for NaN.
__attribute__((always_inline)) inline Vec<float> tanh(Vec<float> x) { return detail::tanh<float>(x); }
__attribute__((always_inline)) inline Vec<double> tanh(Vec<double> x) { return detail::tanh<double>(x); }

// Within 2 ulp (float32), subnormal results included, 0 and 1 where it saturates, NaN for NaN.
__attribute__((always_inline)) inline Vec<float> sigmoid(Vec<float> x) { return detail::sigmoid<float>(x); }
__attribute__((always_inline)) inline Vec<double> sigmoid(Vec<double> x) {
  return detail::sigmoid<double>(x);
}

}  // namespace rnnfast
