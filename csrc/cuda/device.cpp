#include "device.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <mutex>
#include <vector>

#include "dispatch.h"
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

// The stable ABI has the handle of a stream only from torch 2.13 on; this function of libtorch_cuda is older.
// It is found at run time, since a build against a CPU torch cannot link to it.
using StreamFunction = AOTITorchError (*)(int32_t device, void** stream);

StreamFunction stream_function() {
  static const StreamFunction function = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* found = dlsym(library ? library : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream");
    return reinterpret_cast<StreamFunction>(found);
  }();
  return function;
}

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

void multiply(Tensor& to, const Tensor& a, const Tensor& b) {
  const char* name = a.dim() == 2 ? "aten::mm" : "aten::bmm";
  if (to.scalar_type() == a.scalar_type()) {
    call(name, "out", a, b, to);
  } else {
    call(name, "dtype_out", a, b, to.scalar_type(), to);
  }
}

}  // namespace rnnfast::cuda
