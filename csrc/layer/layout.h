// How the rows of a sequence batch lie in memory.
#pragma once

#include <algorithm>
#include <utility>

#include "tensors.h"

namespace rnnfast {

// Read off one array of the batch.
class Layout {
 public:
  Layout(const Tensor& rows, const char* name, int64_t direction, bool batch_first,
         const std::optional<Tensor>& batch_sizes)
      : packed_(batch_sizes.has_value()), batch_first_(batch_first) {
    require(direction >= 0 && direction <= 2, "direction: got ", direction,
            ", expected 0 (forward), 1 (reverse) or 2 (odd groups reverse)");
    direction_ = static_cast<Direction>(direction);
    const int64_t dims = packed_ ? 3 : 4;
    require(rows.dim() == dims, name, ": got ", rows.dim(), " dimensions, expected ", dims,
            packed_       ? " (N, G, K)"
            : batch_first ? " (B, T, G, K)"
                          : " (T, B, G, K)");
    G = rows.size(dims - 2);
    if (packed_) {
      read_batch_sizes(*batch_sizes, rows.size(0));
    } else {
      T = rows.size(batch_first ? 1 : 0), B = rows.size(batch_first ? 0 : 1);
    }
  }

  Shape shape(int64_t width) const {
    if (packed_) return {rows_, G, width};
    return batch_first_ ? Shape{B, T, G, width} : Shape{T, B, G, width};
  }

  Stream stream(const Tensor& t) const {
    Stream s;
    s.data = t.data_ptr();
    s.group = t.stride(packed_ ? 1 : 2);
    s.row = t.stride(packed_ || batch_first_ ? 0 : 1);
    s.step = packed_ ? 0 : t.stride(batch_first_ ? 1 : 0);
    return s;
  }

  // Rows of arrays with all steps and rows of the batch in one axis, in runs that lie together.
  using Runs = std::vector<std::pair<int64_t, int64_t>>;  // first, count

  // Each row's first or last step.
  Runs first() const {
    if (packed_) return {{0, B}};
    return batch_first_ ? each_row(0, 1) : Runs{{0, B}};
  }
  Runs last() const {
    if (!packed_) return batch_first_ ? each_row(T - 1, 1) : Runs{{(T - 1) * B, B}};
    Runs runs;
    for (int64_t b = 0, t = T - 1; b < B; ++b) {
      while (counts_[t] <= b) --t;
      runs.push_back({offsets_[t] + b, 1});
    }
    return runs;
  }
  // Every step that has one before it, and, in the same order, the steps before.
  Runs later() const {
    if (packed_) return {{B, rows_ - B}};
    return batch_first_ ? each_row(1, T - 1) : Runs{{B, std::max<int64_t>(0, T - 1) * B}};
  }
  Runs earlier() const {
    if (!packed_) return batch_first_ ? each_row(0, T - 1) : Runs{{0, std::max<int64_t>(0, T - 1) * B}};
    Runs runs;
    for (int64_t t = 1; t < T; ++t) runs.push_back({offsets_[t - 1], counts_[t]});
    return runs;
  }

  bool reversed(int64_t g) const { return is_reversed(direction_, g); }

  // A recurrence over these rows that has no arrays yet, with a projection to P units if that is not 0. It
  // points into this object.
  Recurrence recurrence(int64_t H, int64_t P) const {
    Recurrence r;
    r.T = T, r.B = B, r.G = G, r.units[0] = H, r.units[1] = P, r.direction = direction_;
    if (packed_) r.counts = counts_.data(), r.offsets = offsets_.data();
    return r;
  }

  int64_t T = 0, B = 0, G = 0;

 private:
  // The same steps of each row of a batch-first array.
  Runs each_row(int64_t begin, int64_t count) const {
    if (count == T) return {{0, B * T}};
    Runs runs;
    for (int64_t b = 0; b < B && count > 0; ++b) runs.push_back({b * T + begin, count});
    return runs;
  }

  void read_batch_sizes(const Tensor& batch_sizes, int64_t rows) {
    require(batch_sizes.dim() == 1 && batch_sizes.is_cpu() &&
                batch_sizes.scalar_type() == torch::headeronly::ScalarType::Long,
            "batch_sizes: expected a 1-D int64 tensor on the CPU");
    const Tensor dense = with_dense_rows(batch_sizes);
    const int64_t* sizes = static_cast<const int64_t*>(dense.data_ptr());
    T = dense.size(0);
    counts_.assign(sizes, sizes + T);
    offsets_.resize(T);
    for (int64_t t = 0; t < T; ++t) {
      require(counts_[t] > 0 && (t == 0 || counts_[t] <= counts_[t - 1]), "batch_sizes: got ", counts_[t],
              " at step ", t, ", expected positive numbers that do not grow");
      offsets_[t] = rows_;
      rows_ += counts_[t];
    }
    require(rows_ == rows, "batch_sizes: got a sum of ", rows_, ", expected the number of packed rows, ",
            rows);
    B = T > 0 ? counts_[0] : 0;
  }

  bool packed_, batch_first_;
  Direction direction_ = Direction::forward;
  int64_t rows_ = 0;
  std::vector<int64_t> counts_, offsets_;
};

}  // namespace rnnfast
