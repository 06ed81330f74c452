// The compiled recurrences, one file per cell.
#pragma once

#include "../plan.h"

namespace rnnfast {

// Runs a pass of a cell over arrays in the places of cells/cell.h; returns the plan as it was carried out.
Plan run_elman(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, const Plan& plan);
Plan run_lstm(const Recurrence& r, Pass pass, Dtype dtype, const Plan& plan);
Plan run_layer_norm_lstm(const Recurrence& r, Pass pass, Dtype dtype, const Plan& plan);
Plan run_gru(const Recurrence& r, Pass pass, Dtype dtype, const Plan& plan);

}  // namespace rnnfast
