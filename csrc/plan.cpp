#include "plan.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <tuple>
#include <vector>

namespace rnnfast {
namespace {

// What times are predicted from: one core, as measured on Zen 4. Only the ratios of times decide, so it
// serves other machines too; `python -m pytest benchmarks/test_plans.py` says how well.
namespace core {
constexpr double kHz = 3.3e9;
constexpr double kFmaLatency = 4;        // cycles
constexpr double kStep = 80;             // cycles: a step, whatever its size
constexpr double kDots = 1.15;           // FMAs in dot products over those in tiles
constexpr double kLaneSums = 100;        // cycles: adding up the lanes of a vector's worth of dot products
constexpr double kRound = 0.15e-6;       // s: from the last share of a round to the next round
constexpr double kExchangeRate = 7e9;    // bytes/s: what others of the crew put, from their caches
constexpr double kTeam = 8e-6;           // s: starting and joining workers
constexpr double kL1 = 24e3, kL2 = 8e5;  // bytes that stay in cache from step to step
constexpr double kL1Rate = 180e9, kL2Rate = 105e9, kL3Rate = 84e9;  // bytes/s
constexpr double kNotHidden = 0.3;  // of the shorter of arithmetic and reading, the more the closer they are
// Multiplying with a matrix in place over multiplying with panels; where rows are a page apart or more, no
// hardware prefetches, and where they are whole pages apart they share cache sets.
constexpr double kScattered = 1.05, kAliased = 1.6;
constexpr double kTransposeRate = 7e9, kCopyRate = 30e9;  // bytes/s: packing

// Cycles of a vector of units' arithmetic, loads and stores.
double pointwise(Cell cell, Pass pass) {
  const bool forward = pass == Pass::forward;
  switch (cell) {
    case Cell::lstm:
      return forward ? 150 : 85;
    case Cell::layer_norm_lstm:
      return forward ? 240 : 150;
    case Cell::gru:
      return forward ? 105 : 60;
    case Cell::elman_tanh:
    case Cell::elman_relu:
      break;
  }
  return forward ? 30 : 14;
}

// Without FMA, a multiplication and an addition.
double fmas_per_cycle(Isa isa) { return isa == Isa::avx2 ? 2 : 1; }
}  // namespace core

// Workers: `shares` crews of `crew`.
struct Choice {
  int shares = 1, crew = 1;
  WeightLayout weights = WeightLayout::packed;

  int workers() const { return shares * crew; }
};

class Planner {
 public:
  explicit Planner(const Problem& p)
      : p_(p),
        phases_(phase_sizes(p)),
        tile_(tile_for(p.isa, phases_[0].columns)),
        lanes_(vector_bytes(p.isa) / compute_bytes(p.dtype)),
        rows_(std::max<int64_t>(1, p.B * p.G)) {}

  Plan plan() const {
    const Choice best = choose();
    Plan plan;
    plan.schedule = best.crew > 1 ? Schedule::unit_split : Schedule::batch_split;
    plan.workers = best.workers();
    plan.crew = best.crew;
    plan.weights = best.weights;
    plan.tile = tile_;
    plan.tile_columns = tile_.vectors * lanes_;
    plan.isa = takes_bf16_dots(best) ? "avx512_bf16" : name(p_.isa);
    plan.seconds = seconds(best);
    plan.why = p_.wishes.schedule || p_.wishes.workers ? "as asked for"
               : p_.crowded                            ? "the processors are busy with something else"
               : best.crew > 1                         ? "workers own units, which stay in their caches"
               : best.workers() == p_.threads    ? "a worker for each thread, which owns rows of the batch"
               : best.workers() == rows_         ? "as many workers as rows of the batch"
               : best.workers() == p_.processors ? "as many workers as processors"
                                                 : "too little work for more workers";
    return plan;
  }

 private:
  int weight_bytes() const { return p_.int8 ? 1 : storage_bytes(p_.dtype); }

  int64_t panels(const PhaseSize& phase) const {
    const int blocks = tile_for(p_.isa, phase.columns).vectors / phase.columns;
    return std::max<int64_t>(1, ceil_div(phase.units, blocks * lanes_));
  }

  int64_t most_panels() const {
    int64_t most = 1;
    for (const PhaseSize& phase : phases_) most = std::max(most, panels(phase));
    return most;
  }

  Choice choose() const {
    // Whatever the number of threads: in place, sums are formed in another order.
    Choice best;
    best.weights = p_.int8 ? WeightLayout::packed
                           : p_.wishes.weights.value_or(seconds({1, 1, WeightLayout::in_place}) <
                                                                seconds({1, 1, WeightLayout::packed})
                                                            ? WeightLayout::in_place
                                                            : WeightLayout::packed);
    const Wishes& wishes = p_.wishes;
    const int most =
        std::max(1, wishes.workers.value_or(p_.crowded ? 1 : std::min(p_.threads, p_.processors)));
    const auto cost = [&](const Choice& c) {
      const bool other = wishes.schedule && (c.crew > 1) != (*wishes.schedule == Schedule::unit_split);
      return std::make_tuple(other, wishes.workers ? most - c.workers() : 0, seconds(c));
    };
    auto least = cost(best);
    for (const int crew : counts(std::min<int64_t>(most, most_panels()))) {
      for (const int shares : counts(std::min<int64_t>(most / crew, rows_))) {
        const Choice choice{shares, crew, best.weights};
        const auto time = cost(choice);
        if (time < least) best = choice, least = time;
      }
    }
    return best;
  }

  // 1, 2, 4, ... and the largest.
  static std::vector<int> counts(int64_t largest) {
    std::vector<int> result;
    for (int64_t n = 1; n < largest; n *= 2) result.push_back(static_cast<int>(n));
    result.push_back(static_cast<int>(largest));
    return result;
  }

  double seconds(const Choice& c) const {
    const bool initial = p_.pass == Pass::forward && p_.initial;
    const double T = static_cast<double>(p_.T);
    double total = (c.workers() > 1 ? core::kTeam : 0) + projection_seconds(c);
    for (const PhaseSize& phase : phases_) {
      // Steps with a matrix product: only the first phase may meet rows that have nothing to multiply.
      const double multiplied = T - (initial || &phase != &phases_[0] ? 0 : 1);
      total += multiplied * matrix_seconds(phase, rows_of(c), c) +
               T * (step_seconds(phase, c) + round_seconds(phase, c));
      if (multiplied > 0) total += packing_seconds(phase, c);
    }
    return total;
  }

  double packing_seconds(const PhaseSize& phase, const Choice& c) const {
    if (c.weights != WeightLayout::packed || p_.int8) return 0;
    const double bytes =
        static_cast<double>(p_.G * phase.units * phase.columns * phase.inner) * weight_bytes();
    return bytes / (p_.pass == Pass::forward ? core::kTransposeRate : core::kCopyRate) / c.workers();
  }

  // The input's product, of all steps together.
  double projection_seconds(const Choice& c) const {
    if (p_.I == 0 || p_.T == 0) return 0;
    const PhaseSize input{phases_[0].columns, phases_[0].units, p_.I};
    return matrix_seconds(input, rows_of(c) * static_cast<double>(p_.T), c) + packing_seconds(input, c);
  }

  bool takes_bf16_dots(const Choice& c) const {
    return p_.bf16_dots && p_.isa == Isa::avx512 && p_.dtype == Dtype::bf16 &&
           c.weights == WeightLayout::packed;
  }

  double rows_of(const Choice& c) const { return static_cast<double>(ceil_div(rows_, c.shares)); }
  double panels_of(const PhaseSize& phase, const Choice& c) const {
    return static_cast<double>(ceil_div(panels(phase), c.crew));
  }

  // Vectors of matrix columns; a last panel is multiplied only as far as there are units.
  double vectors_of(const PhaseSize& phase, const Choice& c) const {
    return std::min(panels_of(phase, c) * tile_for(p_.isa, phase.columns).vectors,
                    std::ceil(static_cast<double>(phase.units) / lanes_) * phase.columns);
  }

  // Of so many rows at a time.
  double matrix_seconds(const PhaseSize& phase, double rows, const Choice& c) const {
    const bool in_place = c.weights == WeightLayout::in_place;
    const double K = static_cast<double>(phase.inner), vectors = vectors_of(phase, c);
    double cycles = (takes_bf16_dots(c) ? K / 2 : K) *
                    std::max(rows * vectors / core::fmas_per_cycle(p_.isa),
                             panels_of(phase, c) * std::ceil(rows / tile_for(p_.isa, phase.columns).rows) *
                                 core::kFmaLatency);
    if (in_place && p_.pass == Pass::forward) {
      const double dots = core::kDots * std::ceil(K / lanes_) * lanes_ / core::fmas_per_cycle(p_.isa);
      cycles = vectors * rows * (dots + core::kLaneSums);
    }
    const double groups = std::ceil(static_cast<double>(p_.G) / c.shares);
    const double bytes = groups * vectors * lanes_ * K * weight_bytes();
    const double rate = bytes <= core::kL1   ? core::kL1Rate
                        : bytes <= core::kL2 ? core::kL2Rate
                                             : core::kL3Rate;
    const double in_core = cycles / core::kHz;
    const double reading = bytes / rate;
    const double longer = std::max(in_core, reading), shorter = std::min(in_core, reading);
    const double seconds = longer + core::kNotHidden * shorter * shorter / longer;
    if (!in_place) return seconds;
    const int64_t row = p_.pass == Pass::forward ? phase.inner : phase.units;
    return seconds * (row * storage_bytes(p_.dtype) < 4096 ? core::kScattered : core::kAliased);
  }

  double step_seconds(const PhaseSize& phase, const Choice& c) const {
    const double units = rows_of(c) * vectors_of(phase, c) / phase.columns;  // vectors of them
    return (units * core::pointwise(p_.cell, p_.pass) + core::kStep) / core::kHz;
  }

  // Until the crew's other members have what a phase puts.
  double round_seconds(const PhaseSize& phase, const Choice& c) const {
    if (c.crew == 1) return 0;
    const int64_t puts = &phase == &phases_.back() ? phases_[0].inner : phases_.back().inner;
    const double from_others = rows_of(c) * static_cast<double>(puts) * (c.crew - 1) / c.crew;
    return core::kRound * rounds() + from_others * compute_bytes(p_.dtype) / core::kExchangeRate;
  }

  // Phases for each with a matrix.
  int rounds() const { return p_.cell != Cell::layer_norm_lstm ? 1 : p_.pass == Pass::forward ? 5 : 3; }

  const Problem& p_;
  const std::vector<PhaseSize> phases_;
  const Tile tile_;
  const int lanes_;
  const int64_t rows_;
};

template <class Value, size_t N>
Value from_name(const char* what, const std::string& given, const std::pair<const char*, Value> (&known)[N]) {
  std::string expected;
  for (const auto& [text, value] : known) {
    if (given == text) return value;
    expected += std::string(expected.empty() ? "" : ", ") + "'" + text + "'";
  }
  throw std::invalid_argument(std::string(what) + ": got '" + given + "', expected one of " + expected);
}

}  // namespace

std::vector<PhaseSize> phase_sizes(const Problem& p) {
  const int64_t state = p.P > 0 ? p.P : p.H;
  // In BPTT a matrix result is dh: one column for each unit, over all gates.
  const bool forward = p.pass == Pass::forward;
  std::vector<PhaseSize> result{forward ? PhaseSize{gates(p.cell), p.H, state}
                                        : PhaseSize{1, state, gates(p.cell) * p.H}};
  if (p.P > 0) result.push_back(forward ? PhaseSize{1, p.P, p.H} : PhaseSize{1, p.H, p.P});
  return result;
}

Plan plan(const Problem& problem) { return Planner(problem).plan(); }

bool switched_off(const char* variable) {
  const char* value = std::getenv(variable);
  return value && std::string(value) == "0";
}

bool has_bf16_dots() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx512bf16") && !switched_off("RNNFAST_BF16_DOTS");
  return has;
#else
  return false;
#endif
}

std::string describe(const Plan& p) {
  return std::string(name(p.schedule)) + " workers=" + std::to_string(p.workers) +
         " crew=" + std::to_string(p.crew) + " weights=" + name(p.weights) +
         " tile=" + std::to_string(p.tile.rows) + "x" + std::to_string(p.tile_columns) + " isa=" + p.isa +
         " (" + p.why + ")";
}

Cell cell_from_name(const std::string& name) {
  return from_name<Cell>("cell", name,
                         {{"elman_tanh", Cell::elman_tanh},
                          {"elman_relu", Cell::elman_relu},
                          {"lstm", Cell::lstm},
                          {"gru", Cell::gru},
                          {"layer_norm_lstm", Cell::layer_norm_lstm}});
}

Pass pass_from_name(const std::string& name) {
  return from_name<Pass>("pass", name, {{"forward", Pass::forward}, {"bptt", Pass::bptt}});
}

Dtype dtype_from_name(const std::string& name) {
  return from_name<Dtype>(
      "dtype", name,
      {{"float32", Dtype::f32}, {"float64", Dtype::f64}, {"bfloat16", Dtype::bf16}, {"float16", Dtype::f16}});
}

Isa isa_from_name(const std::string& name) {
  return from_name<Isa>("isa", name,
                        {{"baseline", Isa::baseline}, {"avx2", Isa::avx2}, {"avx512", Isa::avx512}});
}

Schedule schedule_from_name(const std::string& name) {
  return from_name<Schedule>("schedule", name,
                             {{"batch_split", Schedule::batch_split}, {"unit_split", Schedule::unit_split}});
}

WeightLayout weights_from_name(const std::string& name) {
  return from_name<WeightLayout>("weights", name,
                                 {{"packed", WeightLayout::packed}, {"in_place", WeightLayout::in_place}});
}

}  // namespace rnnfast
