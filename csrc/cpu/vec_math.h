// Elementary functions on SIMD values.
#pragma once

#include "vec.h"

namespace rnnfast {
namespace detail {

// Constants of expm1 on |r| <= ln(2)/2: expm1(r) = r + r^2 q(r), q a Chebyshev interpolation whose relative
// error in expm1 is 5e-10 (float32) and 5e-19 (float64).
template <class T>
struct Exp;

template <>
struct Exp<float> {
  static constexpr float kLog2e = 0x1.715476p+0f, kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;
  // Adding 1.5 * 2^23 leaves the rounded integer in the low bits.
  static constexpr float kRound = 0x1.8p+23f;
  static constexpr int kMantissaBits = 23;
  static constexpr uint32_t kOne = 0x3f800000u, kSign = 0x80000000u;
  // tanh rounds to 1 from here on.
  static constexpr float kTanhIsOne = 9.02f;
  static constexpr float q[] = {5.00000001349817786e-1f,  1.66666666816591792e-1f,  4.16664646020265416e-2f,
                                8.33331089058207719e-3f,  1.39336858626171736e-3f,  1.98910306543703277e-4f};
};

template <>
struct Exp<double> {
  static constexpr double kLog2e = 0x1.71547652b82fep+0, kLn2High = 0x1.62e42f8p-1,
                          kLn2Low = 0x1.be8e7bcd5e4f2p-27;
  static constexpr double kRound = 0x1.8p+52;
  static constexpr int kMantissaBits = 52;
  static constexpr uint64_t kOne = 0x3ff0000000000000u, kSign = 0x8000000000000000u;
  static constexpr double kTanhIsOne = 19.1;
  static constexpr double q[] = {
      5.0e-1,
      1.6666666666666671008e-1,
      4.1666666666666669767e-2,
      8.3333333333261120526e-3,
      1.3888888888883731828e-3,
      1.9841269874901259234e-4,
      2.4801587325605322782e-5,
      2.7557255297969644392e-6,
      2.7557273570102139673e-7,
      2.5105259538448493419e-8,
      2.0914717341716375952e-9,
  };
};

// exp(y) - 1 for 0 <= y < 60, relative error below 1.5 ulp.
template <class T>
inline Vec<T> expm1_positive(Vec<T> y) {
  using E = Exp<T>;
  const Vec<T> shifted = y * E::kLog2e + E::kRound;
  const Vec<T> n = shifted - E::kRound;
  const Vec<T> r = (y - n * E::kLn2High) - n * E::kLn2Low;
  constexpr int last = sizeof(E::q) / sizeof(T) - 1;
  Vec<T> q = Vec<T>{} + E::q[last];
#pragma GCC unroll 16
  for (int i = last - 1; i >= 0; --i) q = q * r + E::q[i];
  const Vec<T> p = (r * r) * q + r;
  const Vec<T> two_to_n = bit_cast<Vec<T>>((bit_cast<Bits<T>>(shifted) << E::kMantissaBits) + E::kOne);
  return two_to_n * p + (two_to_n - 1);
}

template <class T>
inline Vec<T> tanh(Vec<T> x) {
  using E = Exp<T>;
  const Bits<T> sign = bit_cast<Bits<T>>(x) & E::kSign;
  Vec<T> a = bit_cast<Vec<T>>(bit_cast<Bits<T>>(x) ^ sign);
  a = a > E::kTanhIsOne ? Vec<T>{} + E::kTanhIsOne : a;  // written so that NaN stays NaN
  const Vec<T> e = expm1_positive<T>(a + a);
  return bit_cast<Vec<T>>(bit_cast<Bits<T>>(e / (e + 2)) | sign);
}

}  // namespace detail

// Within 2 ulp everywhere, odd, exact at 0, +-1 where it saturates, NaN for NaN.
inline Vec<float> tanh(Vec<float> x) { return detail::tanh<float>(x); }
inline Vec<double> tanh(Vec<double> x) { return detail::tanh<double>(x); }

}  // namespace rnnfast
