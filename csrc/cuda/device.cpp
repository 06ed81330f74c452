#include "device.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <mutex>
#include <vector>

#include "kernels.h"

namespace rnnfast::cuda {
namespace {

void succeed(cudaError_t error, const char* what) {
  require(error == cudaSuccess, "CUDA: ", what, ": ", cudaGetErrorString(error));
}

int attribute(cudaDeviceAttr which, int32_t device) {
  int value = 0;
  succeed(cudaDeviceGetAttribute(&value, which, device), "cannot ask the device for its limits");
  return value;
}

// A function of libtorch_cuda, or of what that has loaded; null where there is none of the name. At run time,
// since a build against a CPU torch cannot link to it.
template <class Function>
void find(const char* name, Function& function) {
  static void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  function = reinterpret_cast<Function>(dlsym(library ? library : RTLD_DEFAULT, name));
}

// The stable ABI has the handle of a stream only from torch 2.13 on; this one is older.
using StreamFunction = AOTITorchError (*)(int32_t device, void** stream);

StreamFunction stream_function() {
  static const StreamFunction function = [] {
    StreamFunction found = nullptr;
    find("aoti_torch_get_current_cuda_stream", found);
    return found;
  }();
  return function;
}

struct BlasFunctions {
  BlasFunctions() {
    find("torch_get_current_cuda_blas_handle", handle);
    find("cublasSetMathMode", blas.set_math);
    find("cublasGemmEx_64", blas.gemm);
    find("cublasGemmStridedBatchedEx_64", blas.gemm_batched);
  }

  AOTITorchError (*handle)(void** handle) = nullptr;
  Blas blas;
};

}  // namespace

// torch's own, and the runtime's that is linked into this library.
struct OnDevice::Guard {
  explicit Guard(int32_t device) : torchs(device) {
    succeed(cudaGetDevice(&before), "cannot tell the current device");
    if (before != device) succeed(cudaSetDevice(device), "cannot set the device");
  }
  ~Guard() { cudaSetDevice(before); }

  torch::stable::accelerator::DeviceGuard torchs;
  int before = 0;
};

OnDevice::OnDevice(int32_t device) : guard_(std::make_unique<Guard>(device)) {}
OnDevice::~OnDevice() = default;

DeviceLimits limits_of(int32_t device) {
  static std::mutex mutex;
  static std::vector<DeviceLimits> known;
  const std::lock_guard lock(mutex);
  if (static_cast<size_t>(device) >= known.size()) known.resize(device + 1);
  DeviceLimits& limits = known[device];
  if (limits.capability == 0) {
    limits.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
    limits.shared_memory = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    limits.capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                        attribute(cudaDevAttrComputeCapabilityMinor, device);
    const OnDevice on_device(device);
    for (int i = 0; i < DeviceLimits::kClusterSizes && attribute(cudaDevAttrClusterLaunch, device); ++i)
      limits.clusters[i] = clusters_at_once(DeviceLimits::cluster_size(i), limits.shared_memory);
  }
  return limits;
}

cudaStream_t stream_of(int32_t device) {
  const StreamFunction current = stream_function();
  require(current, "rnnfast: torch's libtorch_cuda.so is not loaded, or has no current stream to tell");
  void* stream = nullptr;
  require(current(device, &stream) == AOTI_TORCH_SUCCESS, "torch has no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  succeed(cudaStreamIsCapturing(stream, &status), "cannot tell whether a graph is captured");
  return status != cudaStreamCaptureStatusNone;
}

std::optional<Blas> blas() {
  static const BlasFunctions functions;
  Blas found = functions.blas;
  if (!functions.handle || !found.set_math || !found.gemm || !found.gemm_batched) return std::nullopt;
  require(functions.handle(&found.handle) == AOTI_TORCH_SUCCESS, "torch has no handle of cuBLAS");
  return found;
}

}  // namespace rnnfast::cuda
