// Weight matrices rearranged into the panels that the microkernel reads: for each panel of whole units, for
// each k, the columns of [unit block][gate][lane] one behind the other, zero where units end.
#pragma once

#include <algorithm>

#include "../cells/cell.h"
#include "vec.h"

namespace rnnfast {

constexpr int kMaxOperands = 3, kMaxCarries = 3, kMaxStatistics = 2;

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

template <class Phase, class S>
int64_t packed_panel_size(const Recurrence& r) {
  return Panels<Phase, S>::kWidth * inner_size<Phase>(r);
}

// Packs one panel of group g.
template <class Phase, class S>
void pack_panel(const Recurrence& r, int64_t g, int64_t panel, S* out) {
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
      for (int64_t k = 0; k < K; ++k, to += P::kWidth) {
        // Transposed, a row of the panel is a run of a row of W; otherwise a run of a column.
        const S* from = Phase::kTransposed ? data + k * m.row + column * units + unit
                                           : data + (column * units + unit) * m.row + k;
        const int64_t stride = Phase::kTransposed ? 1 : m.row;
        for (int lane = 0; lane < lanes; ++lane) to[lane] = from[lane * stride];
        std::fill(to + lanes, to + VL, S{});
      }
    }
  }
}

}  // namespace rnnfast
