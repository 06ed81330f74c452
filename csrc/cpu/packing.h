// Weight matrices rearranged into the panels that the microkernel reads: for each panel of whole units, for
// each k, the columns of [unit block][gate][lane] one behind the other, zero where units end, or for two k at
// a time (bf16_dots.h). A matrix used only a few times is read in place instead: dot products with its rows,
// or, applied transposed, its rows times a value each, which need no rearranging.
#pragma once

#include <algorithm>
#include <optional>

#include "../cells/cell.h"
#include "bf16_dots.h"
#include "int8.h"
#include "microkernel.h"

namespace rnnfast {

constexpr int kMaxOperands = 3, kMaxCarries = 6, kMaxStatistics = 2;

// How the units of a phase fall into panels.
template <class Phase, class S>
struct Panels {
  static constexpr int kColumns = Phase::kColumns > 0 ? Phase::kColumns : 1;
  static constexpr Tile kTile = tile_for(kIsa, kColumns);
  static_assert(kColumns <= kTile.vectors, "a tile holds whole units");
  static_assert(Phase::kStatistics <= kMaxStatistics);
  static constexpr int kBlocks = kTile.vectors / kColumns;  // unit blocks in a panel, each a vector wide
  static constexpr int kUnits = kBlocks * kLanes<S>;
  static constexpr int kWidth = kTile.vectors * kLanes<S>;  // columns of a panel

  static int64_t count(int64_t units) { return ceil_div(units, kUnits); }
};

// Length of the sums of a phase's matrix.
template <class Phase>
int64_t inner_size(const Recurrence& r) {
  if constexpr (Phase::kColumns == 0) return 0;
  const Matrix& m = r.matrices[Phase::kMatrix];
  return Phase::kTransposed ? m.rows : m.columns;
}

// Packs `count` rows of a matrix, `row` apart and K long, as a vector-wide column of a panel whose rows are
// `panel_row` apart; lanes beyond `count` are zero.
template <class S>
void pack_columns(const S* from, int64_t row, int count, int64_t K, S* to, int64_t panel_row) {
  constexpr int VL = kLanes<S>;
  for (int64_t k = 0; k < K; k += VL) {
    const int steps = static_cast<int>(std::min<int64_t>(VL, K - k));
    Vec<Compute<S>> square[VL] = {};
    for (int lane = 0; lane < count; ++lane) {
      const S* p = from + lane * row + k;
      square[lane] = steps == VL ? load(p) : load(p, steps);
    }
    transpose<Compute<S>>(square);
    for (int i = 0; i < steps; ++i, to += panel_row) store_unchanged(to, square[i]);
  }
}

// Packs one panel of group g; in_pairs: as bf16_dots.h has it.
template <class Phase, class S>
void pack_panel(const Recurrence& r, int64_t g, int64_t panel, S* out, bool in_pairs) {
  using P = Panels<Phase, S>;
  constexpr int VL = kLanes<S>;
  const Matrix& m = r.matrices[Phase::kMatrix];
  const S* data = static_cast<const S*>(m.data) + g * m.group;
  const int64_t units = r.units[Phase::kUnits], K = inner_size<Phase>(r);
  for (int block = 0; block < P::kBlocks; ++block) {
    const int64_t unit = panel * P::kUnits + block * VL;
    const int lanes = static_cast<int>(std::clamp<int64_t>(units - unit, 0, VL));
    for (int column = 0; column < Phase::kColumns; ++column) {
      S* to = out + (block * Phase::kColumns + column) * VL;
      if constexpr (Phase::kTransposed) {  // a row of the panel is a run of a row of W
        const S* from = data + column * units + unit;
        for (int64_t k = 0; k < K; ++k, from += m.row, to += P::kWidth) {
          if (lanes == VL) {
            std::copy_n(from, VL, to);
          } else {
            std::copy_n(from, lanes, to);
            std::fill(to + lanes, to + VL, S{});
          }
        }
      } else {  // it is a run of a column
        pack_columns(data + (column * units + unit) * m.row, m.row, lanes, K, to, P::kWidth);
      }
    }
  }
  if constexpr (std::is_same_v<S, bf16>) {
    if (in_pairs) {
      if (K % 2) std::fill_n(out + K * P::kWidth, P::kWidth, S{});
      for (int64_t k = 0; k < K; k += 2) bf16_dots::pair_rows<P::kTile.vectors>(out + k * P::kWidth);
    } else {
      for (int64_t k = 0; k < K; ++k) interleave_pairs(out + k * P::kWidth, P::kTile.vectors);
    }
  }
}

// The matrix of a phase, of one group, as its panels are read.
template <class Phase, class S>
class Weights {
  using P = Panels<Phase, S>;

 public:
  // What a matrix takes when packed; in place, room for a last panel that units do not fill.
  static int64_t packed_size(const Recurrence& r, bool in_place) {
    if (Phase::kColumns == 0 || r.matrices[Phase::kMatrix].scales) return 0;
    int64_t panels = P::count(r.units[Phase::kUnits]);
    if (kCanStay && in_place) panels = Phase::kTransposed && r.units[Phase::kUnits] % P::kUnits != 0;
    return panels * P::kWidth * packed_terms(r, in_place);
  }

  // `packed`: where the panels of group g are or will be.
  Weights(const Recurrence& r, int64_t g, S* packed, bool in_place)
      : r_(r),
        g_(g),
        packed_(packed),
        in_place_(kCanStay && in_place),
        in_pairs_(takes_pairs(in_place)),
        K_(inner_size<Phase>(r)),
        terms_(packed_terms(r, in_place)) {}

  void pack(int64_t panel) const {
    if (!stays(panel)) pack_panel<Phase>(r_, g_, panel, packed(panel), in_pairs_);
  }

  // Values that `prepare` needs room for.
  static int64_t room_for(const Recurrence& r, bool in_place, int64_t rows) {
    if constexpr (kMayBePairs) {
      if (takes_pairs(in_place))
        return ceil_div(bf16_dots::Rows::size(rows, inner_size<Phase>(r)) * sizeof(S), sizeof(Compute<S>));
    }
    return 0;
  }

  // To be called before rows are multiplied: all of them, `a_row` apart. `room`: until they have been.
  void prepare(const Compute<S>* a, int64_t a_row, int64_t rows, [[maybe_unused]] Compute<S>* room) {
    prepared_ = a, prepared_row_ = a_row;
    if constexpr (kMayBeInt8) {
      if (matrix().scales) rounded_.emplace(a, a_row, rows, K_);
    }
    if constexpr (kMayBePairs) {
      if (in_pairs_) pairs_.emplace(a, a_row, rows, K_, reinterpret_cast<bf16*>(room));
    }
  }

  // The most rows that `multiply` takes, for a good use of the registers.
  int rows_at_once() const {
    return in_place_ && !Phase::kTransposed ? P::kTile.rows / kDotRows * kDotRows : P::kTile.rows;
  }

  // In how many runs a panel's terms may be added up one after the other, so that each run's part of the
  // panel stays in cache while rows pass by it.
  int64_t runs(int64_t panel) const {
    const bool at_once = matrix().scales || (stays(panel) && !Phase::kTransposed);
    return at_once ? 1 : std::max<int64_t>(1, ceil_div(K_, kRun));
  }

  // Rows of `a` times a run of a panel: results by row, `result_row` apart, in the order of the panel's
  // columns. Those of runs beyond the first are added to what is there.
  void multiply(const Compute<S>* a, int64_t a_row, int rows, int64_t panel, int64_t run, Compute<S>* results,
                int64_t result_row) const {
    constexpr int VL = kLanes<S>;
    const int64_t units = r_.units[Phase::kUnits];
    // Of the last panel only the blocks that hold units.
    const int64_t blocks = std::min<int64_t>(P::kBlocks, ceil_div(units - panel * P::kUnits, VL));
    if constexpr (kMayBeInt8) {
      if (rounded_)
        return multiply_int8(prepared(a), rows, panel * P::kUnits, static_cast<int>(blocks), results,
                             result_row);
    }
    const int vectors = static_cast<int>(blocks) * P::kColumns;
    const int64_t k = run * kRun, terms = std::min(kRun, K_ - k);
    const auto one_run = [&](const auto& multiply_panel, const S* columns, int64_t column_row) {
      multiply_panel(a + k, a_row, 1, columns + k * column_row, column_row, terms, results, result_row,
                     run > 0);
    };
    constexpr int kRows = P::kTile.rows, kVectors = P::kTile.vectors;
    if constexpr (kMayBePairs) {
      if (in_pairs_)
        return sized<bf16_dots::Product, kRows, kVectors>(rows, vectors)(
            pairs_->row(prepared(a)) + k, pairs_->stride(), packed(panel) + k * P::kWidth, P::kWidth, terms,
            results, result_row, run > 0);
    }
    if (!stays(panel))
      return one_run(sized<PanelProduct<S, paired<S>(kVectors)>, kRows, kVectors>(rows, vectors),
                     packed(panel), P::kWidth);
    const Matrix& m = r_.matrices[Phase::kMatrix];
    const S* data = static_cast<const S*>(m.data) + g_ * m.group;
    if constexpr (Phase::kTransposed) {
      one_run(sized<PanelProduct<S>, kRows, kVectors>(rows, vectors), data + panel * P::kUnits, m.row);
    } else {
      int64_t unit = panel * P::kUnits;
      for (int block = 0; block < blocks; ++block, unit += VL) {
        const int count = static_cast<int>(std::min<int64_t>(VL, units - unit));
        for (int column = 0; column < Phase::kColumns; ++column)
          dot_rows<S>(rows, a, a_row, data + (column * units + unit) * m.row, m.row, count, K_,
                      results + (block * Phase::kColumns + column) * VL, result_row);
      }
    }
  }

 private:
  static constexpr bool kMayBeInt8 = std::is_same_v<S, float> && !Phase::kTransposed && Phase::kColumns > 0;
  static constexpr bool kMayBePairs = std::is_same_v<S, bf16> && kIsa == Isa::avx512 && Phase::kColumns > 0;

  static bool takes_pairs(bool in_place) { return kMayBePairs && !(kCanStay && in_place) && has_bf16_dots(); }
  // Of a packed panel.
  static int64_t packed_terms(const Recurrence& r, bool in_place) {
    const int64_t K = inner_size<Phase>(r);
    return takes_pairs(in_place) ? ceil_div(K, 2) * 2 : K;
  }

  const Matrix& matrix() const { return r_.matrices[Phase::kMatrix]; }
  // Which of the prepared rows begins there.
  int64_t prepared(const Compute<S>* a) const { return (a - prepared_) / prepared_row_; }

  void multiply_int8(int64_t first, int rows, int64_t unit, int blocks, float* results,
                     int64_t result_row) const {
    constexpr int gates = P::kColumns;
    const Matrix& m = matrix();
    const int64_t all = ceil_div(r_.units[Phase::kUnits], int8::kBlock) * gates * int8::kBlock;
    const int64_t step = 2 * gates * int8::kBlock, pairs = rounded_->pairs();
    const int8_t* data = static_cast<const int8_t*>(m.data) + g_ * all * 2 * pairs;
    int8::Column columns[P::kTile.vectors];
    for (int j = 0; j < blocks * gates; ++j) {
      const int64_t of = unit + j / gates * kLanes<S>, lane = of % int8::kBlock + j % gates * int8::kBlock;
      const int64_t block = of / int8::kBlock;
      columns[j] = {data + block * step * pairs + 2 * lane,
                    m.scales + g_ * all + block * gates * int8::kBlock + lane};
    }
    int8::product_of<P::kTile.rows, P::kTile.vectors>(rows, blocks * gates)(*rounded_, first, columns, step,
                                                                            results, result_row);
  }

  // The columns of a transposed matrix that belong to a panel lie together if there is one for each unit.
  static constexpr bool kCanStay = !Phase::kTransposed || Phase::kColumns == 1;

  bool stays(int64_t panel) const {
    if (matrix().scales) return true;
    return in_place_ && (!Phase::kTransposed || (panel + 1) * P::kUnits <= r_.units[Phase::kUnits]);
  }
  S* packed(int64_t panel) const { return packed_ + (in_place_ ? 0 : panel) * P::kWidth * terms_; }

  const Recurrence& r_;
  int64_t g_;
  S* packed_;
  bool in_place_, in_pairs_;
  int64_t K_, terms_;                     // of a sum, and of a packed panel
  std::optional<bf16_dots::Rows> pairs_;  // for panels of pairs
  std::optional<int8::Rows> rounded_;     // for weights of 8 bits
  const Compute<S>* prepared_ = nullptr;
  int64_t prepared_row_ = 1;
};

}  // namespace rnnfast
