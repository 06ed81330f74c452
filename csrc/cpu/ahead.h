// What a phase may have computed ahead of its steps (Phase::kAhead): a matrix times an input that is known
// from the start. Many steps' rows together make good use of the registers, and a chunk of steps stays in
// cache until it is used, so that the products of a whole sequence are never in memory.
#pragma once

#include "accessor.h"
#include "packing.h"

namespace rnnfast {

// The product as a phase, to whom its matrix belongs.
template <class Of>
struct AheadPhase : Of {
  static constexpr int kMatrix = Of::kAhead.matrix;
  static constexpr bool kTransposed = false;
};

template <class Phase>
bool computes_ahead(const Recurrence& r) {
  if constexpr (Phase::kAhead.stream < 0) {
    return false;
  } else {
    return !r.streams[Phase::kAhead.stream].data && r.matrices[Phase::kAhead.matrix].data;
  }
}

// Whether the input is copied before it is multiplied: to convert it, or because its rows lie anywhere.
template <class S>
bool copies_input(const Recurrence& r) {
  return !std::is_same_v<S, Compute<S>> || r.origins;
}

// How many steps to take together, of `rows` rows: as many as a part of a core's cache holds; more where the
// matrix, read once for each chunk, is larger by far.
template <class Phase, class S>
int64_t chunk_steps(const Recurrence& r, int64_t rows) {
  using P = Panels<Phase, S>;
  constexpr int64_t kBytes = 256 << 10, kMatrixOverResults = 8;
  const int64_t row_bytes = P::count(r.units[Phase::kUnits]) * P::kWidth * sizeof(Compute<S>);
  const int64_t least =
      std::max<int64_t>(4 * P::kTile.rows, inner_size<AheadPhase<Phase>>(r) / kMatrixOverResults);
  const int64_t chunk_rows = std::max(least, kBytes / std::max<int64_t>(1, row_bytes));
  return std::clamp<int64_t>(chunk_rows / std::max<int64_t>(1, rows), 1, r.T);
}

// The steps in time, from .first to before .second, of the chunk that a step in order of processing is in.
template <class S>
std::pair<int64_t, int64_t> chunk_of(const Rows<S>& w, int64_t step, bool descending) {
  const int64_t T = w.recurrence->T, begin = step - step % w.chunk.steps,
                end = std::min(T, begin + w.chunk.steps);
  return descending ? std::pair(T - end, T - begin) : std::pair(begin, end);
}

// Where what was computed ahead for a panel, at this step from row `begin` on, lies; null: nothing was.
template <class Phase, class S>
const Compute<S>* results_ahead(const Rows<S>& w, int64_t panel, int64_t begin) {
  if (Phase::kAhead.stream < 0 || !w.chunk.results) return nullptr;
  const int64_t row = panel * w.chunk.rows + w.chunk.now + begin - w.row_begin;
  return w.chunk.results + row * Panels<Phase, S>::kWidth;
}

// Rows that lie `row` apart, and their results, which come from `result` on and lie `result_step` apart.
template <class S>
struct Run {
  const S* data;
  int64_t row, count, result, result_step;
};

// Calls f(run) for all rows of the input at steps begin .. end-1 in time, in runs as long as can be.
template <class S, class F>
void for_each_run(const Rows<S>& w, const Stream& input, int64_t begin, int64_t end, const F& f) {
  const Recurrence& r = *w.recurrence;
  const int64_t rows = w.rows(), steps = end - begin, first = w.chunk.place[begin];
  const int64_t active = w.chunk.place[end] - first;  // at all steps
  const auto at = [&](int64_t t) {
    return static_cast<const S*>(input.data) + r.position(input, w.group, t) + w.row_begin * input.row;
  };
  const bool all = !r.counts;  // rows at each step
  const bool follow =
      r.offsets ? w.row_begin == 0 && r.active(begin) <= w.row_end : all && input.step == rows * input.row;
  if (r.origins) {
    for (int64_t t = begin; t < end; ++t) {
      const S* data = static_cast<const S*>(input.data) + r.position(input, w.group, t);
      for (int64_t place = w.chunk.place[t], row = w.row_begin; place < w.chunk.place[t + 1]; ++place, ++row)
        f(Run<S>{data + r.origins[row] * input.row, 0, 1, place - first, 1});
    }
    return;
  }
  if (follow || steps == 1) return f(Run<S>{at(begin), input.row, active, 0, 1});
  if (all && rows < steps) {
    for (int64_t row = 0; row < rows; ++row)
      f(Run<S>{at(begin) + row * input.row, input.step, steps, row, rows});
    return;
  }
  for (int64_t t = begin; t < end; ++t) {
    const int64_t place = w.chunk.place[t], count = w.chunk.place[t + 1] - place;
    if (count > 0) f(Run<S>{at(t), input.row, count, place - first, 1});
  }
}

// Calls f(begin, end) for parts of even size, of at most `most`.
template <class F>
void even_parts(int64_t size, int64_t most, const F& f) {
  const int64_t count = ceil_div(size, most);
  for (int64_t n = 0; n < count; ++n) f(size * n / count, size * (n + 1) / count);
}

// Some panels of the results of rows that lie `row` apart.
template <class Phase, class S>
RNNFAST_INLINE void multiply_run(const Rows<S>& w, Weights<AheadPhase<Phase>, S>& weights,
                                 const Run<Compute<S>>& run, int64_t panel_begin, int64_t panel_end) {
  constexpr int64_t kWidth = Panels<Phase, S>::kWidth;
  weights.prepare(run.data, run.row, run.count, w.room);
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    Compute<S>* results = w.chunk.results + (panel * w.chunk.rows + run.result) * kWidth;
    for (int64_t terms = 0; terms < weights.runs(panel); ++terms) {
      even_parts(run.count, weights.rows_at_once(), [&](int64_t i, int64_t stop) {
        weights.multiply(run.data + i * run.row, run.row, static_cast<int>(stop - i), panel, terms,
                         results + i * run.result_step * kWidth, run.result_step * kWidth);
      });
    }
  }
}

// Computes some panels ahead for steps begin .. end-1 in time, a chunk; `own`: which of the places for copied
// input is the caller's.
template <class Phase, class S>
void multiply_ahead(const Rows<S>& w, Weights<AheadPhase<Phase>, S> weights, int64_t begin, int64_t end,
                    int64_t panel_begin, int64_t panel_end, int own) {
  using C = Compute<S>;
  const Stream& input = w.recurrence->streams[Phase::kAhead.input];
  const int64_t K = w.recurrence->matrices[Phase::kAhead.matrix].columns;
  if constexpr (std::is_same_v<S, C>) {
    if (!copies_input<S>(*w.recurrence)) {
      return for_each_run(w, input, begin, end, [&](const Run<S>& run) {
        multiply_run<Phase>(w, weights, run, panel_begin, panel_end);
      });
    }
  }
  C* copied = w.chunk.input + own * w.chunk.rows * K;
  for_each_run(w, input, begin, end, [&](const Run<S>& run) {
    for (int64_t i = 0; i < run.count; ++i)
      widen(run.data + i * run.row, K, copied + (run.result + i * run.result_step) * K);
  });
  multiply_run<Phase>(w, weights, Run<C>{copied, K, w.chunk.place[end] - w.chunk.place[begin], 0, 1},
                      panel_begin, panel_end);
}

}  // namespace rnnfast
