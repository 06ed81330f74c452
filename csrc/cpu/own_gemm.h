// Matrix products by our own microkernels, for what a library does not serve well: sizes that take little
// longer than to start one, and a machine whose processors other programs want, where each parallel region of
// a library may cost a time slice. Sums are formed in one order, whatever the number of workers.
#pragma once

#include <algorithm>
#include <vector>

#include "packing.h"
#include "running.h"
#include "team.h"
#include "tensors.h"

namespace rnnfast {

// to = a b, of strided 2-D arrays: columns of `to` are contiguous, and rows of b, or its columns and rows of
// a.
template <class S>
class OwnProduct {
 public:
  OwnProduct(const Tensor& to, const Tensor& a, const Tensor& b)
      : M_(a.size(0)),
        K_(a.size(1)),
        N_(b.size(1)),
        a_(static_cast<const S*>(a.data_ptr())),
        b_(static_cast<const S*>(b.data_ptr())),
        to_(static_cast<S*>(to.data_ptr())),
        a_row_(a.stride(0)),
        a_column_(a.stride(1)),
        b_row_(b.stride(0)),
        b_column_(b.stride(1)),
        to_row_(to.stride(0)),
        in_rows_(b.stride(1) == 1 || N_ == 1) {}

  void run(int workers) const {
    const int64_t panels = ceil_div(N_, kWidth), tiles = ceil_div(M_, kTile.rows);
    // Workers that share a panel pack it each for itself.
    const bool by_panels = panels >= workers && (panels % workers == 0 || panels >= 4 * workers || !in_rows_);
    workers = static_cast<int>(std::min<int64_t>(workers, by_panels ? panels : tiles));
    Crew crew(workers);
    parallel(workers, [&](int worker) {
      crew.run(worker, 1, [&](int64_t, int share) {
        const int64_t size = by_panels ? panels : tiles;
        const int64_t begin = part(size, share, workers), end = part(size, share + 1, workers);
        by_panels ? multiply(begin, end, 0, M_)
                  : multiply(0, panels, begin * kTile.rows, std::min(M_, end * kTile.rows));
      });
    });
  }

 private:
  static constexpr int VL = kLanes<S>;
  static constexpr Tile kTile = tile_for(kIsa, 1);
  static constexpr int kWidth = kTile.vectors * VL;
  // Terms summed in a row: rounding errors grow with these and with the number of runs, not with their
  // product.
  static constexpr int64_t kRun = 256;

  // Panels first .. last-1 of rows top .. bottom-1.
  void multiply(int64_t first, int64_t last, int64_t top, int64_t bottom) const {
    std::vector<S> packed;
    for (int64_t n = first * kWidth; n < std::min(N_, last * kWidth); n += kWidth) {
      const int columns = static_cast<int>(std::min<int64_t>(kWidth, N_ - n));
      if (!in_rows_ && M_ <= kDotRows) {  // whatever the share: their sums have an order of their own
        dots(n, columns, top, bottom);
        continue;
      }
      for (int64_t k = 0; k < K_; k += kRun) {
        const int64_t run = std::min(kRun, K_ - k);
        const bool as_it_lies = in_rows_ && columns % VL == 0;
        if (!as_it_lies) pack(n, columns, k, run, packed);
        const S* panel = as_it_lies ? b_ + k * b_row_ + n : packed.data();
        for (int64_t m = top; m < bottom; m += kTile.rows) {
          const int rows = static_cast<int>(std::min<int64_t>(kTile.rows, bottom - m));
          tile(panel, as_it_lies ? b_row_ : kWidth, m, rows, n, columns, k, run);
        }
      }
    }
  }

  // Adds the terms k .. k+run-1 of some rows and columns of a panel; the first terms replace what is there.
  void tile(const S* panel, int64_t panel_row, int64_t m, int rows, int64_t n, int columns, int64_t k,
            int64_t run) const {
    const auto multiply_tile =
        multiply_sized<S, kTile.rows, kTile.vectors>(rows, static_cast<int>(ceil_div(columns, VL)));
    const S* a = a_ + m * a_row_ + k * a_column_;
    S* out = to_ + m * to_row_ + n;
    if (k == 0 && columns % VL == 0)
      return multiply_tile(a, a_row_, a_column_, panel, panel_row, run, out, to_row_);
    alignas(kVectorBytes) S results[kTile.rows * kWidth];
    multiply_tile(a, a_row_, a_column_, panel, panel_row, run, results, kWidth);
    for (int i = 0; i < rows; ++i, out += to_row_) {
      const S* result = results + i * kWidth;
      if (k == 0) {
        std::copy_n(result, columns, out);
      } else {
        for (int j = 0; j < columns; ++j) out[j] += result[j];
      }
    }
  }

  void pack(int64_t n, int columns, int64_t first, int64_t run, std::vector<S>& to) const {
    to.assign(run * kWidth, S{});
    if (in_rows_) {
      for (int64_t k = 0; k < run; ++k)
        std::copy_n(b_ + (first + k) * b_row_ + n, columns, to.data() + k * kWidth);
      return;
    }
    for (int column = 0; column < columns; column += VL)
      pack_columns(b_ + (n + column) * b_column_ + first, b_column_, std::min(VL, columns - column), run,
                   to.data() + column, kWidth);
  }

  void dots(int64_t n, int columns, int64_t top, int64_t bottom) const {
    const int rows = static_cast<int>(bottom - top);
    for (int column = 0; column < columns; column += VL) {
      const int count = std::min(VL, columns - column);
      S results[kDotRows * VL];
      dot_rows<S>(rows, a_ + top * a_row_, a_row_, b_ + (n + column) * b_column_, b_column_, count, K_,
                  results, VL);
      for (int i = 0; i < rows; ++i)
        std::copy_n(results + i * VL, count, to_ + (top + i) * to_row_ + n + column);
    }
  }

  const int64_t M_, K_, N_;
  const S *a_, *b_;
  S* to_;
  const int64_t a_row_, a_column_, b_row_, b_column_, to_row_;
  const bool in_rows_;
};

// Does to = a b, for float32 or float64 with strides that OwnProduct serves; otherwise returns false.
inline bool try_own_product(const Tensor& to, const Tensor& a, const Tensor& b, int workers) {
  using torch::headeronly::ScalarType;
  const bool in_rows = b.stride(1) == 1 || b.size(1) == 1;
  const bool in_columns = b.stride(0) == 1 && a.stride(1) == 1;
  if (to.stride(1) != 1 || a.size(1) == 0 || !(in_rows || in_columns)) return false;
  if (to.scalar_type() == ScalarType::Float) return OwnProduct<float>(to, a, b).run(workers), true;
  if (to.scalar_type() == ScalarType::Double) return OwnProduct<double>(to, a, b).run(workers), true;
  return false;
}

}  // namespace rnnfast
