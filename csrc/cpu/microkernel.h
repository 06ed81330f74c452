// The register tile: rows of an operand times a packed panel of a matrix.
#pragma once

#include "vec.h"

namespace rnnfast {

// out[i][j] = sum over k of a[i][k] * panel[k][j], each sum taken in the order of k. `a` has MR rows,
// `stride` apart; the panel's rows hold NV vectors; out is contiguous and aligned.
template <class S, int MR, int NV>
void multiply(const Compute<S>* a, int64_t stride, const S* panel, int64_t K, Compute<S>* out) {
  using V = Vec<Compute<S>>;
  constexpr int VL = kLanes<S>;
  V acc[MR][NV] = {};
  for (int64_t k = 0; k < K; ++k, panel += NV * VL) {
    V w[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) w[j] = load(panel + j * VL);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const Compute<S> x = a[i * stride + k];
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] += x * w[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) store(out + (i * NV + j) * VL, acc[i][j]);
  }
}

template <class S>
using Multiply = void (*)(const Compute<S>*, int64_t, const S*, int64_t, Compute<S>*);

// The microkernel for `rows` <= MR rows.
template <class S, int MR, int NV>
Multiply<S> multiply_rows(int rows) {
  if constexpr (MR > 1) {
    if (rows < MR) return multiply_rows<S, MR - 1, NV>(rows);
  }
  return multiply<S, MR, NV>;
}

}  // namespace rnnfast
