// The GPU that tensors are on, through CUDA's runtime and what torch has loaded.
#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

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

// The cuBLAS that torch has loaded, for the present device and torch's present stream; matrices lie by
// columns there.
struct Blas {
  enum Operation { as_it_is = 0, transposed = 1 };    // cublasOperation_t
  enum Compute { in_32_bits = 68, in_64_bits = 70 };  // cublasComputeType_t
  enum Algorithm { by_default = -1 };                 // cublasGemmAlgo_t
  // cublasMath_t: 16-bit values are added up in 32 bits, all of them. Torch sets its own for its products.
  enum Math { in_full = 16, tf32 = 3 };

  void* handle = nullptr;
  int (*set_math)(void* handle, Math math) = nullptr;
  // c (m, n) = alpha a (m, k) b (k, n) + beta c, with types and the distance between columns of each; of
  // batches, also that between matrices.
  int (*gemm)(void* handle, Operation of_a, Operation of_b, int64_t m, int64_t n, int64_t k,
              const void* alpha, const void* a, cudaDataType a_type, int64_t a_columns, const void* b,
              cudaDataType b_type, int64_t b_columns, const void* beta, void* c, cudaDataType c_type,
              int64_t c_columns, Compute compute, Algorithm algorithm) = nullptr;
  int (*gemm_batched)(void* handle, Operation of_a, Operation of_b, int64_t m, int64_t n, int64_t k,
                      const void* alpha, const void* a, cudaDataType a_type, int64_t a_columns,
                      long long a_next, const void* b, cudaDataType b_type, int64_t b_columns,
                      long long b_next, const void* beta, void* c, cudaDataType c_type, int64_t c_columns,
                      long long c_next, int64_t batch, Compute compute, Algorithm algorithm) = nullptr;
};

// Nothing where torch has none that is as new as that of CUDA 12.
std::optional<Blas> blas();

}  // namespace rnnfast::cuda
