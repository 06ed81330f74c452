#include "../cells/lstm.h"

#include "schedules.cuh"

namespace rnnfast::cuda {

cudaError_t run_projected_lstm(const Run& run, Pass pass, Dtype dtype, const CudaPlan& plan) {
  return run_cell<ProjectedLstm>(run, pass, dtype, plan);
}

}  // namespace rnnfast::cuda
