// Kernels compiled for every number of rows and of vectors of columns that fits the registers.
#pragma once

#include "vec.h"

namespace rnnfast {

// Kernel::run<rows, vectors>, where rows <= MR and vectors <= NV.
template <class Kernel, int MR, int NV>
auto sized(int rows, int vectors) {
  if constexpr (NV > 1) {
    if (vectors < NV) return sized<Kernel, MR, NV - 1>(rows, vectors);
  }
  if constexpr (MR > 1) {
    if (rows < MR) return sized<Kernel, MR - 1, NV>(rows, vectors);
  }
  return &Kernel::template run<MR, NV>;
}

// Writes sums to rows `out_row` apart, or, where it `adds`, adds them to what is there.
template <class C, int MR, int NV>
__attribute__((always_inline)) inline void write_sums(const Vec<C> (&sums)[MR][NV], C* out, int64_t out_row,
                                                      bool adds) {
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
      C* p = out + i * out_row + j * kLanes<C>;
      store(p, adds ? load(p) + sums[i][j] : sums[i][j]);
    }
  }
}

}  // namespace rnnfast
