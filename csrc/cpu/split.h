// Sharing a pass out among workers. The rows of the batch, of all groups, are cut into shares; the workers
// that have a share in common, its crew, own units each.
//
//   batch-split   crews of one: a worker takes its rows through all steps and waits for nobody
//   unit-split    larger crews: each worker's part of the matrix stays in its own cache, and the crew waits
//                 for one another at each phase of each step
#pragma once

#include <array>
#include <deque>
#include <numeric>
#include <vector>

#include "arena.h"
#include "phase.h"
#include "team.h"

namespace rnnfast {

// Rows of a buffer are padded so that neighbouring rows do not fall on the same cache sets.
template <class S>
int64_t padded(int64_t width) {
  constexpr int VL = kLanes<S>;
  const int64_t whole = ceil_div(width, VL) * VL;
  return whole * sizeof(Compute<S>) % 512 == 0 ? whole + Arena::kAlignment / sizeof(Compute<S>) : whole;
}

// Cuts all rows of all groups into `shares` runs of about the same number of valid steps: returns the first
// row of each, counting g * B + b, and the end.
inline std::vector<int64_t> share_rows(const Recurrence& r, int shares) {
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
    while (static_cast<int>(first.size()) < shares &&
           passed * shares >= total * static_cast<int64_t>(first.size()))
      first.push_back(row);
    passed += lengths[row % r.B];
  }
  first.resize(shares + 1, r.G * r.B);
  return first;
}

template <class Pass, class S>
class Split {
  using C = Compute<S>;
  using Phases = typename Pass::Phases;
  static constexpr int kPhases = count_phases(Phases{}), kStatistics = most_statistics(Phases{});
  static_assert(sizeof(S) <= sizeof(C));
  static_assert(std::size(Pass::kOperands) <= kMaxOperands && Pass::kNoisyCarries <= kMaxCarries);

 public:
  // workers: a multiple of `crew`. in_place: matrices are read as they lie, where their phase can.
  Split(const Recurrence& r, int workers, int crew, bool in_place)
      : r_(r), workers_(workers), crew_(crew), in_place_(in_place), shares_(workers / crew) {
    const std::vector<int64_t> first = share_rows(r, workers / crew);
    // A share may reach over several groups; each piece has its own buffers.
    for (size_t share = 0; share < shares_.size(); ++share) {
      for (int64_t row = first[share]; row < first[share + 1];) {
        const int64_t g = row / r.B, end = std::min(first[share + 1], (g + 1) * r.B);
        Rows<S> rows{};
        rows.recurrence = &r, rows.group = g, rows.row_begin = row - g * r.B, rows.row_end = end - g * r.B;
        rows.step = -1;
        for (int s = 0; s < kMaxStreams; ++s)
          if (r.streams[s].data) rows.streams = s + 1;
        shares_[share].emplace_back(rows, crew);
        row = end;
      }
    }
  }

  void run() {
    Arena& arena = Arena::of_this_thread();
    lay_out(static_cast<char*>(arena.get(lay_out(nullptr))));
    Crew packing(workers_);
    parallel(workers_, [&](int worker) {
      if (packs_) packing.run(worker, 1, [&](int64_t, int of) { pack(of); });
      const int shares = static_cast<int>(shares_.size());
      for (int i = 0; i < shares; ++i) {  // its own, then what nobody has begun
        for (Piece& piece : shares_[(worker / crew_ + i) % shares])
          if (i == 0 || !piece.crew.begun()) run_piece(piece, worker);
      }
    });
    if (recorded_) take_norms();
    arena.trim();
  }

 private:
  using First = decltype(phase_at<0>(Phases{}));

  // Rows of one group, and those who work on them.
  struct Piece {
    Piece(const Rows<S>& some_rows, int crew_size) : rows(some_rows), crew(crew_size) {}
    Rows<S> rows;
    Crew crew;
    std::vector<int64_t> place;  // for Chunk
  };

  // A single step from nothing multiplies no matrix.
  template <class Phase>
  bool multiplies() const {
    return Phase::kColumns > 0 && (r_.T > 1 || multiplies_entering<Pass, Phase>(r_));
  }

  // Places everything in a block of memory; with no block, only adds up how much it takes.
  size_t lay_out(char* block) {
    Carver<S> weights(reinterpret_cast<S*>(block));
    for_each_phase(Phases{}, [&](auto phase, int i) {
      using Phase = decltype(phase);
      group_size_[i] = multiplies<Phase>() ? Weights<Phase, S>::packed_size(r_, in_place_) : 0;
      packed_[i] = weights.take(group_size_[i] * r_.G);
    });
    if constexpr (First::kAhead.stream >= 0) {
      ahead_size_ = computes_ahead<First>(r_) ? Weights<AheadPhase<First>, S>::packed_size(r_, in_place_) : 0;
      ahead_packed_ = weights.take(ahead_size_ * r_.G);
    }
    packs_ = weights.taken() > 0;
    const size_t bytes = weights.taken() * sizeof(S);
    Carver<C> buffers(block ? reinterpret_cast<C*>(block + bytes) : nullptr);
    for_each_phase(Phases{}, [&](auto phase, int) {
      using Phase = decltype(phase);
      if (!Phase::kRecords || !r_.norms.data) return;
      recorded_panels_ = Panels<Phase, S>::count(r_.units[Phase::kUnits]);
      recorded_ = buffers.take(r_.positions() * recorded_panels_);
    });
    for (auto& share : shares_)
      for (Piece& piece : share) carve(piece, buffers);
    return bytes + buffers.taken() * sizeof(C);
  }

  void carve(Piece& piece, Carver<C>& carver) const {
    Rows<S>& w = piece.rows;
    const int64_t rows = w.rows();
    w.recorded = recorded_, w.recorded_panels = recorded_panels_;
    int i = 0;
    for (const Operand& operand : Pass::kOperands) {
      w.operand_stride[i] = padded<S>(operand.parts * r_.units[operand.units]);
      for (auto& buffer : w.buffers[i]) buffer = carver.take(rows * w.operand_stride[i]);
      ++i;
    }
    w.carry_stride = padded<S>(r_.most_units());
    for (int c = 0; c < carries_of<Pass>(r_); ++c) w.carries[c] = carver.take(rows * w.carry_stride);

    for_each_phase(Phases{}, [&](auto phase, int) {
      using Phase = decltype(phase);
      if (Phase::kStatistics > 0)
        w.partial_panels = std::max(w.partial_panels, Panels<Phase, S>::count(r_.units[Phase::kUnits]));
    });
    for (auto& partials : w.partial_buffers)
      partials = carver.take(kStatistics * rows * w.partial_panels * kLanes<S>);
    C* sums = carver.take(workers_ * kStatistics * rows);  // those of the first worker first
    for (int s = 0; s < kStatistics; ++s) w.sums[s] = sums + s * rows;

    w.room_size = 0;
    for_each_phase(Phases{}, [&](auto phase, int) {
      using Phase = decltype(phase);
      if constexpr (Phase::kColumns > 0) reserve_room<Phase>(w, rows);
    });
    if constexpr (First::kAhead.stream >= 0) {
      if (computes_ahead<First>(r_)) {
        carve_chunk(piece, carver);
        reserve_room<AheadPhase<First>>(w, w.chunk.rows);
      }
    }
    w.rooms = carver.take(crew_ * w.room_size);
  }

  template <class Phase>
  void reserve_room(Rows<S>& w, int64_t rows) const {
    w.room_size = std::max(w.room_size, Weights<Phase, S>::room_for(r_, in_place_, rows));
  }

  void carve_chunk(Piece& piece, Carver<C>& carver) const {
    Rows<S>& w = piece.rows;
    if (piece.place.empty()) {
      piece.place.assign(1, 0);
      for (int64_t t = 0; t < r_.T; ++t)
        piece.place.push_back(piece.place.back() + std::clamp(r_.active(t), w.row_begin, w.row_end) -
                              w.row_begin);
    }
    Chunk<S>& chunk = w.chunk;
    chunk.place = piece.place.data();
    chunk.steps = chunk_steps<First, S>(r_, w.rows());
    chunk.rows = chunk.steps * w.rows();
    chunk.results =
        carver.take(chunk.rows * Panels<First, S>::kWidth * Panels<First, S>::count(r_.units[First::kUnits]));
    const int64_t K = r_.matrices[First::kAhead.matrix].columns;
    if (copies_input<S>(r_)) chunk.input = carver.take(crew_ * chunk.rows * K);
  }

  void take_norms() const {
    C* norms = static_cast<C*>(r_.norms.data);
    for (int64_t g = 0; g < r_.G; ++g) {
      for (int64_t t = 0; t < r_.T; ++t) {
        for (int64_t b = 0; b < r_.active(t); ++b) {
          const int64_t place = r_.position(r_.norms, g, t) + r_.origin(b) * r_.norms.row;
          const C* panels = recorded_ + place * recorded_panels_;
          norms[place] = std::sqrt(std::accumulate(panels, panels + recorded_panels_, C{}));
        }
      }
    }
  }

  template <class Phase>
  Weights<Phase, S> weights(int phase, int64_t g) const {
    return Weights<Phase, S>(r_, g, packed_[phase] + g * group_size_[phase], in_place_);
  }

  auto ahead_weights(int64_t g) const {
    return Weights<AheadPhase<First>, S>(r_, g, ahead_packed_ + g * ahead_size_, in_place_);
  }

  // Packs what falls to a worker: of the panels that its place in the crew owns, its share's part.
  void pack(int worker) const {
    const int shares = static_cast<int>(shares_.size()), member = worker % crew_;
    int64_t index = 0;
    const auto pack_all = [&](auto phase, const auto& weights_of) {
      using Phase = decltype(phase);
      const int64_t panels = Panels<Phase, S>::count(r_.units[Phase::kUnits]);
      for (int64_t g = 0; g < r_.G; ++g) {
        for (int64_t p = part(panels, member, crew_); p < part(panels, member + 1, crew_); ++p)
          if (index++ % shares == worker / crew_) weights_of(g).pack(p);
      }
    };
    for_each_phase(Phases{}, [&](auto phase, int i) {
      using Phase = decltype(phase);
      if (multiplies<Phase>()) pack_all(phase, [&](int64_t g) { return weights<Phase>(i, g); });
    });
    if constexpr (First::kAhead.stream >= 0) {
      if (computes_ahead<First>(r_)) pack_all(First{}, [&](int64_t g) { return ahead_weights(g); });
    }
  }

  // Takes part in all steps of a piece.
  void run_piece(Piece& piece, int worker) const {
    Rows<S> w = piece.rows;
    for (auto& sums : w.sums)
      if (sums) sums += worker * kStatistics * w.rows();

    if (crew_ == 1) {
      piece.crew.run(0, 1, [&](int64_t, int) {
        prepare_rows<Pass>(w, w.row_begin, w.row_end);
        for (int64_t step = 0; step < r_.T; ++step) {
          go_to_step<Pass>(w, step);
          run_phases(w, 0, kPhases, 0);
        }
      });
      return;
    }
    piece.crew.run(worker % crew_, 1 + r_.T * kPhases, [&](int64_t round, int share) {
      if (round == 0) {
        const auto row = [&](int i) { return w.row_begin + part(w.rows(), i, crew_); };
        return prepare_rows<Pass>(w, row(share), row(share + 1));
      }
      const int64_t step = (round - 1) / kPhases;
      if (w.step != step) go_to_step<Pass>(w, step);
      const int phase = static_cast<int>((round - 1) % kPhases);
      run_phases(w, phase, phase + 1, share);
    });
  }

  // A share of phases begin .. end-1 of a step.
  void run_phases(Rows<S>& w, int begin, int end, int share) const {
    w.room = w.rooms + share * w.room_size;
    run_phases(w, begin, end, share, std::make_integer_sequence<int, kPhases>{});
  }

  template <int... kIndex>
  void run_phases(Rows<S>& w, int begin, int end, int share, std::integer_sequence<int, kIndex...>) const {
    const auto run_one = [&](auto phase, auto index) {
      using Phase = decltype(phase);
      constexpr int i = decltype(index)::value;
      if (i < begin || i >= end) return;
      const int64_t panels = Panels<Phase, S>::count(r_.units[Phase::kUnits]);
      const int64_t first = part(panels, share, crew_), last = part(panels, share + 1, crew_);
      if constexpr (Phase::kAhead.stream >= 0) {
        static_assert(i == 0, "products are computed ahead for the first phase only");
        if (w.chunk.results && w.step % w.chunk.steps == 0) {
          const auto [from, to] = chunk_of(w, w.step, descends<Pass>(w));
          multiply_ahead<Phase>(w, ahead_weights(w.group), from, to, first, last, share);
        }
      }
      run_phase<Pass, i>(w, weights<Phase>(i, w.group), first, last);
    };
    (run_one(phase_at<kIndex>(Phases{}), std::integral_constant<int, kIndex>{}), ...);
  }

  const Recurrence& r_;
  const int workers_, crew_;
  const bool in_place_;
  std::vector<std::deque<Piece>> shares_;
  std::array<S*, kPhases> packed_{};
  std::array<int64_t, kPhases> group_size_{};
  S* ahead_packed_ = nullptr;
  int64_t ahead_size_ = 0;  // of a group
  C* recorded_ = nullptr;   // Rows::recorded
  int64_t recorded_panels_ = 0;
  bool packs_ = false;
};

// The register tile of a pass: that of its first phase.
template <class S, class First, class... Rest>
Tile tile_of(PhaseList<First, Rest...>) {
  return Panels<First, S>::kTile;
}

}  // namespace rnnfast
