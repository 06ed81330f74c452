#include "plan.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <tuple>
#include <vector>

namespace rnnfast {
namespace {

int gates(Cell) { return 1; }

int compute_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : 4; }
int storage_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

// What times are predicted from: one core, as measured on Zen 4. Only the ratios of times decide, so it
// serves other machines too; `python -m pytest benchmarks/test_plans.py` says how well.
namespace core {
constexpr double kHz = 3.3e9;
constexpr double kFmaLatency = 4;        // cycles
constexpr double kActivation = 28;       // cycles: a vector of units' arithmetic, loads and stores
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
        // In BPTT a matrix result is dh: one column for each unit, over all gates.
        columns_(p.pass == Pass::forward ? gates(p.cell) : 1),
        K_(p.H * (p.pass == Pass::forward ? 1 : gates(p.cell))),
        tile_(tile_for(p.isa, columns_)),
        lanes_(vector_bytes(p.isa) / compute_bytes(p.dtype)),
        rows_(std::max<int64_t>(1, p.B * p.G)),
        panels_(std::max<int64_t>(1, ceil_div(p.H, tile_.vectors / columns_ * lanes_))) {}

  Plan plan() const {
    const Choice best = choose();
    Plan plan;
    plan.schedule = best.crew > 1 ? Schedule::unit_split : Schedule::batch_split;
    plan.workers = best.workers();
    plan.crew = best.crew;
    plan.weights = best.weights;
    plan.tile = tile_;
    plan.tile_columns = tile_.vectors * lanes_;
    plan.isa = name(p_.isa);
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
  Choice choose() const {
    // Whatever the number of threads: in place, sums are formed in another order.
    Choice best;
    best.weights = p_.wishes.weights.value_or(seconds({1, 1, WeightLayout::in_place}) <
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
    for (const int crew : counts(std::min<int64_t>(most, panels_))) {
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
    const bool forward = p_.pass == Pass::forward, in_place = c.weights == WeightLayout::in_place;
    const double T = static_cast<double>(p_.T), K = static_cast<double>(K_);
    const double multiplied = T - (forward && p_.initial ? 0 : 1);  // steps with a matrix product
    const double rows = static_cast<double>(ceil_div(rows_, c.shares));
    const double panels = static_cast<double>(ceil_div(panels_, c.crew));
    // Of matrix columns; a last panel is multiplied only as far as there are units.
    const double vectors =
        std::min(panels * tile_.vectors, std::ceil(static_cast<double>(p_.H) / lanes_) * columns_);
    const double groups = std::ceil(static_cast<double>(p_.G) / c.shares);

    double cycles = K * std::max(rows * vectors / core::fmas_per_cycle(p_.isa),
                                 panels * std::ceil(rows / tile_.rows) * core::kFmaLatency);
    if (in_place && forward) {
      const double dots = core::kDots * std::ceil(K / lanes_) * lanes_ / core::fmas_per_cycle(p_.isa);
      cycles = vectors * rows * (dots + core::kLaneSums);
    }
    const double bytes = groups * vectors * lanes_ * K * storage_bytes(p_.dtype);
    const double rate = bytes <= core::kL1   ? core::kL1Rate
                        : bytes <= core::kL2 ? core::kL2Rate
                                             : core::kL3Rate;
    const double in_core = cycles / core::kHz;
    const double reading = bytes / rate;
    const double longer = std::max(in_core, reading), shorter = std::min(in_core, reading);
    double matrix = longer + core::kNotHidden * shorter * shorter / longer;
    if (in_place) matrix *= p_.H * storage_bytes(p_.dtype) < 4096 ? core::kScattered : core::kAliased;
    const double pointwise = (rows * vectors / columns_ * core::kActivation + core::kStep) / core::kHz;

    double round = 0;
    if (c.crew > 1) {
      const double put_by_others = rows * K * (c.crew - 1) / c.crew * compute_bytes(p_.dtype);
      round = core::kRound + put_by_others / core::kExchangeRate;
    }

    double total = multiplied * matrix + T * (pointwise + round);
    if (!in_place && multiplied > 0) {
      const double packed = static_cast<double>(p_.G * p_.H * K_) * storage_bytes(p_.dtype);
      total += packed / (forward ? core::kTransposeRate : core::kCopyRate) / c.workers();
    }
    return total + (c.workers() > 1 ? core::kTeam : 0);
  }

  const Problem& p_;
  const int columns_;
  const int64_t K_;
  const Tile tile_;
  const int lanes_;
  const int64_t rows_, panels_;
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

Plan plan(const Problem& problem) { return Planner(problem).plan(); }

std::string describe(const Plan& p) {
  return std::string(name(p.schedule)) + " workers=" + std::to_string(p.workers) +
         " crew=" + std::to_string(p.crew) + " weights=" + name(p.weights) +
         " tile=" + std::to_string(p.tile.rows) + "x" + std::to_string(p.tile_columns) + " isa=" + p.isa +
         " (" + p.why + ")";
}

Cell cell_from_name(const std::string& name) {
  return from_name<Cell>("cell", name, {{"elman_tanh", Cell::elman_tanh}, {"elman_relu", Cell::elman_relu}});
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
