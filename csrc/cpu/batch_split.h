// Batch-split: each worker owns rows of the batch and takes them through all steps on its own. No worker ever
// waits for another after the weights are packed.
#pragma once

#include <array>
#include <vector>

#include "accessor.h"
#include "arena.h"
#include "microkernel.h"
#include "team.h"

namespace rnnfast {
namespace batch_split {

template <class F, class... P>
void for_each_phase(PhaseList<P...>, F&& f) {
  int index = 0;
  (f(P{}, index++), ...);
}

template <class... P>
constexpr int count_phases(PhaseList<P...>) {
  return sizeof...(P);
}

// What rows enter with where a matrix reads this operand; null: nothing, which reads as zero.
inline const End* initial_of(const Recurrence& r, const Operand& operand) {
  return operand.initial >= 0 && r.ends[operand.initial].data ? &r.ends[operand.initial] : nullptr;
}

// Rows of a worker's buffers are padded so that neighbouring rows do not fall on the same cache sets.
template <class S>
int64_t padded(int64_t width) {
  constexpr int VL = kLanes<S>;
  const int64_t whole = ceil_div(width, VL) * VL;
  return whole * sizeof(Compute<S>) % 512 == 0 ? whole + Arena::kAlignment / sizeof(Compute<S>) : whole;
}

// Lays out the buffers of one worker's rows.
template <class Pass, class S>
void carve(Rows<S>& w, Carver<Compute<S>>& carver) {
  const Recurrence& r = *w.recurrence;
  const int64_t rows = w.rows();
  int i = 0;
  for (const Operand& operand : Pass::kOperands) {
    w.operand_stride[i] = padded<S>(operand.parts * r.units[operand.units]);
    for (auto& buffer : w.operands[i]) buffer = carver.take(rows * w.operand_stride[i]);
    ++i;
  }
  const int64_t widest = *std::max_element(r.units, r.units + kMaxUnitSets);
  w.carry_stride = padded<S>(widest);
  for (int c = 0; c < Pass::kCarries; ++c) w.carries[c] = carver.take(rows * w.carry_stride);

  int statistics = 0;
  w.partial_panels = 0;
  for_each_phase(typename Pass::Phases{}, [&](auto phase, int) {
    using Phase = decltype(phase);
    if (Phase::kStatistics == 0) return;
    statistics = std::max(statistics, Phase::kStatistics);
    w.partial_panels = std::max(w.partial_panels, Panels<Phase, S>::count(r.units[Phase::kUnits]));
  });
  w.partials = carver.take(statistics * rows * w.partial_panels * kLanes<S>);
  for (int s = 0; s < statistics; ++s) w.sums[s] = carver.take(rows);
}

// Rows begin .. end-1 of a phase: the matrix (where `multiplied`), then the cell's arithmetic.
template <class Phase, class S>
void tile(const Rows<S>& w, const S* panel_data, int64_t panel, int64_t begin, int64_t end, bool multiplied) {
  using P = Panels<Phase, S>;
  using C = Compute<S>;
  constexpr int VL = kLanes<S>;
  alignas(Arena::kAlignment) C results[P::kTile.rows * P::kWidth];
  const Recurrence& r = *w.recurrence;
  const int64_t units = r.units[Phase::kUnits];
  const int rows = static_cast<int>(end - begin);

  if (multiplied) {
    constexpr int operand = Phase::kOperand;
    const int64_t stride = w.operand_stride[operand];
    const C* a = w.operands[operand][Phase::kSameStep] + (begin - w.row_begin) * stride;
    multiply_rows<S, P::kTile.rows, P::kTile.vectors>(rows)(a, stride, panel_data, inner_size<Phase>(r),
                                                            results);
  } else {
    std::fill_n(results, rows * P::kWidth, C{});
  }

  for (int i = 0; i < rows; ++i) {
    const C* result = results + i * P::kWidth;
    int64_t unit = panel * P::kUnits;
    for (int block = 0; block < P::kBlocks && unit < units; ++block, unit += VL) {
      const C* matrix = result + block * P::kColumns * VL;
      if (unit + VL <= units) {
        Accessor<S, true> at(w, matrix, begin + i, units, unit, panel, VL);
        Phase::run(at);
      } else {
        const int lanes = static_cast<int>(units - unit);
        Accessor<S, false> at(w, matrix, begin + i, units, unit, panel, lanes);
        Phase::run(at);
      }
    }
  }
}

// Adds up the partial sums that a phase left, panel by panel.
template <class Phase, class S>
void reduce_statistics(const Rows<S>& w, int64_t end) {
  const int64_t panels = Panels<Phase, S>::count(w.recurrence->units[Phase::kUnits]);
  for (int s = 0; s < Phase::kStatistics; ++s) {
    for (int64_t row = 0; row < end - w.row_begin; ++row) {
      const Compute<S>* p = w.partials + (s * w.rows() + row) * w.partial_panels * kLanes<S>;
      Vec<Compute<S>> sum{};
      for (int64_t panel = 0; panel < panels; ++panel) sum += load(p + panel * kLanes<S>);
      w.sums[s][row] = sum_of_lanes<Compute<S>>(sum);
    }
  }
}

// One phase of one step, of the rows up to `end`.
template <class Pass, class Phase, class S>
void run_phase(const Rows<S>& w, const S* packed, int64_t end) {
  using P = Panels<Phase, S>;
  const Recurrence& r = *w.recurrence;
  const int64_t panels = P::count(r.units[Phase::kUnits]), panel_size = packed_panel_size<Phase, S>(r);
  const bool has_matrix = Phase::kColumns > 0;
  const bool entering_multiplied =
      has_matrix && (Phase::kSameStep || initial_of(r, Pass::kOperands[Phase::kOperand]));
  if (Phase::kStatistics > 0)
    std::fill_n(w.partials, Phase::kStatistics * w.rows() * w.partial_panels * kLanes<S>, Compute<S>{});

  // Panels outermost: a panel stays in cache while all rows pass by it.
  for (int64_t panel = 0; panel < panels; ++panel) {
    const auto tiles = [&](int64_t first, int64_t last, bool multiplied) {
      const int64_t count = ceil_div(last - first, P::kTile.rows);
      for (int64_t i = 0; i < count; ++i) {  // of even height, rather than a thin one at the end
        tile<Phase>(w, packed + panel * panel_size, panel, first + (last - first) * i / count,
                    first + (last - first) * (i + 1) / count, multiplied);
      }
    };
    tiles(w.row_begin, w.entering, has_matrix);
    tiles(w.entering, end, entering_multiplied);
  }
  if (Phase::kStatistics > 0) reduce_statistics<Phase>(w, end);
}

// Prepares the rows that enter: initial values where the matrices look for them, carried values zero.
template <class Pass, class S>
void enter_rows(const Rows<S>& w, int64_t end) {
  const Recurrence& r = *w.recurrence;
  for (int c = 0; c < Pass::kCarries; ++c) {
    Compute<S>* carries = w.carries[c] - w.row_begin * w.carry_stride;
    std::fill(carries + w.entering * w.carry_stride, carries + end * w.carry_stride, Compute<S>{});
  }
  int i = 0;
  for (const Operand& operand : Pass::kOperands) {
    const int64_t width = operand.parts * r.units[operand.units];
    const End* initial = initial_of(r, operand);
    for (int64_t row = w.entering; initial && row < end; ++row) {
      const S* from = static_cast<const S*>(initial->data) + w.group * initial->group + row * initial->row;
      Compute<S>* to = w.operands[i][0] + (row - w.row_begin) * w.operand_stride[i];
      for (int64_t j = 0; j < width; ++j) to[j] = to_float(from[j]);
    }
    ++i;
  }
}

// All steps of the rows of `w`. packed[phase] is the packed matrix of that phase, of this group.
template <class Pass, class S>
void run_rows(Rows<S>& w, S* const* packed) {
  const Recurrence& r = *w.recurrence;
  const bool descending = r.reversed(w.group) != Pass::kBackward;
  const auto active_end = [&](int64_t t) { return std::clamp(r.active(t), w.row_begin, w.row_end); };

  for (int64_t step = 0; step < r.T; ++step) {
    const int64_t t = descending ? r.T - 1 - step : step;
    const int64_t before = descending ? t + 1 : t - 1, after = descending ? t - 1 : t + 1;
    const bool first = step == 0, last = step == r.T - 1;
    const int64_t end = active_end(t);
    w.entering = first ? w.row_begin : std::min(end, active_end(before));
    w.leaving = last ? w.row_begin : std::min(end, active_end(after));
    for (int s = 0; s < kMaxStreams; ++s) {
      const Stream& stream = r.streams[s];
      S* data = static_cast<S*>(stream.data);
      w.now[s] = data ? data + r.position(stream, w.group, t) : nullptr;
      w.before[s] = data && !first ? data + r.position(stream, w.group, before) : nullptr;
      w.after[s] = data && !last ? data + r.position(stream, w.group, after) : nullptr;
    }
    enter_rows<Pass>(w, end);
    for_each_phase(typename Pass::Phases{},
                   [&](auto phase, int index) { run_phase<Pass, decltype(phase)>(w, packed[index], end); });
    for (auto& buffers : w.operands) std::swap(buffers[0], buffers[1]);
  }
}

// Cuts all rows of all groups into `workers` runs of about the same number of valid steps: returns the
// first row of each, counting g * B + b, and the end.
inline std::vector<int64_t> share_rows(const Recurrence& r, int workers) {
  std::vector<int64_t> lengths(r.B, r.T);
  if (r.counts) {
    for (int64_t b = 0, t = r.T; b < r.B; ++b) {
      while (t > 0 && r.counts[t - 1] <= b) --t;
      lengths[b] = t;
    }
  }
  int64_t total = 0, passed = 0;
  for (const int64_t length : lengths) total += length * r.G;
  std::vector<int64_t> first(1, 0);
  for (int64_t row = 0; row < r.G * r.B; ++row) {
    while (static_cast<int>(first.size()) < workers &&
           passed * workers >= total * static_cast<int64_t>(first.size()))
      first.push_back(row);
    passed += lengths[row % r.B];
  }
  first.resize(workers + 1, r.G * r.B);
  return first;
}

// The register tile of a pass: that of its first phase.
template <class S, class First, class... Rest>
Tile tile_of(PhaseList<First, Rest...>) {
  return Panels<First, S>::kTile;
}

// Runs a pass of a cell over rows stored as S, on so many workers; returns the tile that it was run with.
template <class Pass, class S>
Tile run(const Recurrence& r, int workers) {
  using C = Compute<S>;
  static_assert(sizeof(S) <= sizeof(C));
  static_assert(std::size(Pass::kOperands) <= kMaxOperands && Pass::kCarries <= kMaxCarries);
  const Tile tile_run = tile_of<S>(typename Pass::Phases{});
  if (r.T == 0 || r.B == 0 || r.G == 0) return tile_run;
  const std::vector<int64_t> first = share_rows(r, workers);

  // A worker's share may reach over several groups; each piece has its own buffers.
  std::vector<std::vector<Rows<S>>> shares(workers);
  for (int worker = 0; worker < workers; ++worker) {
    for (int64_t row = first[worker]; row < first[worker + 1];) {
      const int64_t g = row / r.B, end = std::min(first[worker + 1], (g + 1) * r.B);
      Rows<S> rows{};
      rows.recurrence = &r, rows.group = g, rows.row_begin = row - g * r.B, rows.row_end = end - g * r.B;
      shares[worker].push_back(rows);
      row = end;
    }
  }

  constexpr int phases = count_phases(typename Pass::Phases{});
  std::array<S*, phases> packed{};
  std::array<int64_t, phases> group_size{};
  const auto lay_out = [&](char* block) {
    Carver<S> weights(reinterpret_cast<S*>(block));
    for_each_phase(typename Pass::Phases{}, [&](auto phase, int i) {
      using Phase = decltype(phase);
      group_size[i] = packed_panel_size<Phase, S>(r) * Panels<Phase, S>::count(r.units[Phase::kUnits]);
      packed[i] = weights.take(group_size[i] * r.G);
    });
    const size_t bytes = weights.taken() * sizeof(S);
    Carver<C> buffers(block ? reinterpret_cast<C*>(block + bytes) : nullptr);
    for (auto& share : shares)
      for (auto& rows : share) carve<Pass>(rows, buffers);
    return bytes + buffers.taken() * sizeof(C);
  };
  Arena& arena = Arena::of_this_thread();
  lay_out(static_cast<char*>(arena.get(lay_out(nullptr))));

  // A single step from nothing multiplies no matrix.
  bool multiplies = r.T > 1 || phases > 1;
  for (const Operand& operand : Pass::kOperands) multiplies = multiplies || initial_of(r, operand);
  if (multiplies) {
    parallel(workers, [&](int worker) {
      for_each_phase(typename Pass::Phases{}, [&](auto phase, int i) {
        using Phase = decltype(phase);
        if constexpr (Phase::kColumns > 0) {
          const int64_t panels = Panels<Phase, S>::count(r.units[Phase::kUnits]);
          for (int64_t p = worker; p < panels * r.G; p += workers)
            pack_panel<Phase>(r, p / panels, p % panels, packed[i] + p * packed_panel_size<Phase, S>(r));
        }
      });
    });
  }
  parallel(workers, [&](int worker) {
    for (auto& rows : shares[worker]) {
      std::array<S*, phases> own = packed;
      for (int i = 0; i < phases; ++i) own[i] += rows.group * group_size[i];
      run_rows<Pass>(rows, own.data());
    }
  });
  arena.trim();
  return tile_run;
}

}  // namespace batch_split
}  // namespace rnnfast
