// Planning an operator's recurrence and running it.
#pragma once

#include <functional>

#include "kernels.h"

namespace rnnfast {

// Runs by the plan for this machine, torch's present number of threads and the calling thread's wishes.
void plan_and_run(const Recurrence& r, Cell cell, Pass pass, Dtype dtype);

// Does work with as many workers as there are threads and processors for; with one while the processors are
// busy with other programs, which is seen from how long it takes beyond the seconds expected.
void with_workers(double expected, const std::function<void(int)>& work);

}  // namespace rnnfast
