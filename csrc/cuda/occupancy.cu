// What fits a GPU, asked with a kernel that does nothing.
#include "crew_shape.h"
#include "kernels.h"
#include "primitives.cuh"

namespace rnnfast::cuda {
namespace {

__global__ void __launch_bounds__(CrewShape::kThreads, 1) idle_kernel() {}

}  // namespace

int clusters_at_once(int size, int64_t shared_memory) {
  int count = 0;
  const void* kernel = reinterpret_cast<const void*>(idle_kernel);
  const bool allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess &&
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared_memory)) == cudaSuccess;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(size), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(size)), config.blockDim = dim3(CrewShape::kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_memory);
  config.attrs = &attribute, config.numAttrs = 1;
  if (allowed && cudaOccupancyMaxActiveClusters(&count, kernel, &config) == cudaSuccess) return count;
  (void)cudaGetLastError();  // there are no clusters of that size
  return 0;
}

}  // namespace rnnfast::cuda
