// Planning an operator's recurrence and running it.
#pragma once

#include <functional>

#include "kernels.h"

namespace rnnfast {

// Runs by the plan for this machine, torch's present number of threads and the calling thread's wishes.
// initial: whether there is an initial state.
void plan_and_run(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, bool initial);

// Whether to do everything in the calling thread, the processors being busy with other programs.
bool crowded();

// Does work that torch spreads over its threads, expected to take so many seconds, and sees whether it is.
void watched(double expected, const std::function<void()>& work);

}  // namespace rnnfast
