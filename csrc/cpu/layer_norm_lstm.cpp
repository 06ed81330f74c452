#include "../cells/layer_norm_lstm.h"

#include "kernels.h"
#include "schedules.h"

namespace rnnfast {

Plan run_layer_norm_lstm(const Recurrence& r, Pass pass, Dtype dtype, const Plan& plan) {
  return run_cell<LayerNormLstm>(r, pass, dtype, plan);
}

}  // namespace rnnfast
