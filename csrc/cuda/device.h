// The GPU that tensors are on, through the driver's runtime and torch's operators.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "../layer/tensors.h"
#include "plan_cuda.h"

namespace rnnfast::cuda {

// Makes a device the current one while it lives.
class OnDevice {
 public:
  explicit OnDevice(int32_t device);
  ~OnDevice();

 private:
  struct Guard;
  std::unique_ptr<Guard> guard_;
};

DeviceLimits limits_of(int32_t device);
// torch's present stream.
cudaStream_t stream_of(int32_t device);
// Whether what is launched goes into a CUDA graph.
bool is_captured(cudaStream_t stream);

// to = a b, for matrices or batches of them; of 16-bit values also to float32.
void multiply(Tensor& to, const Tensor& a, const Tensor& b);

}  // namespace rnnfast::cuda
