#include "../cells/lstm.h"

#include "kernels.h"
#include "schedules.h"

namespace rnnfast {

Plan run_lstm(const Recurrence& r, Pass pass, Dtype dtype, const Plan& plan) {
  const bool projected = r.matrices[ForwardPlaces::kWhr].data;
  return projected ? run_cell<ProjectedLstm>(r, pass, dtype, plan) : run_cell<Lstm>(r, pass, dtype, plan);
}

}  // namespace rnnfast
