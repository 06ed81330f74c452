#include "../cells/elman.h"

#include "schedules.cuh"

namespace rnnfast::cuda {

cudaError_t run_elman(const Run& run, Cell cell, Pass pass, Dtype dtype, const CudaPlan& plan) {
  Run own = run;
  own.recurrence.relu = cell == Cell::elman_relu;
  return run_cell<Elman<TanhOrRelu>>(own, pass, dtype, plan);
}

}  // namespace rnnfast::cuda
