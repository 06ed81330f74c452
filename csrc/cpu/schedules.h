// From a plan to the schedule that it names.
#pragma once

#include "split.h"

namespace rnnfast {

// Runs a pass of a cell over rows stored as S; returns the plan with what the schedule says it did.
template <class Pass, class S>
Plan run_schedule(const Recurrence& r, Plan plan) {
  if (r.T > 0 && r.B > 0 && r.G > 0)
    Split<Pass, S>(r, plan.workers, plan.crew, plan.weights == WeightLayout::in_place).run();
  plan.tile = tile_of<S>(typename Pass::Phases{});
  plan.tile_columns = plan.tile.vectors * kLanes<S>;
  return plan;
}

template <class Pass>
Plan run_dtype(const Recurrence& r, Dtype dtype, const Plan& plan) {
  return with_storage_type(dtype, [&](auto type) { return run_schedule<Pass, decltype(type)>(r, plan); });
}

// Runs a forward pass or BPTT of a cell.
template <class Cell>
Plan run_cell(const Recurrence& r, Pass pass, Dtype dtype, const Plan& plan) {
  return pass == Pass::forward ? run_dtype<typename Cell::Forward>(r, dtype, plan)
                               : run_dtype<typename Cell::Adjoint>(r, dtype, plan);
}

}  // namespace rnnfast
