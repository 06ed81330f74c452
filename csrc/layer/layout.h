// How the rows of a sequence batch lie in memory.
#pragma once

#include <algorithm>
#include <utility>

#include "tensors.h"

namespace rnnfast {

// Read off one array of the batch. With stretches, (3, S), the rows of the recurrence are pieces of a padded
// batch's: of which row, from which step on, how many steps; the longest first.
class Layout {
 public:
  Layout(const Tensor& rows, const char* name, int64_t direction, bool batch_first,
         const std::optional<Tensor>& batch_sizes, const std::optional<Tensor>& stretches = std::nullopt)
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
      T = padded_T_ = rows.size(batch_first ? 1 : 0), B = padded_B_ = rows.size(batch_first ? 0 : 1);
    }
    if (stretches) read_stretches(*stretches);
  }

  Shape shape(int64_t width) const {
    if (packed_) return {rows_, G, width};
    return batch_first_ ? Shape{padded_B_, padded_T_, G, width} : Shape{padded_T_, padded_B_, G, width};
  }

  // With the groups in the last axis, one behind the other.
  Shape joined_shape(int64_t width) const {
    Shape joined = shape(width);
    joined.pop_back();
    joined.back() *= width;
    return joined;
  }

  // Of an array of either shape.
  Stream stream(const Tensor& t) const {
    const int64_t axis = packed_ ? 1 : 2;
    const bool joined = t.dim() == axis + 1;
    Stream s;
    s.data = t.data_ptr();
    s.group = joined ? t.size(axis) / std::max<int64_t>(1, G) : t.stride(axis);
    s.row = t.stride(packed_ || batch_first_ ? 0 : 1);
    s.step = packed_ ? 0 : t.stride(batch_first_ ? 1 : 0);
    if (stretched()) {
      // Of an axis of one place a stride says nothing.
      require(t.size(0) <= 1 || t.size(1) == 1 || t.stride(0) == t.size(1) * t.stride(1),
              "stretches: expected dense arrays");
      s.row = t.stride(t.size(1) == 1 ? 0 : 1);
    }
    return s;
  }

  // Rows of arrays with all steps and rows of the batch in one axis, in runs that lie together.
  using Runs = std::vector<std::pair<int64_t, int64_t>>;  // first, count

  // Each row's first or last step.
  Runs first() const {
    if (stretched()) return of_stretches([](int64_t) { return 0; });
    if (packed_) return {{0, B}};
    return batch_first_ ? each_row(0, 1) : Runs{{0, B}};
  }
  Runs last() const {
    if (stretched()) return of_stretches([&](int64_t row) { return lengths_[row] - 1; });
    if (!packed_) return batch_first_ ? each_row(T - 1, 1) : Runs{{(T - 1) * B, B}};
    Runs runs;
    for (int64_t b = 0, t = T - 1; b < B; ++b) {
      while (counts_[t] <= b) --t;
      runs.push_back({offsets_[t] + b, 1});
    }
    return runs;
  }
  // Every step that has one before it, and, in the same order, the steps before; of whole rows, also where
  // these are in stretches.
  Runs later() const {
    if (packed_) return {{B, rows_ - B}};
    const int64_t steps = std::max<int64_t>(0, padded_T_ - 1);
    return batch_first_ ? each_row(1, steps) : Runs{{padded_B_, steps * padded_B_}};
  }
  Runs earlier() const {
    const int64_t steps = std::max<int64_t>(0, padded_T_ - 1);
    if (!packed_) return batch_first_ ? each_row(0, steps) : Runs{{0, steps * padded_B_}};
    Runs runs;
    for (int64_t t = 1; t < T; ++t) runs.push_back({offsets_[t - 1], counts_[t]});
    return runs;
  }

  bool reversed(int64_t g) const { return is_reversed(direction_, g); }
  bool stretched() const { return !origins_.empty(); }

  // A recurrence over these rows that has no arrays yet, with a projection to P units if that is not 0. It
  // points into this object.
  Recurrence recurrence(int64_t H, int64_t P) const {
    Recurrence r;
    r.T = T, r.B = B, r.G = G, r.units[0] = H, r.units[1] = P, r.direction = direction_;
    if (packed_ || stretched()) r.counts = counts_.data();
    if (packed_) r.offsets = offsets_.data();
    if (stretched()) r.origins = origins_.data(), r.padded = padded_T_ * padded_B_;
    return r;
  }

  int64_t T = 0, B = 0,
          G = 0;  // of the recurrence: with stretches the longest's steps, and how many there are

 private:
  // The same steps of each row of a batch-first array.
  Runs each_row(int64_t begin, int64_t count) const {
    if (count == padded_T_) return {{0, padded_B_ * padded_T_}};
    Runs runs;
    for (int64_t b = 0; b < padded_B_ && count > 0; ++b) runs.push_back({b * padded_T_ + begin, count});
    return runs;
  }

  // One step of each stretch, counted from its first.
  template <class F>
  Runs of_stretches(const F& step_of) const {
    Runs runs;
    for (int64_t s = 0; s < B; ++s) {
      runs.push_back({origins_[s] + step_of(s) * (batch_first_ ? 1 : padded_B_), 1});
    }
    return runs;
  }

  // Those of all steps, each once: what lies between would be left as it is.
  void read_stretches(const Tensor& stretches) {
    require(!packed_, "stretches: got some with batch_sizes, expected one or the other");
    require(stretches.dim() == 2 && stretches.size(0) == 3 && stretches.is_cpu() &&
                stretches.scalar_type() == torch::headeronly::ScalarType::Long,
            "stretches: expected an int64 tensor (3, S) on the CPU");
    const Tensor dense = stretches.is_contiguous() ? stretches : torch::stable::contiguous(stretches);
    const int64_t S = dense.size(1), *row = static_cast<const int64_t*>(dense.data_ptr()), *first = row + S,
                  *length = first + S;
    std::vector<bool> taken(padded_T_ * padded_B_);
    int64_t steps = 0;
    for (int64_t s = 0; s < S; ++s) {
      require(row[s] >= 0 && row[s] < padded_B_ && first[s] >= 0 && length[s] > 0 &&
                  length[s] <= padded_T_ - first[s] && (s == 0 || length[s] <= length[s - 1]),
              "stretches: got row ", row[s], ", step ", first[s], ", ", length[s], " steps, expected one of ",
              padded_B_, " rows, within ", padded_T_, " steps, and no more than before it");
      for (int64_t t = first[s]; t < first[s] + length[s]; ++t, ++steps) {
        require(!taken[row[s] * padded_T_ + t], "stretches: got step ", t, " of row ", row[s], " twice");
        taken[row[s] * padded_T_ + t] = true;
      }
      origins_.push_back(batch_first_ ? row[s] * padded_T_ + first[s] : first[s] * padded_B_ + row[s]);
      lengths_.push_back(length[s]);
    }
    require(steps == padded_T_ * padded_B_, "stretches: got ", steps, " steps, expected all ", padded_T_,
            " x ", padded_B_);
    B = S, T = S > 0 ? length[0] : 0;
    for (int64_t t = 0, active = S; t < T; ++t) {
      while (length[active - 1] <= t) --active;
      counts_.push_back(active);
    }
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
  int64_t padded_T_ = 0, padded_B_ = 0;
  std::vector<int64_t> counts_, offsets_, origins_, lengths_;
};

}  // namespace rnnfast
