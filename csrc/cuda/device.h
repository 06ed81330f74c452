// The GPU that tensors are on, through the driver's runtime and torch's operators.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <optional>

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

// The cuBLAS that torch has loaded, for its present stream; matrices lie by columns there.
struct Blas {
  enum Operation { as_it_is = 0, transposed = 1 };  // cublasOperation_t
  enum Math { in_full = 0, tf32 = 3 };  // cublasMath_t; torch sets its own at each of its products

  void* handle = nullptr;
  int (*set_math)(void* handle, Math math) = nullptr;
  // c (m, n) = alpha a (m, k) b (k, n) + beta c, with the distance between columns of each; of batches, also
  // that between matrices.
  int (*gemm)(void* handle, Operation of_a, Operation of_b, int64_t m, int64_t n, int64_t k,
              const float* alpha, const float* a, int64_t a_columns, const float* b, int64_t b_columns,
              const float* beta, float* c, int64_t c_columns) = nullptr;
  int (*gemm_batched)(void* handle, Operation of_a, Operation of_b, int64_t m, int64_t n, int64_t k,
                      const float* alpha, const float* a, int64_t a_columns, long long a_next, const float* b,
                      int64_t b_columns, long long b_next, const float* beta, float* c, int64_t c_columns,
                      long long c_next, int64_t batch) = nullptr;
};

// Nothing where torch has none that is as new as that of CUDA 12.
std::optional<Blas> blas();

}  // namespace rnnfast::cuda
