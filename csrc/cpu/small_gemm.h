// Products too small for the start of a library: a step of one row takes as long to hand to a GEMM as to do.
#pragma once

#include "microkernel.h"
#include "tensors.h"

namespace rnnfast {

// Multiplications up to which this was the faster.
constexpr int64_t kSmallProduct = 1 << 17;

// to = a b; rows of `to` and columns of b (or its rows, if its columns lie spread out) are contiguous.
template <class S>
void small_product(const Tensor& to, const Tensor& a, const Tensor& b) {
  const int64_t M = a.size(0), K = a.size(1), N = b.size(1);
  const int64_t a_row = a.stride(0), a_column = a.stride(1), to_row = to.stride(0);
  const S *x = static_cast<const S*>(a.data_ptr()), *y = static_cast<const S*>(b.data_ptr());
  S* out = static_cast<S*>(to.data_ptr());
  if (b.stride(1) != 1) {  // b is a transposed matrix: dot products with its rows
    constexpr int VL = kLanes<S>;
    const int64_t y_row = b.stride(1);
    for (int64_t n = 0; n < N; n += VL) {
      const int count = static_cast<int>(std::min<int64_t>(VL, N - n));
      for (int64_t m = 0; m < M; ++m) {
        alignas(kVectorBytes) S results[VL];
        dot<S, 1>(x + m * a_row, 0, y + n * y_row, y_row, count, K, results, 0);
        std::copy_n(results, count, out + m * to_row + n);
      }
    }
    return;
  }
  const int64_t y_row = b.stride(0);
  for (int64_t m = 0; m < M; ++m, out += to_row) {
    std::fill_n(out, N, S{});
    for (int64_t k = 0; k < K; ++k) {
      const S factor = x[m * a_row + k * a_column];
      const S* row = y + k * y_row;
#pragma GCC ivdep
      for (int64_t n = 0; n < N; ++n) out[n] += factor * row[n];
    }
  }
}

// Whether it did to = a b.
inline bool try_small_product(const Tensor& to, const Tensor& a, const Tensor& b) {
  const bool dots = b.stride(1) != 1;
  const bool suits = a.size(0) * a.size(1) * b.size(1) <= kSmallProduct && to.stride(1) == 1 &&
                     (!dots || (b.stride(0) == 1 && a.stride(1) == 1));
  using torch::headeronly::ScalarType;
  if (!suits) return false;
  if (to.scalar_type() == ScalarType::Float) return small_product<float>(to, a, b), true;
  if (to.scalar_type() == ScalarType::Double) return small_product<double>(to, a, b), true;
  return false;
}

}  // namespace rnnfast
