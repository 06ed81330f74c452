// Matrix products by our own microkernels: as fast as a library's, without a parallel region of its own,
// which on a machine whose processors other programs want may cost a time slice. Sums are formed in one
// order, whatever the number of workers.
#pragma once

#include <algorithm>
#include <vector>

#include "../layer/tensors.h"
#include "packing.h"
#include "running.h"
#include "team.h"

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

  // Rows whose run of terms stays in a core's second-level cache while all panels pass by.
  static constexpr int64_t kBlockRows = 64 * kTile.rows;

  // Panels first .. last-1 of rows top .. bottom-1.
  void multiply(int64_t first, int64_t last, int64_t top, int64_t bottom) const {
    if (!in_rows_ && M_ <= kDotRows) {  // whatever the share: their sums have an order of their own
      for (int64_t n = first * kWidth; n < std::min(N_, last * kWidth); n += kWidth)
        dots(n, columns_from(n), top, bottom);
      return;
    }
    for (int64_t m = top; m < bottom; m += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, bottom - m);
      for (int64_t k = 0; k < K_; k += kRun) {
        const int64_t run = std::min(kRun, K_ - k);
        const Block block = block_of(m, rows, k, run);
        const int64_t begin = first * kWidth, end = std::min(N_, last * kWidth);
        for (int64_t n = begin; n < end; n += kWidth) {
          const bool ends = n + kWidth >= end;
          multiply_block(block, m, rows, n, k, run, ends ? Place{k + run, begin} : Place{k, n + kWidth});
        }
      }
    }
  }

  int columns_from(int64_t n) const { return static_cast<int>(std::min<int64_t>(kWidth, N_ - n)); }

  // Terms of some rows of a: those of a tile `tile` behind those of the one before.
  struct Block {
    const S* data;
    int64_t row, column, tile;
  };

  // Memory that the calling thread keeps, so that its pages are asked for once.
  static S* room(int index, int64_t size) {
    static thread_local std::vector<S> kept[2];
    if (static_cast<int64_t>(kept[index].size()) < size) kept[index].resize(size);
    return kept[index].data();
  }

  // Rows that lie across memory, as those of a transposed array, are brought together first, tile by tile. So
  // that writing to all of them in turn does not take turns in a few sets of the cache, tiles begin a cache
  // line later than they would. Copies are of a power of two, which the compiler makes a move or two: what
  // they have too much of a tile the next term overwrites, or is in the line between tiles.
  Block block_of(int64_t m, int64_t rows, int64_t k, int64_t run) const {
    const S* from = a_ + m * a_row_ + k * a_column_;
    if (a_column_ == 1 || N_ <= kWidth) return {from, a_row_, a_column_, kTile.rows * a_row_};
    constexpr int64_t kLine = kCacheLine / sizeof(S), kCopied = 8;
    static_assert(kTile.rows <= kCopied && kCopied - kTile.rows <= kLine);
    const int64_t tile = run * kTile.rows + kLine;
    S* const packed = room(0, kBlockRows / kTile.rows * (kRun * kTile.rows + kLine));
    for (int64_t j = 0; j < run; ++j, from += a_column_) {
      S* to = packed + j * kTile.rows;
      int64_t i = 0;
      for (; i + kCopied <= rows; i += kTile.rows, to += tile) std::memcpy(to, from + i, kCopied * sizeof(S));
      for (; i < rows; i += kTile.rows, to += tile)
        std::copy(from + i, from + std::min<int64_t>(rows, i + kTile.rows), to);
    }
    return {packed, 1, kTile.rows, tile};
  }

  // Terms from k on of the columns from n on.
  struct Place {
    int64_t k, n;
  };

  // Some rows, as many as are a share of a run, of a panel that comes to be packed: b may lie in memory, in
  // pieces at distances that the processor does not foresee.
  void prefetch(Place next, int64_t share, int64_t shares) const {
    if (!in_rows_ || next.k >= K_) return;
    const int64_t run = std::min(kRun, K_ - next.k), columns = columns_from(next.n);
    const S* row = b_ + next.k * b_row_ + next.n;
    for (int64_t k = run * share / shares; k < run * (share + 1) / shares; ++k)
      prefetch_values<2>(row + k * b_row_, columns);
  }

  // Adds the terms k .. k+run-1 of a block of rows from m on, for a panel; the first terms replace what is
  // there. `next`: what follows.
  void multiply_block(const Block& block, int64_t m, int64_t rows, int64_t n, int64_t k, int64_t run,
                      Place next) const {
    const int columns = columns_from(n);
    const bool as_it_lies = in_rows_ && columns % VL == 0 && rows <= 2 * kTile.rows;
    if (!as_it_lies) pack(n, columns, k, run, room(1, kWidth * kRun));
    const S* panel = as_it_lies ? b_ + k * b_row_ + n : room(1, 0);
    const S* a = block.data;
    for (int64_t i = 0; i < rows; i += kTile.rows, a += block.tile) {
      const int height = static_cast<int>(std::min<int64_t>(kTile.rows, rows - i));
      if (!as_it_lies) prefetch(next, i / kTile.rows, ceil_div(rows, kTile.rows));
      const auto multiply_tile =
          sized<PanelProduct<S>, kTile.rows, kTile.vectors>(height, ceil_div(columns, VL));
      S* out = to_ + (m + i) * to_row_ + n;
      const auto multiply_to = [&](S* results, int64_t row, bool adds) {
        multiply_tile(a, block.row, block.column, panel, as_it_lies ? b_row_ : kWidth, run, results, row,
                      adds);
      };
      if (columns % VL == 0) {
        multiply_to(out, to_row_, k > 0);
        continue;
      }
      alignas(kVectorBytes) S results[kTile.rows * kWidth];
      multiply_to(results, kWidth, false);
      for (int row = 0; row < height; ++row, out += to_row_) {
        for (int j = 0; j < columns; ++j) out[j] = (k > 0 ? out[j] : S{}) + results[row * kWidth + j];
      }
    }
  }

  // Columns beyond the last are zero.
  void pack(int64_t n, int columns, int64_t first, int64_t run, S* to) const {
    if (columns < kWidth) std::fill_n(to, run * kWidth, S{});
    if (in_rows_) {
      for (int64_t k = 0; k < run; ++k) std::copy_n(b_ + (first + k) * b_row_ + n, columns, to + k * kWidth);
      return;
    }
    for (int column = 0; column < columns; column += VL)
      pack_columns(b_ + (n + column) * b_column_ + first, b_column_, std::min(VL, columns - column), run,
                   to + column, kWidth);
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

// to = from^T, of 2-D arrays with contiguous rows.
template <class S>
void transpose_to(const Tensor& to, const Tensor& from) {
  constexpr int VL = kLanes<S>;
  const int64_t rows = from.size(0), columns = from.size(1), row = from.stride(0), to_row = to.stride(0);
  const S* data = static_cast<const S*>(from.data_ptr());
  S* out = static_cast<S*>(to.data_ptr());
  int64_t i = 0;
  for (; i + VL <= rows; i += VL) pack_columns(data + i * row, row, VL, columns, out + i, to_row);
  for (; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) out[j * to_row + i] = data[i * row + j];
}

template <class S>
void own_product(const Tensor& to, const Tensor& a, const Tensor& b, int workers) {
  const int64_t M = a.size(0), N = b.size(1);
  // An array that lies across memory has to be rearranged: by the transposed product it is the smaller one,
  // if sums are long enough to make good for transposing the result.
  constexpr int64_t kLong = 512;
  if (a.stride(1) != 1 && b.stride(1) == 1 && M > N && a.size(1) >= kLong) {
    const Tensor swapped = empty_contiguous({N, M}, to);
    OwnProduct<S>(swapped, transposed(b), transposed(a)).run(workers);
    return transpose_to<S>(to, swapped);
  }
  OwnProduct<S>(to, a, b).run(workers);
}

// Does to = a b, for float32 or float64 with strides that OwnProduct serves; otherwise returns false.
inline bool try_own_product(const Tensor& to, const Tensor& a, const Tensor& b, int workers) {
  using torch::headeronly::ScalarType;
  const bool in_rows = b.stride(1) == 1 || b.size(1) == 1;
  const bool in_columns = b.stride(0) == 1 && a.stride(1) == 1;
  if (to.stride(1) != 1 || a.size(1) == 0 || !(in_rows || in_columns)) return false;
  if (to.scalar_type() == ScalarType::Float) return own_product<float>(to, a, b, workers), true;
  if (to.scalar_type() == ScalarType::Double) return own_product<double>(to, a, b, workers), true;
  return false;
}

}  // namespace rnnfast
