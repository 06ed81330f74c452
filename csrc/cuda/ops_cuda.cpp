// The operators on CUDA.
#include "../layer/ops.h"
#include "../library.h"

RNNFAST_IMPLEMENT(RNNFAST_CUDA_KEY, m) {
  m.impl("recurrence", TORCH_BOX(&rnnfast::recurrence));
  m.impl("recurrence_bptt", TORCH_BOX(&rnnfast::recurrence_bptt));
  m.impl("cell", TORCH_BOX(&rnnfast::cell));
}
