// csrc/cuda/device.h for kernels that run on the CPU, over torch's tensors there: limits of a GPU that the
// environment names, and products in plain loops where torch's CPU operators have none.
#include "../../csrc/cuda/device.h"

#include <cstdlib>
#include <cstring>

#include "../../csrc/cuda/dispatch.h"
#include "../../csrc/library.h"
#include "cuda_host.h"

namespace rnnfast::cuda {
namespace {

int number(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

float widened(const void* data, int64_t i, bool bf16) {
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(data) + 2 * i, sizeof bits);
  if (bf16) return cuda_host::bits_to_float(static_cast<uint32_t>(bits) << 16);
  __half_raw raw;
  raw.x = bits;
  return __half2float(__half(raw));
}

// A matrix of a batch, 16-bit values to float32.
void multiply_widened(Tensor& to, const Tensor& a, const Tensor& b, int64_t batch) {
  const bool batched = a.dim() == 3, bf16 = a.scalar_type() == torch::headeronly::ScalarType::BFloat16;
  const auto at = [&](const Tensor& t, int64_t i, int64_t j) {
    const int64_t first = batched ? batch * t.stride(0) : 0;
    return first + i * t.stride(batched) + j * t.stride(batched + 1);
  };
  for (int64_t i = 0; i < a.size(batched); ++i)
    for (int64_t j = 0; j < b.size(batched + 1); ++j) {
      float sum = 0;
      for (int64_t k = 0; k < a.size(batched + 1); ++k)
        sum += widened(a.data_ptr(), at(a, i, k), bf16) * widened(b.data_ptr(), at(b, k, j), bf16);
      static_cast<float*>(to.data_ptr())[at(to, i, j)] = sum;
    }
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

void multiply(Tensor& to, const Tensor& a, const Tensor& b) {
  if (to.scalar_type() == a.scalar_type())
    return call(a.dim() == 2 ? "aten::mm" : "aten::bmm", "out", a, b, to);
  for (int64_t batch = 0; batch < (a.dim() == 3 ? a.size(0) : 1); ++batch) multiply_widened(to, a, b, batch);
}

}  // namespace rnnfast::cuda

namespace {
void set_seed(int64_t seed) { cuda_host::set_seed(static_cast<uint64_t>(seed)); }
}  // namespace

RNNFAST_FRAGMENT(m) { m.def("set_seed(int seed) -> ()"); }
RNNFAST_IMPLEMENT(CompositeExplicitAutograd, m) { m.impl("set_seed", TORCH_BOX(&set_seed)); }
