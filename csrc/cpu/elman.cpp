#include "../cells/elman.h"

#include "kernels.h"
#include "schedules.h"

namespace rnnfast {

Plan run_elman(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, const Plan& plan) {
  return cell == Cell::elman_relu ? run_cell<Elman<Relu>>(r, pass, dtype, plan)
                                  : run_cell<Elman<Tanh>>(r, pass, dtype, plan);
}

}  // namespace rnnfast
