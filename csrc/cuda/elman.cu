#include "../cells/elman.h"

#include "schedules.cuh"

namespace rnnfast::cuda {

cudaError_t run_elman(const Run& run, Cell cell, Pass pass, Dtype dtype, const CudaPlan& plan) {
  return cell == Cell::elman_relu ? run_cell<Elman<Relu>>(run, pass, dtype, plan)
                                  : run_cell<Elman<Tanh>>(run, pass, dtype, plan);
}

}  // namespace rnnfast::cuda
