// The operators on CUDA. (tests/cuda_host registers them in a library of its own, for tensors on the CPU.)
#include "../layer/ops.h"

#ifndef RNNFAST_NAMESPACE
#define RNNFAST_NAMESPACE rnnfast
#define RNNFAST_KEY CUDA
#endif
#define RNNFAST_IMPLEMENT(library, key, m) STABLE_TORCH_LIBRARY_IMPL(library, key, m)

RNNFAST_IMPLEMENT(RNNFAST_NAMESPACE, RNNFAST_KEY, m) {
  m.impl("recurrence", TORCH_BOX(&rnnfast::recurrence));
  m.impl("recurrence_bptt", TORCH_BOX(&rnnfast::recurrence_bptt));
  m.impl("cell", TORCH_BOX(&rnnfast::cell));
}
