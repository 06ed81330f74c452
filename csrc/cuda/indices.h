// Numbers from the host in a tensor on the GPU.
#pragma once

#include <vector>

#include "device.h"

namespace rnnfast::cuda {

inline Tensor indices(const std::vector<int64_t>& numbers, const Tensor& like) {
  Tensor out = empty_contiguous({static_cast<int64_t>(numbers.size())}, like, aoti_torch_dtype_int64());
  const OnDevice on_device(device_index_of(like));
  const cudaStream_t stream = stream_of(device_index_of(like));
  require(!is_captured(stream), "batch_sizes: packed sequences cannot be trained within a CUDA graph");
  // From pageable memory: what is copied has been read when the call returns.
  const cudaError_t error = cudaMemcpyAsync(out.data_ptr(), numbers.data(), numbers.size() * sizeof(int64_t),
                                            cudaMemcpyHostToDevice, stream);
  require(error == cudaSuccess, "CUDA: cannot copy batch sizes: ", cudaGetErrorString(error));
  return out;
}

}  // namespace rnnfast::cuda
