// Products with weights of 8 bits: w[row][k] = scale[row] q[row][k], q an integer of -127 .. 127.
//
// Rows that are multiplied are rounded to 16 bits, each by its largest value, so that products of two 16-bit
// integers are added in 32 bits: without rounding, and two at a time (pmaddwd). Of the error that leaves, the
// weights' is the larger by a factor of about 2^8.
//
// The weights of a group lie as the kernel reads them, whatever the instruction set: for each 16 units, for
// each pair of k, for each gate, 16 lanes of two k each; the scales for each 16 units, for each gate, 16
// lanes. Zero where units or k end. rnnfast/quantized.py arranges them.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <vector>

#include "../recurrence.h"
#include "sized.h"

namespace rnnfast {
namespace int8 {

constexpr int kBlock = 16;  // units whose weights lie together
// k of which sums stay within 32 bits: 512 * 127 * 32767 < 2^31.
constexpr int64_t kExact = 512;
constexpr float kLargest = 32767;

constexpr int VL = kLanes<float>;
static_assert(kBlock % VL == 0);
typedef int8_t Bytes __attribute__((vector_size(2 * VL)));
typedef int16_t Words __attribute__((vector_size(4 * VL)));
typedef int32_t Sums __attribute__((vector_size(4 * VL)));
typedef int16_t HalfWords __attribute__((vector_size(2 * VL)));

inline Words widened(Bytes bytes) {
#if defined(__AVX512BW__)  // GCC 12 would do it by halves
  return bit_cast<Words>(_mm512_cvtepi8_epi16(bit_cast<__m256i>(bytes)));
#else
  return __builtin_convertvector(bytes, Words);
#endif
}

// Sums, and each lane's two products. kVnni: by one instruction, which this library does not take for
// granted; the integers are the same.
template <bool kVnni>
inline Sums add_pairs(Sums sums, Words a, Words b) {
#if defined(__AVX512BW__)
  if constexpr (kVnni) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
  }
  return sums + bit_cast<Sums>(_mm512_madd_epi16(bit_cast<__m512i>(a), bit_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return sums + bit_cast<Sums>(_mm256_madd_epi16(bit_cast<__m256i>(a), bit_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return sums + bit_cast<Sums>(_mm_madd_epi16(bit_cast<__m128i>(a), bit_cast<__m128i>(b)));
#else
  const auto low = [](Words v) { return (bit_cast<Sums>(v) << 16) >> 16; };
  const auto high = [](Words v) { return bit_cast<Sums>(v) >> 16; };
  return sums + low(a) * low(b) + high(a) * high(b);
#endif
}

inline bool has_vnni() {
#if defined(__AVX512BW__)
  static const bool has = __builtin_cpu_supports("avx512vnni");
  return has;
#else
  return false;
#endif
}

// Rows of 16-bit integers, `pairs` pairs each, and what a row's integers are multiples of.
class Rows {
 public:
  Rows(const float* a, int64_t a_row, int64_t count, int64_t K) : pairs_(ceil_div(K, 2)) {
    values_.resize(count * 2 * pairs_ + VL), scales_.resize(count);
    for (int64_t i = 0; i < count; ++i) scales_[i] = round_row(a + i * a_row, K, &values_[i * 2 * pairs_]);
  }

  const int16_t* row(int64_t i) const { return values_.data() + i * 2 * pairs_; }
  const float* scales() const { return scales_.data(); }
  int64_t pairs() const { return pairs_; }

 private:
  // Writes up to VL - 1 values too many.
  static float round_row(const float* a, int64_t K, int16_t* to) {
    Vec<float> most{};
    for_each(a, K, [&](int64_t, Vec<float> v) {
      const Vec<float> size = v < 0 ? -v : v;
      most = most < size || size != size ? size : most;  // NaN stays
    });
    float largest = 0;
    for (int lane = 0; lane < VL; ++lane)
      if (largest == largest && !(most[lane] <= largest)) largest = most[lane];
    const float scale = largest / kLargest;
    // Where that is NaN or infinite so shall be the result, whatever the integers are.
    const float inverse = largest > 0 && scale * 0 == 0 ? kLargest / largest : 0;
    for_each(a, K, [&](int64_t k, Vec<float> v) {
      constexpr float kRound = 0x1.8p+23f;  // leaves the rounded integer in the low bits
      const auto whole = bit_cast<Sums>(v * inverse + kRound) - bit_cast<int32_t>(kRound);
      const auto words = __builtin_convertvector(whole, HalfWords);
      std::memcpy(to + k, &words, sizeof words);
    });
    return scale;
  }

  template <class F>
  static void for_each(const float* a, int64_t K, const F& f) {
    int64_t k = 0;
    for (; k + VL <= K; k += VL) f(k, load(a + k));
    if (k < K) f(k, load(a + k, static_cast<int>(K - k)));
  }

  int64_t pairs_;
  std::vector<int16_t> values_;
  std::vector<float> scales_;
};

// Where the weights and scales of one vector of columns begin; a pair of k further on they are `step` bytes
// further on.
struct Column {
  const int8_t* weights;
  const float* scale;
};

// run: out[i][j] = sum over k of a[i][k] * w[k][j] for MR rows and NV vectors of columns, as they were before
// rounding.
template <bool kVnni>
struct Product {
  template <int MR, int NV>
  static void run(const Rows& a, int64_t first, const Column* columns, int64_t step, float* out,
                  int64_t out_row) {
    const int16_t* rows[MR];
    for (int i = 0; i < MR; ++i) rows[i] = a.row(first + i);
    for (int64_t begin = 0; begin < a.pairs(); begin += kExact / 2) {
      const int64_t end = std::min(a.pairs(), begin + kExact / 2);
      Sums acc[MR][NV] = {};
      for (int64_t k = begin; k < end; ++k) {
        Words w[NV];
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) {
          Bytes bytes;
          std::memcpy(&bytes, columns[j].weights + k * step, sizeof bytes);
          w[j] = widened(bytes);
        }
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i) {
          int32_t pair;
          std::memcpy(&pair, rows[i] + 2 * k, sizeof pair);
          const Words x = bit_cast<Words>(Sums{} + pair);
#pragma GCC unroll 8
          for (int j = 0; j < NV; ++j) acc[i][j] = add_pairs<kVnni>(acc[i][j], x, w[j]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) {
          float* p = out + i * out_row + j * VL;
          const Vec<float> sum = __builtin_convertvector(acc[i][j], Vec<float>) *
                                 (load(columns[j].scale) * a.scales()[first + i]);
          store(p, begin > 0 ? load(p) + sum : sum);
        }
      }
    }
  }
};

// The kernel for `rows` <= MR rows and `vectors` <= NV vectors.
template <int MR, int NV>
auto product_of(int rows, int vectors) {
  return has_vnni() ? sized<Product<true>, MR, NV>(rows, vectors)
                    : sized<Product<false>, MR, NV>(rows, vectors);
}

}  // namespace int8
}  // namespace rnnfast
