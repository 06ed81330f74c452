// Elementary functions on SIMD values.
#pragma once

#include "vec.h"

namespace rnnfast {
namespace detail {

// Constants of tanh: p(u^2) with tanh(u) = u + u^3 p(u^2), a Chebyshev interpolation for |u| <= ln(2)/4 whose
// relative error in tanh is 6e-10 (float32) and 5e-20 (float64); up to 0.21 it is ten times that at most.
template <class T>
struct TanhConstants;

template <>
struct TanhConstants<float> {
  static constexpr float k2Log2e = 0x1.715476p+1f, kHalfLn2High = 0x1.62ep-2f, kHalfLn2Low = 0x1.0bfbe8p-16f;
  // Adding 1.5 * 2^23 leaves the rounded integer in the low bits.
  static constexpr float kRound = 0x1.8p+23f;
  static constexpr int kMantissaBits = 23;
  static constexpr uint32_t kOne = 0x3f800000u, kSign = 0x80000000u;
  static constexpr float kIsOne = 9.02f;  // tanh rounds to 1 from here on
  static constexpr float p[] = {-3.3333331510763538e-1f, 1.3332241175588651e-1f, -5.2995560633200301e-2f};
};

template <>
struct TanhConstants<double> {
  static constexpr double k2Log2e = 0x1.71547652b82fep+1, kHalfLn2High = 0x1.62e42f8p-2,
                          kHalfLn2Low = 0x1.be8e7bcd5e4f2p-28;
  static constexpr double kRound = 0x1.8p+52;
  static constexpr int kMantissaBits = 52;
  static constexpr uint64_t kOne = 0x3ff0000000000000u, kSign = 0x8000000000000000u;
  static constexpr double kIsOne = 19.1;
  static constexpr double p[] = {
      -3.333333333333333318e-1, 1.3333333333332834311e-1, -5.3968253965595991028e-2, 2.1869488004918158612e-2,
      -8.863184921203574414e-3, 3.5896486309680249029e-3, -1.3953356679571345518e-3};
};

// With a = n ln(2)/2 + u and s = 2^n, tanh(n ln(2)/2) is (s - 1) / (s + 1), and the addition theorem gives
//   tanh(a) = ((s - 1) + (s + 1) tanh(u)) / ((s + 1) + (s - 1) tanh(u))
//           = 1 - (2 - 2 tanh(u)) / ((s + 1) + (s - 1) tanh(u)).
// Near zero n is 0 and the first quotient is 2 tanh(u) / 2: nothing cancels and nothing is rounded twice.
// Above 1/2 the second form leaves one rounding, of the difference, which BPTT's 1 - h^2 would magnify.
template <class T>
inline Vec<T> tanh(Vec<T> x) {
  using C = TanhConstants<T>;
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

}  // namespace detail

// Within 2 ulp (float32), odd, exact at 0, +-1 where it saturates, NaN for NaN.
inline Vec<float> tanh(Vec<float> x) { return detail::tanh<float>(x); }
inline Vec<double> tanh(Vec<double> x) { return detail::tanh<double>(x); }

}  // namespace rnnfast
