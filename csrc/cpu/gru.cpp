#include "../cells/gru.h"

#include "kernels.h"
#include "schedules.h"

namespace rnnfast {

Plan run_gru(const Recurrence& r, Pass pass, Dtype dtype, const Plan& plan) {
  return run_cell<Gru>(r, pass, dtype, plan);
}

}  // namespace rnnfast
