// The compiled recurrences, one file per cell.
#pragma once

#include "../plan.h"

namespace rnnfast {

// Streams, ends, matrices and vectors stand in the places that Elman<...>::Forward and ::Adjoint name;
// these are the same for every nonlinearity.
// Returns the plan as it was carried out.
Plan run_elman(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, const Plan& plan);

}  // namespace rnnfast
