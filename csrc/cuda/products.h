// Products of matrices around a recurrence, and of its steps.
#pragma once

#include <optional>

#include "../layer/tensors.h"

namespace rnnfast::cuda {

// to = a b, for matrices or batches of them, where `to` has contiguous rows; of 16-bit values also to
// float32. tf32: whether float32 may be rounded to TF32; absent: as torch's own products are set.
void multiply(Tensor& to, const Tensor& a, const Tensor& b, std::optional<bool> tf32);

}  // namespace rnnfast::cuda
