#include "../cells/gru.h"

#include "schedules.cuh"

namespace rnnfast::cuda {

cudaError_t run_gru(const Run& run, Pass pass, Dtype dtype, const CudaPlan& plan) {
  return run_cell<Gru>(run, pass, dtype, plan);
}

}  // namespace rnnfast::cuda
