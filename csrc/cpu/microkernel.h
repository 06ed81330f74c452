// Matrix products of a few rows: the register tiles.
#pragma once

#include "shuffle.h"
#include "sized.h"

namespace rnnfast {

// A row of a panel of bfloat16 is quicker to widen where two vectors of it are interleaved: those of the
// first in the lower halves of 32 bits, those of the second in the upper. So are the first `kPaired` vectors
// of a panel.
template <class S>
constexpr int paired(int vectors) {
  return std::is_same_v<S, bf16> ? vectors / 2 * 2 : 0;
}

inline void interleave_pairs(bf16* row, int vectors) {
  constexpr int VL = kLanes<bf16>;
  for (int j = 0; j < paired<bf16>(vectors); j += 2, row += 2 * VL) {
    const auto first = bit_cast<Bits<float>>(load(row)), second = bit_cast<Bits<float>>(load(row + VL));
    const auto both = first >> 16 | second;
    std::memcpy(row, &both, sizeof both);
  }
}

// Vector j of a row of a panel.
template <class S, int kPaired>
inline Vec<Compute<S>> vector_of_panel(const S* row, int j) {
  constexpr int VL = kLanes<S>;
  if constexpr (kPaired > 0) {
    if (j < kPaired) {
      Bits<float> both;
      std::memcpy(&both, row + j / 2 * 2 * VL, sizeof both);
      return bit_cast<Vec<float>>(j % 2 ? both & 0xffff0000u : both << 16);
    }
  }
  return load(row + j * VL);
}

// run: out[i][j] = sum over k of a[i][k] * panel[k][j], each sum taken in the order of k, for MR rows of `a`,
// NV vectors of columns; `adds`: in addition to what is there. Rows lie `a_row`, `panel_row` and `out_row`
// apart, the columns of `a` `a_column`.
template <class S, int kPaired = 0>
struct PanelProduct {
  template <int MR, int NV>
  static void run(const Compute<S>* a, int64_t a_row, int64_t a_column, const S* panel, int64_t panel_row,
                  int64_t K, Compute<S>* out, int64_t out_row, bool adds) {
    using V = Vec<Compute<S>>;
    V acc[MR][NV] = {};
    for (int64_t k = 0; k < K; ++k, a += a_column, panel += panel_row) {
      V w[NV];
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) w[j] = vector_of_panel<S, kPaired>(panel, j);
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) {
        const Compute<S> x = a[i * a_row];
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) acc[i][j] += x * w[j];
      }
    }
    write_sums<Compute<S>>(acc, out, out_row, adds);
  }
};

// Terms summed in a row: rounding errors grow with these and with the number of runs, not with their product.
constexpr int64_t kRun = 256;

// Rows of the batch and of the matrix that `dot` takes at a time: as many accumulators as hide the latency of
// FMA and fit the registers.
constexpr int kDotRows = kIsa == Isa::avx512 ? 4 : 2, kDotColumns = 4;

// out[i][u] = sum over k of a[i][k] * w[u][k] for MR rows of the batch, `a_row` apart, and the first `count`
// of a vector's worth of rows of w, `w_row` apart, which is read as it lies. Lane l sums k = l, l + VL, ...;
// lanes are then added as a tree. Rows of out are `out_row` apart; beyond `count` they repeat the last value.
template <class S, int MR>
void dot(const Compute<S>* a, int64_t a_row, const S* w, int64_t w_row, int count, int64_t K, Compute<S>* out,
         int64_t out_row) {
  using V = Vec<Compute<S>>;
  constexpr int VL = kLanes<S>, NU = VL < kDotColumns ? VL : kDotColumns;
  V sums[MR][VL];
  for (int u = 0; u < VL; u += NU) {
    const S* rows[NU];
#pragma GCC unroll 8
    for (int j = 0; j < NU; ++j) rows[j] = w + (u + j < count ? u + j : count - 1) * w_row;
    V acc[MR][NU] = {};
    const auto step = [&](const auto& read, int64_t k) {
      V x[MR];
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) x[i] = read(a + i * a_row + k);
#pragma GCC unroll 8
      for (int j = 0; j < NU; ++j) {
        const V y = read(rows[j] + k);
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i) acc[i][j] += x[i] * y;
      }
    };
    int64_t k = 0;
    for (; k + VL <= K; k += VL) step([](const auto* p) { return load(p); }, k);
    if (k < K) step([rest = static_cast<int>(K - k)](const auto* p) { return load(p, rest); }, k);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < NU; ++j) sums[i][u + j] = acc[i][j];
    }
  }
  for (int i = 0; i < MR; ++i) store(out + i * out_row, sums_of_lanes<Compute<S>>(sums[i]));
}

// `dot` for any number of rows.
template <class S>
void dot_rows(int rows, const Compute<S>* a, int64_t a_row, const S* w, int64_t w_row, int count, int64_t K,
              Compute<S>* out, int64_t out_row) {
  for (; rows >= kDotRows; rows -= kDotRows, a += kDotRows * a_row, out += kDotRows * out_row)
    dot<S, kDotRows>(a, a_row, w, w_row, count, K, out, out_row);
  if constexpr (kDotRows > 3) {
    if (rows == 3) return dot<S, 3>(a, a_row, w, w_row, count, K, out, out_row);
  }
  if constexpr (kDotRows > 2) {
    if (rows == 2) return dot<S, 2>(a, a_row, w, w_row, count, K, out, out_row);
  }
  if (rows == 1) dot<S, 1>(a, a_row, w, w_row, count, K, out, out_row);
}

}  // namespace rnnfast
