#include "running.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <numeric>
#include <thread>

#include "../cells/cell.h"
#include "../layer/backend.h"
#include "../layer/text.h"
#include "kernels.h"
#include "team.h"
#include "vec.h"

namespace rnnfast {
namespace {

thread_local std::optional<Plan> last_plan_run;
thread_local Wishes wishes;

Crowding crowding;
// RNNFAST_YIELD=0: as many workers as planned, however crowded the machine is.
const bool yields = !switched_off("RNNFAST_YIELD");

// Processors that this process may run on.
int processors() {
  static const int count = [] {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }();
  return count;
}

bool crowded() { return yields && crowding.now(); }

void wish_plan(const std::optional<Text>& schedule, const std::optional<Text>& weights,
               const std::optional<int64_t>& workers) {
  Wishes w;
  if (schedule) w.schedule = schedule_from_name(*schedule);
  if (weights) w.weights = weights_from_name(*weights);
  if (workers) {
    require(*workers > 0, "workers: got ", *workers, ", expected a positive number");
    w.workers = static_cast<int>(std::min<int64_t>(*workers, 1 << 16));
  }
  wishes = w;
}

Plan run(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, const Plan& plan) {
  switch (cell) {
    case Cell::lstm:
      return run_lstm(r, pass, dtype, plan);
    case Cell::layer_norm_lstm:
      return run_layer_norm_lstm(r, pass, dtype, plan);
    case Cell::gru:
      return run_gru(r, pass, dtype, plan);
    case Cell::elman_tanh:
    case Cell::elman_relu:
      break;
  }
  return run_elman(r, cell, pass, dtype, plan);
}

std::string last_plan() { return last_plan_run ? describe(*last_plan_run) : ""; }

}  // namespace

void with_workers(double expected, const std::function<void(int)>& work) {
  const int workers = std::min(static_cast<int>(torch::stable::get_num_threads()), processors());
  if (workers <= 1 || crowded()) return work(1);
  crowding.watch(expected, [&] { work(workers); });
}

void backend::plan_and_run(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, const Tensor&,
                           const OnGpu&) {
  Problem problem;
  problem.cell = cell, problem.pass = pass, problem.dtype = dtype, problem.isa = kIsa;
  problem.bf16_dots = has_bf16_dots();
  // Rows that are active, on average: a step takes as long as it has such.
  problem.T = r.T;
  problem.B =
      r.counts && r.T > 0 ? ceil_div(std::accumulate(r.counts, r.counts + r.T, int64_t{0}), r.T) : r.B;
  problem.H = r.units[0], problem.P = r.units[1], problem.G = r.G;
  problem.int8 = r.matrices[0].scales;
  if (pass == Pass::forward) {
    problem.I = r.matrices[ForwardPlaces::kWih].columns;
    problem.initial = r.ends[ForwardPlaces::kH0].data;
  }
  problem.threads = static_cast<int>(torch::stable::get_num_threads());
  problem.processors = processors();
  problem.wishes = wishes;
  problem.crowded = problem.threads > 1 && crowded();
  const Plan chosen = plan(problem);
  const auto run_chosen = [&] { last_plan_run = run(r, cell, pass, dtype, chosen); };
  if (chosen.workers > 1) {
    crowding.watch(chosen.seconds, run_chosen);
  } else {
    run_chosen();
  }
}

}  // namespace rnnfast

STABLE_TORCH_LIBRARY_IMPL(rnnfast, CompositeExplicitAutograd, m) {
  m.impl("last_plan", TORCH_BOX(&rnnfast::last_plan));
  m.impl("wish_plan", TORCH_BOX(&rnnfast::wish_plan));
}
