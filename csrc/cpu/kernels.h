// The compiled recurrences, one file per cell.
#pragma once

#include "../plan.h"

namespace rnnfast {

// Streams, ends, matrices and vectors stand in the places that Elman<...>::Forward and ::Adjoint name.
void run_elman(const Recurrence& r, Pass pass, bool relu, Dtype dtype, int workers);

}  // namespace rnnfast
