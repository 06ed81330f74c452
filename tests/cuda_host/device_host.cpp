// csrc/cuda/device.h for kernels that run on the CPU, over torch's tensors there: limits of a GPU that the
// environment names, and cuBLAS in plain loops.
#include "../../csrc/cuda/device.h"

#include <cstdlib>
#include <cstring>

#include "../../csrc/library.h"
#include "cuda_host.h"

namespace rnnfast::cuda {
namespace {

int number(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

// To 10 bits of mantissa, the nearest.
float as_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return cuda_host::bits_to_float((bits + 0x1000) & ~0x1fffu);
}

Blas::Math math = Blas::in_full;

int set_math(void*, Blas::Math wanted) {
  math = wanted;
  return 0;
}

float factor(const float* matrix, Blas::Operation operation, int64_t columns, int64_t i, int64_t j) {
  const float value = operation == Blas::transposed ? matrix[i * columns + j] : matrix[j * columns + i];
  return math == Blas::tf32 ? as_tf32(value) : value;
}

int gemm(void*, Blas::Operation of_a, Blas::Operation of_b, int64_t m, int64_t n, int64_t k,
         const float* alpha, const float* a, int64_t a_columns, const float* b, int64_t b_columns,
         const float* beta, float* c, int64_t c_columns) {
  const int64_t a_rows = of_a == Blas::transposed ? k : m, b_rows = of_b == Blas::transposed ? n : k;
  if (m < 1 || n < 1 || k < 1 || a_columns < a_rows || b_columns < b_rows || c_columns < m || *beta != 0)
    return 7;  // CUBLAS_STATUS_INVALID_VALUE
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < m; ++i) {
      float sum = 0;
      for (int64_t l = 0; l < k; ++l)
        sum += factor(a, of_a, a_columns, i, l) * factor(b, of_b, b_columns, l, j);
      c[j * c_columns + i] = *alpha * sum;
    }
  return 0;
}

int gemm_batched(void* handle, Blas::Operation of_a, Blas::Operation of_b, int64_t m, int64_t n, int64_t k,
                 const float* alpha, const float* a, int64_t a_columns, long long a_next, const float* b,
                 int64_t b_columns, long long b_next, const float* beta, float* c, int64_t c_columns,
                 long long c_next, int64_t batch) {
  int failed = 0;
  for (int64_t i = 0; i < batch && !failed; ++i)
    failed = gemm(handle, of_a, of_b, m, n, k, alpha, a + i * a_next, a_columns, b + i * b_next, b_columns,
                  beta, c + i * c_next, c_columns);
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

std::optional<Blas> blas() { return Blas{&math, set_math, gemm, gemm_batched}; }

}  // namespace rnnfast::cuda

namespace {
void set_seed(int64_t seed) { cuda_host::set_seed(static_cast<uint64_t>(seed)); }
}  // namespace

RNNFAST_FRAGMENT(m) { m.def("set_seed(int seed) -> ()"); }
RNNFAST_IMPLEMENT(CompositeExplicitAutograd, m) { m.impl("set_seed", TORCH_BOX(&set_seed)); }
