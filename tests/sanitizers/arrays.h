// Arrays as kernels are given them: each a heap block of its own, exactly as long as it must be, which knows
// what it must hold after the run.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "recurrence.h"

namespace rnnfast::driver {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// 16-bit floating point, written anew rather than taken from the kernels.
struct Half {
  int mantissa, bias;

  uint16_t encode(double x) const {
    if (std::isnan(x)) return 0x7fff;
    int exponent = 0;
    std::frexp(x, &exponent);
    const int least = 1 - bias, e = x == 0 ? least : std::max(exponent - 1, least);
    const int bits = static_cast<int>(std::nearbyint(std::ldexp(std::fabs(x), mantissa - e)));
    return static_cast<uint16_t>(bits + (e - least) * (1 << mantissa) + (std::signbit(x) ? 0x8000 : 0));
  }

  double decode(uint16_t bits) const {
    const int fraction = bits % (1 << mantissa), exponent = (bits & 0x7fff) >> mantissa;
    if (exponent == 2 * bias + 1) return kNan;
    const double x = exponent > 0 ? std::ldexp(fraction + (1 << mantissa), exponent - bias - mantissa)
                                  : std::ldexp(fraction, 1 - bias - mantissa);
    return bits & 0x8000 ? -x : x;
  }

  double rounded(double x) const { return decode(encode(x)); }
};
constexpr Half kBf16 = {7, 127}, kF16 = {10, 15};

// What elements are: those of a dtype, in the order of Dtype, or weights of 8 bits.
enum class Format { f32, f64, bf16, f16, i8 };
constexpr int kElementBytes[] = {4, 8, 2, 2, 1};

// Where the row of values for group g, step t and row b of the batch lies. With offsets all steps lie one
// behind the other; with origins rows begin anywhere.
struct Strides {
  int64_t group = 0, step = 0, row = 0;
  const int64_t* offsets = nullptr;
  const int64_t* origins = nullptr;

  int64_t place(int64_t g, int64_t t, int64_t b) const {
    return g * group + (offsets ? offsets[t] * row : t * step) + (origins ? origins[b] : b) * row;
  }
};

// An array and what it must hold after the run: NaN wherever nobody has business.
class Array {
 public:
  Array(const char* name, Format format, const Strides& strides, int64_t size)
      : name_(name),
        format_(format),
        strides_(strides),
        data_(new char[size * kElementBytes[static_cast<int>(format)]]),
        expected_(size) {
    fill(kNan);
  }

  void* data() const { return data_.get(); }
  const Strides& strides() const { return strides_; }

  // A row as it is expected after the run: what was put there, if the kernel only reads it.
  const double* row(int64_t g, int64_t t, int64_t b) const {
    return expected_.data() + strides_.place(g, t, b);
  }

  void put(int64_t g, int64_t t, int64_t b, int64_t j, double x) { write(strides_.place(g, t, b) + j, x); }

  void fill(double x) {
    for (size_t i = 0; i < expected_.size(); ++i) write(i, x);
  }

  // Returns what a kernel would read back.
  double expect(int64_t g, int64_t t, int64_t b, int64_t j, double x) {
    return expected_[strides_.place(g, t, b) + j] = rounded(x);
  }

  // x as the kernels store it, where that is in 16 bits.
  double rounded(double x) const {
    return format_ == Format::bf16 ? kBf16.rounded(x) : format_ == Format::f16 ? kF16.rounded(x) : x;
  }

  // Writes what was expected, for another pass to read.
  void put_expected() {
    for (size_t i = 0; i < expected_.size(); ++i) write(i, expected_[i]);
  }

  // Empty if all is well. The tolerance is relative to the expected value or to 1, whichever is larger.
  std::string mismatch(double tolerance) const {
    for (size_t i = 0; i < expected_.size(); ++i) {
      const double actual = read(i), expected = expected_[i];
      const bool same = std::isnan(expected)
                            ? std::isnan(actual)
                            : std::fabs(actual - expected) <= tolerance * std::max(1., std::fabs(expected));
      if (same) continue;
      char text[128];
      std::snprintf(text, sizeof text, "%s[%zu of %zu] is %.17g, expected %.17g", name_, i, expected_.size(),
                    actual, expected);
      return text;
    }
    return "";
  }

 private:
  template <class T>
  T* elements() const {
    return reinterpret_cast<T*>(data_.get());
  }

  double read(size_t i) const {
    switch (format_) {
      case Format::f32:
        return elements<float>()[i];
      case Format::f64:
        return elements<double>()[i];
      case Format::bf16:
        return kBf16.decode(elements<uint16_t>()[i]);
      case Format::f16:
        return kF16.decode(elements<uint16_t>()[i]);
      case Format::i8:
        return elements<int8_t>()[i];
    }
    return kNan;
  }

  void write(size_t i, double x) {
    switch (format_) {
      case Format::f32:
        elements<float>()[i] = static_cast<float>(x);
        break;
      case Format::f64:
        elements<double>()[i] = x;
        break;
      case Format::bf16:
        elements<uint16_t>()[i] = kBf16.encode(x);
        break;
      case Format::f16:
        elements<uint16_t>()[i] = kF16.encode(x);
        break;
      case Format::i8:  // where units or sums end there are zeros, so they stand for NaN
        elements<int8_t>()[i] = std::isnan(x) ? int8_t{0} : static_cast<int8_t>(x);
        break;
    }
    expected_[i] = read(i);
  }

  const char* name_;
  Format format_;
  Strides strides_;
  std::unique_ptr<char[]> data_;
  std::vector<double> expected_;
};

}  // namespace rnnfast::driver
