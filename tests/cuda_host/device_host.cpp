// csrc/cuda/device.h for kernels that run on the CPU, over torch's tensors there: limits of a GPU that the
// environment names, and cuBLAS in plain loops.
#include "../../csrc/cuda/device.h"

#include <cstdlib>
#include <cstring>

#include "../../csrc/cuda/values.cuh"
#include "../../csrc/library.h"
#include "cuda_host.h"

namespace rnnfast::cuda {
namespace {

int number(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

Blas::Math math = Blas::in_full;

int set_math(void*, Blas::Math wanted) {
  math = wanted;
  return 0;
}

// To 10 bits of mantissa, the nearest.
float as_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return cuda_host::bits_to_float((bits + 0x1000) & ~0x1fffu);
}

double value_at(const void* values, cudaDataType type, int64_t i) {
  if (type == CUDA_R_64F) return static_cast<const double*>(values)[i];
  if (type == CUDA_R_16F) return widened(static_cast<const __half*>(values)[i]);
  if (type == CUDA_R_16BF) return widened(static_cast<const __nv_bfloat16*>(values)[i]);
  const float value = static_cast<const float*>(values)[i];
  return math == Blas::tf32 ? as_tf32(value) : value;
}

void put_at(void* values, cudaDataType type, int64_t i, double value) {
  if (type == CUDA_R_64F) {
    static_cast<double*>(values)[i] = value;
  } else if (type == CUDA_R_16F) {
    static_cast<__half*>(values)[i] = narrowed<__half>(static_cast<float>(value));
  } else if (type == CUDA_R_16BF) {
    static_cast<__nv_bfloat16*>(values)[i] = narrowed<__nv_bfloat16>(static_cast<float>(value));
  } else {
    static_cast<float*>(values)[i] = static_cast<float>(value);
  }
}

int64_t bytes_of(cudaDataType type) { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }

int gemm(void*, Blas::Operation of_a, Blas::Operation of_b, int64_t m, int64_t n, int64_t k,
         const void* alpha, const void* a, cudaDataType a_type, int64_t a_columns, const void* b,
         cudaDataType b_type, int64_t b_columns, const void* beta, void* c, cudaDataType c_type,
         int64_t c_columns, Blas::Compute compute, Blas::Algorithm) {
  const bool wide = compute == Blas::in_64_bits;
  const auto scalar = [&](const void* p) {
    return wide ? *static_cast<const double*>(p) : *static_cast<const float*>(p);
  };
  const int64_t a_rows = of_a == Blas::transposed ? k : m, b_rows = of_b == Blas::transposed ? n : k;
  if (m < 1 || n < 1 || k < 1 || a_columns < a_rows || b_columns < b_rows || c_columns < m ||
      scalar(beta) != 0 || wide != (a_type == CUDA_R_64F) || a_type != b_type ||
      (c_type != a_type && c_type != CUDA_R_32F))
    return 7;  // CUBLAS_STATUS_INVALID_VALUE
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < m; ++i) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l)
        sum += value_at(a, a_type, of_a == Blas::transposed ? i * a_columns + l : l * a_columns + i) *
               value_at(b, b_type, of_b == Blas::transposed ? l * b_columns + j : j * b_columns + l);
      put_at(c, c_type, j * c_columns + i, scalar(alpha) * sum);
    }
  return 0;
}

int gemm_batched(void* handle, Blas::Operation of_a, Blas::Operation of_b, int64_t m, int64_t n, int64_t k,
                 const void* alpha, const void* a, cudaDataType a_type, int64_t a_columns, long long a_next,
                 const void* b, cudaDataType b_type, int64_t b_columns, long long b_next, const void* beta,
                 void* c, cudaDataType c_type, int64_t c_columns, long long c_next, int64_t batch,
                 Blas::Compute compute, Blas::Algorithm algorithm) {
  const auto matrix = [](const void* p, cudaDataType type, long long next, int64_t i) {
    return static_cast<const char*>(p) + i * next * bytes_of(type);
  };
  int failed = 0;
  for (int64_t i = 0; i < batch && !failed; ++i)
    failed = gemm(handle, of_a, of_b, m, n, k, alpha, matrix(a, a_type, a_next, i), a_type, a_columns,
                  matrix(b, b_type, b_next, i), b_type, b_columns, beta,
                  const_cast<char*>(matrix(c, c_type, c_next, i)), c_type, c_columns, compute, algorithm);
  return failed;
}

}  // namespace

struct OnDevice::Guard {};
OnDevice::OnDevice(int32_t) {}
OnDevice::~OnDevice() = default;

DeviceLimits limits_of(int32_t) {
  return {number("CUDA_HOST_CAPABILITY", 90),
          number("CUDA_HOST_MULTIPROCESSORS", 48),
          number("CUDA_HOST_SHARED_MEMORY", 232448),
          {24, 12, 6, 3}};
}
cudaStream_t stream_of(int32_t) { return nullptr; }
bool is_captured(cudaStream_t) { return number("CUDA_HOST_CAPTURED", 0) != 0; }

std::optional<Blas> blas() {
  if (number("CUDA_HOST_BLAS", 1) == 0) return std::nullopt;
  return Blas{&math, set_math, gemm, gemm_batched};
}

}  // namespace rnnfast::cuda

namespace {
void set_seed(int64_t seed) { cuda_host::set_seed(static_cast<uint64_t>(seed)); }
}  // namespace

RNNFAST_FRAGMENT(m) { m.def("set_seed(int seed) -> ()"); }
RNNFAST_IMPLEMENT(CompositeExplicitAutograd, m) { m.impl("set_seed", TORCH_BOX(&set_seed)); }
