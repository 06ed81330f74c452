#include "../cells/lstm.h"

#include "schedules.cuh"

namespace rnnfast::cuda {

cudaError_t run_lstm(const Run& run, Pass pass, Dtype dtype, const CudaPlan& plan) {
  return run_cell<Lstm>(run, pass, dtype, plan);
}

}  // namespace rnnfast::cuda
