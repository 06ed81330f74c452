// One phase of one step, for a run of rows and of panels: what every schedule puts together.
#pragma once

#include "../cells/phase_list.h"
#include "ahead.h"
#include "pair.h"

namespace rnnfast {

// The cell's arithmetic for a spot, a vector of units of a row, or for two.
template <class Phase, class S, bool kWhole, bool kNoisy, class Spot>
RNNFAST_INLINE void run_cell_at(const Rows<S>& w, int64_t units, const Spot& one, const Spot& other) {
  const auto at = [&](const Spot& s) {
    return Accessor<Phase, S, kWhole, kNoisy>(w, s.matrix, s.ahead, s.squares, s.row, units, s.unit, s.panel,
                                              s.lanes);
  };
  auto first = at(one);
  if constexpr (Phase::kPairs) {
    auto second = at(other);
    PairAccessor<Accessor<Phase, S, kWhole, kNoisy>> pair(first, second);
    Phase::run(pair);
  } else {
    Phase::run(first);
  }
}

// How many panels `tile` takes together: with a single row, two make a pair.
template <class Phase>
constexpr int panels_together(int64_t rows) {
  return Phase::kPairs && rows == 1 ? 2 : 1;
}

// Rows begin .. end-1 of a phase, no more than a register tile has.
struct Span {
  int64_t begin, end;
  int rows() const { return static_cast<int>(end - begin); }
};

// Room for the matrix results of one such.
template <class Phase, class S>
constexpr int64_t kTileResults = Panels<Phase, S>::kTile.rows * Panels<Phase, S>::kWidth;
// Of how many such the results are formed together, run by run of their terms, where a panel has so many runs
// that it takes a good part of the second-level cache, or more: they all read a run of it before the next.
// (LSTM, BPTT, two threads of a Zen 5: T 50, B 128, H 1024 takes 0.81 of the time, T 512, B 16, H 768 0.77.)
constexpr int kSpansTogether = 16, kManyRuns = 4;

// The matrix results of some spans of rows, of one panel, or of one row of several.
template <class Phase, class S>
void multiply_spans(const Rows<S>& w, const Weights<Phase, S>& weights, int64_t panel, int panels,
                    const Span* spans, int count, Compute<S>* results) {
  constexpr int64_t kWidth = Panels<Phase, S>::kWidth;
  constexpr int operand = Phase::kOperand;
  const int64_t stride = w.operand_stride[operand];
  const Compute<S>* a = w.operands[operand][Phase::kSameStep];
  for (int i = 0; i < panels; ++i) {
    for (int64_t run = 0; run < weights.runs(panel + i); ++run) {
      for (int n = 0; n < count; ++n)
        weights.multiply(a + (spans[n].begin - w.row_begin) * stride, stride, spans[n].rows(), panel + i, run,
                         results + n * kTileResults<Phase, S> + i * spans[n].rows() * kWidth, kWidth);
    }
  }
}

// The cell's arithmetic for a span of rows of one panel, or one row of several, of which `results` are those
// of the matrix.
template <class Phase, class S, bool kNoisy>
void tile(const Rows<S>& w, int64_t panel, int panels, Span span, const Compute<S>* results) {
  using P = Panels<Phase, S>;
  using C = Compute<S>;
  constexpr int VL = kLanes<S>;
  const int64_t units = w.recurrence->units[Phase::kUnits], begin = span.begin;
  const int rows = span.rows(), tiles = rows * panels;

  alignas(kVectorBytes) C squares[Phase::kRecords ? P::kTile.rows * VL : VL];
  const bool records = Phase::kRecords && w.recorded;
  if (records) std::fill_n(squares, tiles * VL, C{});

  struct Spot {
    const C *matrix, *ahead;
    C* squares;
    int64_t row, panel, unit;
    int lanes;
  };
  // The n-th row of results, a block of units of it; without lanes where units end.
  const auto spot = [&](int n, int block) {
    const int64_t of = panel + (panels > 1 ? n : 0), row = begin + (panels > 1 ? 0 : n);
    const int64_t unit = of * P::kUnits + block * VL;
    const C* ahead = results_ahead<Phase>(w, of, row);
    const int64_t offset = block * P::kColumns * VL;
    return Spot{results + n * P::kWidth + offset,
                ahead ? ahead + offset : nullptr,
                squares + (Phase::kRecords ? n * VL : 0),
                row,
                of,
                unit,
                static_cast<int>(std::clamp<int64_t>(units - unit, 0, VL))};
  };
  // One spot is a pair with itself, not other code, in which the compiler might round otherwise: results
  // would depend on how rows are shared out.
  const auto run = [&](const Spot& one, const Spot& other) {
    if (one.lanes == VL) {
      run_cell_at<Phase, S, true, kNoisy>(w, units, one, other);
    } else if (one.lanes > 0) {
      run_cell_at<Phase, S, false, kNoisy>(w, units, one, other);
    }
  };
  for (int n = 0; n < tiles; n += 1 + Phase::kPairs) {
    for (int block = 0; block < P::kBlocks; ++block) {
      const Spot one = spot(n, block), other = Phase::kPairs && n + 1 < tiles ? spot(n + 1, block) : one;
      if (one.lanes == other.lanes) {
        run(one, other);
      } else {
        run(one, one), run(other, other);
      }
    }
  }
  static_assert(!Phase::kRecords || !Phase::kPairs, "what is recorded belongs to one panel");
  for (int n = 0; records && n < rows; ++n) {
    const int64_t place = w.recurrence->origin(begin + n) * w.recurrence->norms.row;
    w.recorded_now[place * w.recorded_panels + panel] = sum_of_lanes<C>(load(squares + n * VL));
  }
}

// Adds up the partial sums that the phase before left, panel by panel.
template <class Before, class S>
void reduce_statistics(const Rows<S>& w) {
  const int64_t panels = Panels<Before, S>::count(w.recurrence->units[Before::kUnits]);
  for (int s = 0; s < Before::kStatistics; ++s) {
    for (int64_t row = 0; row < w.end - w.row_begin; ++row) {
      const Compute<S>* p = w.partials[1] + (s * w.rows() + row) * w.partial_panels * kLanes<S>;
      Vec<Compute<S>> sum{};
      for (int64_t panel = 0; panel < panels; ++panel) sum += load(p + panel * kLanes<S>);
      w.sums[s][row] = sum_of_lanes<Compute<S>>(sum);
    }
  }
}

// Starts the partial sums of some panels from zero.
template <class Phase, class S>
void clear_statistics(const Rows<S>& w, int64_t panel_begin, int64_t panel_end) {
  for (int64_t row = 0; row < Phase::kStatistics * w.rows(); ++row) {
    Compute<S>* p = w.partials[0] + (row * w.partial_panels + panel_begin) * kLanes<S>;
    std::fill_n(p, (panel_end - panel_begin) * kLanes<S>, Compute<S>{});
  }
}

// Some panels of phase kIndex of a pass, at the step that `w` is at.
template <class Pass, int kIndex, class Phase, class S>
void run_phase(Rows<S>& w, Weights<Phase, S> weights, int64_t panel_begin, int64_t panel_end) {
  const Recurrence& r = *w.recurrence;
  const int64_t round = w.step * count_phases(typename Pass::Phases{}) + kIndex;
  w.partials[0] = w.partial_buffers[round % 2];
  w.partials[1] = w.partial_buffers[1 - round % 2];
  if constexpr (kIndex > 0) {
    reduce_statistics<decltype(phase_at<kIndex - 1>(typename Pass::Phases{}))>(w);
  }
  if (Phase::kStatistics > 0) clear_statistics<Phase>(w, panel_begin, panel_end);

  const bool entering_multiplied = multiplies_entering<Pass, Phase>(r);
  if constexpr (Phase::kColumns > 0) {
    const int64_t multiplied = (entering_multiplied ? w.end : w.entering) - w.row_begin;
    weights.prepare(w.operands[Phase::kOperand][Phase::kSameStep], w.operand_stride[Phase::kOperand],
                    multiplied, w.room);
  }
  // Panels outermost: a panel stays in cache while all rows pass by it. Every other step takes them in
  // reverse, so that what is left in cache of a matrix larger than it is what comes next.
  alignas(kVectorBytes) Compute<S> results[kSpansTogether * kTileResults<Phase, S>];
  const int together = panels_together<Phase>(w.end - w.row_begin);
  const auto tile_of_rows = r.noise.any() ? tile<Phase, S, true> : tile<Phase, S, false>;
  for (int64_t i = panel_begin; i < panel_end; i += together) {
    const int panels = static_cast<int>(std::min<int64_t>(together, panel_end - i));
    const int64_t panel = w.step % 2 ? panel_begin + panel_end - i - panels : i;
    Span spans[kSpansTogether];
    int count = 0;
    const auto run_spans = [&](bool multiplied) {
      if (multiplied) {
        multiply_spans(w, weights, panel, panels, spans, count, results);
      } else {
        std::fill_n(results, count * kTileResults<Phase, S>, Compute<S>{});
      }
      for (int n = 0; n < count; ++n)
        tile_of_rows(w, panel, panels, spans[n], results + n * kTileResults<Phase, S>);
      count = 0;
    };
    const auto tiles = [&](int64_t first, int64_t last, bool multiplied) {
      const int most = multiplied && weights.runs(panel) >= kManyRuns ? kSpansTogether : 1;
      // Of about the same height, rather than a thin one at the end.
      constexpr int64_t unit = 1 + Phase::kPairs;
      even_parts(ceil_div(last - first, unit), weights.rows_at_once() / unit, [&](int64_t from, int64_t to) {
        spans[count++] = {first + from * unit, std::min(first + to * unit, last)};
        if (count == most) run_spans(multiplied);
      });
      if (count > 0) run_spans(multiplied);
    };
    tiles(w.row_begin, w.entering, Phase::kColumns > 0);
    tiles(w.entering, w.end, entering_multiplied);
  }
}

// Whether the steps of a group are taken against time.
template <class Pass, class S>
bool descends(const Rows<S>& w) {
  return w.recurrence->reversed(w.group) != Pass::kBackward;
}

// Places `w` at a step, counted in order of processing.
template <class Pass, class S>
void go_to_step(Rows<S>& w, int64_t step) {
  const Recurrence& r = *w.recurrence;
  const bool descending = descends<Pass>(w);
  const auto active_end = [&](int64_t t) { return std::clamp(r.active(t), w.row_begin, w.row_end); };
  const int64_t t = descending ? r.T - 1 - step : step;
  const int64_t before = descending ? t + 1 : t - 1, after = descending ? t - 1 : t + 1;
  const bool first = step == 0, last = step == r.T - 1;

  w.step = step, w.time = t;
  if (w.chunk.results) w.chunk.now = w.chunk.place[t] - w.chunk.place[chunk_of(w, step, descending).first];
  w.end = active_end(t);
  w.entering = first ? w.row_begin : std::min(w.end, active_end(before));
  w.leaving = last ? w.row_begin : std::min(w.end, active_end(after));
  for (int s = 0; s < w.streams; ++s) {
    const Stream& stream = r.streams[s];
    S* data = static_cast<S*>(stream.data);
    w.now[s] = data ? data + r.position(stream, w.group, t) : nullptr;
    w.before[s] = data && !first ? data + r.position(stream, w.group, before) : nullptr;
    w.after[s] = data && !last ? data + r.position(stream, w.group, after) : nullptr;
  }
  if (w.recorded) w.recorded_now = w.recorded + r.position(r.norms, w.group, t) * w.recorded_panels;
  for (int i = 0; i < static_cast<int>(std::size(Pass::kOperands)); ++i) {
    w.operands[i][0] = w.buffers[i][step % 2];
    w.operands[i][1] = w.buffers[i][1 - step % 2];
  }
}

// Rows begin .. end-1 before their first step: initial values where the matrices look for them, carried
// values zero. A row keeps them until it enters, so both buffers of an operand hold them.
template <class Pass, class S>
void prepare_rows(const Rows<S>& w, int64_t begin, int64_t end) {
  using C = Compute<S>;
  const Recurrence& r = *w.recurrence;
  for (int c = 0; c < carries_of<Pass>(r); ++c) {
    C* carries = w.carries[c] - w.row_begin * w.carry_stride;
    std::fill(carries + begin * w.carry_stride, carries + end * w.carry_stride, C{});
  }
  int i = 0;
  for (const Operand& operand : Pass::kOperands) {
    const int64_t width = operand.parts * r.units[operand.units];
    const End* initial = initial_of(r, operand);
    for (int64_t row = begin; initial && row < end; ++row) {
      const S* from = static_cast<const S*>(initial->data) + w.group * initial->group + row * initial->row;
      for (C* buffer : w.buffers[i]) widen(from, width, buffer + (row - w.row_begin) * w.operand_stride[i]);
    }
    ++i;
  }
}

}  // namespace rnnfast
