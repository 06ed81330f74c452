#include "../cells/elman.h"

#include "batch_split.h"
#include "kernels.h"

namespace rnnfast {
namespace {

template <class Pass>
void run(const Recurrence& r, Dtype dtype, int workers) {
  switch (dtype) {
    case Dtype::f32:
      return batch_split::run<Pass, float>(r, workers);
    case Dtype::f64:
      return batch_split::run<Pass, double>(r, workers);
    case Dtype::bf16:
      return batch_split::run<Pass, bf16>(r, workers);
    case Dtype::f16:
      return batch_split::run<Pass, f16>(r, workers);
  }
}

}  // namespace

void run_elman(const Recurrence& r, Pass pass, bool relu, Dtype dtype, int workers) {
  if (pass == Pass::forward) {
    relu ? run<Elman<Relu>::Forward>(r, dtype, workers) : run<Elman<Tanh>::Forward>(r, dtype, workers);
  } else {
    relu ? run<Elman<Relu>::Adjoint>(r, dtype, workers) : run<Elman<Tanh>::Adjoint>(r, dtype, workers);
  }
}

}  // namespace rnnfast
