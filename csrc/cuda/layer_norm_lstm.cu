#include "../cells/layer_norm_lstm.h"

#include "schedules.cuh"

namespace rnnfast::cuda {

cudaError_t run_layer_norm_lstm(const Run& run, Pass pass, Dtype dtype, const CudaPlan& plan) {
  return run_cell<LayerNormLstm>(run, pass, dtype, plan);
}

}  // namespace rnnfast::cuda
