// Products of bfloat16 values by the processor's own instruction for them (AVX512_BF16): two terms at a time,
// each product exact and added in float32, in half the time of float32's. Subnormal values count as zero.
#pragma once

#include "sized.h"

namespace rnnfast {
namespace bf16_dots {

constexpr int VL = kLanes<bf16>;

// Sums, and each lane's two products.
inline Vec<float> add_pairs(Vec<float> sums, Bits<float> a, Bits<float> b) {
#if defined(__AVX512BW__)
  asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
#else
  (void)a, (void)b;
#endif
  return sums;
}

// Two rows of a panel, of terms k and k + 1, as rows of pairs, those of k in the lower halves of 32 bits. In
// the same place.
template <int NV>
void pair_rows(bf16* rows) {
  Bits<float> both[NV];
  for (int j = 0; j < NV; ++j)
    both[j] =
        bit_cast<Bits<float>>(load(rows + j * VL)) >> 16 | bit_cast<Bits<float>>(load(rows + (NV + j) * VL));
  std::memcpy(rows, both, sizeof both);
}

// Rows rounded to bfloat16, with a zero behind an odd number of terms.
class Rows {
 public:
  // Values in `room`, for so many rows.
  static int64_t size(int64_t count, int64_t K) { return count * row_of(K); }

  Rows(const float* a, int64_t a_row, int64_t count, int64_t K, bf16* room) : row_(row_of(K)), data_(room) {
    for (int64_t i = 0; i < count; ++i, a += a_row) {
      bf16* to = room + i * row_;
      int64_t k = 0;
      for (; k + VL <= K; k += VL) store(to + k, load(a + k));
      if (k < K) store(to + k, load(a + k, static_cast<int>(K - k)));
    }
  }

  const bf16* row(int64_t i) const { return data_ + i * row_; }
  int64_t stride() const { return row_; }

 private:
  static int64_t row_of(int64_t K) { return ceil_div(K, VL) * VL; }

  int64_t row_;
  const bf16* data_;
};

// run: as PanelProduct's, for a panel of pairs; where K is odd, a last term of both is zero.
struct Product {
  template <int MR, int NV>
  static void run(const bf16* a, int64_t a_row, const bf16* panel, int64_t panel_row, int64_t K, float* out,
                  int64_t out_row, bool adds) {
    Vec<float> acc[MR][NV] = {};
    for (int64_t k = 0; k < K; k += 2, a += 2, panel += 2 * panel_row) {
      Bits<float> w[NV];
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) std::memcpy(&w[j], panel + j * 2 * VL, sizeof w[j]);
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) {
        uint32_t pair;
        std::memcpy(&pair, a + i * a_row, sizeof pair);
        const Bits<float> x = Bits<float>{} + pair;
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) acc[i][j] = add_pairs(acc[i][j], w[j], x);
      }
    }
    write_sums<float>(acc, out, out_row, adds);
  }
};

}  // namespace bf16_dots
}  // namespace rnnfast
