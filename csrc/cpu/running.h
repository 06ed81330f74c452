// Planning an operator's recurrence and running it.
#pragma once

#include "kernels.h"

namespace rnnfast {

// Runs by the plan for this machine, torch's present number of threads and the calling thread's wishes.
// initial: whether there is an initial state.
void plan_and_run(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, bool initial);

}  // namespace rnnfast
