// Matrix products by our own microkernels in the calling thread, for what a library does not serve well:
// sizes that take less time than to start one, and machines whose other processors are taken, where every
// parallel region of a library costs a time slice.
#pragma once

#include <vector>

#include "microkernel.h"
#include "tensors.h"

namespace rnnfast {

// to = a b, where rows of b are contiguous: register tiles over b as it lies.
template <class S>
void rows_product(const Tensor& to, const Tensor& a, const Tensor& b) {
  constexpr int VL = kLanes<S>;
  constexpr Tile tile = tile_for(kIsa, 1);
  constexpr int width = tile.vectors * VL;
  const int64_t M = a.size(0), K = a.size(1), N = b.size(1);
  const int64_t a_row = a.stride(0), a_column = a.stride(1), b_row = b.stride(0), to_row = to.stride(0);
  const S *x = static_cast<const S*>(a.data_ptr()), *y = static_cast<const S*>(b.data_ptr());
  S* out = static_cast<S*>(to.data_ptr());

  std::vector<S> last;  // the columns that do not fill a vector, padded
  for (int64_t n = 0; n < N; n += width) {
    const int64_t columns = std::min<int64_t>(width, N - n);
    const int vectors = static_cast<int>(ceil_div(columns, VL));
    const S* panel = y + n;
    int64_t panel_row = b_row;
    if (columns % VL != 0) {
      panel_row = vectors * VL;
      last.assign(K * panel_row, S{});
      for (int64_t k = 0; k < K; ++k) std::copy_n(y + k * b_row + n, columns, last.data() + k * panel_row);
      panel = last.data();
    }
    for (int64_t m = 0; m < M; m += tile.rows) {
      const int rows = static_cast<int>(std::min<int64_t>(tile.rows, M - m));
      const auto multiply = multiply_sized<S, tile.rows, tile.vectors>(rows, vectors);
      if (columns % VL == 0) {
        multiply(x + m * a_row, a_row, a_column, panel, panel_row, K, out + m * to_row + n, to_row);
        continue;
      }
      S results[tile.rows * width];
      multiply(x + m * a_row, a_row, a_column, panel, panel_row, K, results, width);
      for (int i = 0; i < rows; ++i) std::copy_n(results + i * width, columns, out + (m + i) * to_row + n);
    }
  }
}

// to = a b, where columns of b and rows of a are contiguous: dot products.
template <class S>
void dots_product(const Tensor& to, const Tensor& a, const Tensor& b) {
  constexpr int VL = kLanes<S>;
  const int64_t M = a.size(0), K = a.size(1), N = b.size(1);
  const int64_t a_row = a.stride(0), b_column = b.stride(1), to_row = to.stride(0);
  const S *x = static_cast<const S*>(a.data_ptr()), *y = static_cast<const S*>(b.data_ptr());
  S* out = static_cast<S*>(to.data_ptr());
  for (int64_t n = 0; n < N; n += VL) {
    const int count = static_cast<int>(std::min<int64_t>(VL, N - n));
    for (int64_t m = 0; m < M; m += kDotRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kDotRows, M - m));
      S results[kDotRows * VL];
      dot_rows<S>(rows, x + m * a_row, a_row, y + n * b_column, b_column, count, K, results, VL);
      for (int i = 0; i < rows; ++i) std::copy_n(results + i * VL, count, out + (m + i) * to_row + n);
    }
  }
}

// Does to = a b, for 2-D float32 or float64 of any strides that the kernels serve; otherwise returns false.
inline bool try_own_product(const Tensor& to, const Tensor& a, const Tensor& b) {
  using torch::headeronly::ScalarType;
  const bool in_rows = b.stride(1) == 1 || b.size(1) == 1;
  const bool in_columns = b.stride(0) == 1 && a.stride(1) == 1;
  if (to.stride(1) != 1 || a.size(1) == 0 || !(in_rows || in_columns)) return false;
  const auto run = [&](auto type) {
    using S = decltype(type);
    in_rows ? rows_product<S>(to, a, b) : dots_product<S>(to, a, b);
    return true;
  };
  if (to.scalar_type() == ScalarType::Float) return run(float{});
  if (to.scalar_type() == ScalarType::Double) return run(double{});
  return false;
}

}  // namespace rnnfast
