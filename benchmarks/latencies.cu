// What a step of a recurrence may cost on a GPU where CTAs wait for each other, or kernels for kernels:
//
//   nvcc -std=c++17 -O3 -arch=sm_90a latencies.cu -o latencies && ./latencies
//
// prints, in microseconds: a flag through distributed shared memory, there and back; a barrier of a cluster
// of 2, 8 and 16; a flag through L2, there and back; a barrier of the grid with a CTA on each multiprocessor;
// a launch of an empty kernel after another in a CUDA graph.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace cg = cooperative_groups;

namespace {

constexpr int kRounds = 2000, kRepeats = 15;

void succeed(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

__device__ unsigned at_shared(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// The two CTAs of a cluster hand a number back and forth through each other's shared memory.
__global__ void shared_flag(int rounds) {
  __shared__ volatile unsigned flag;
  cg::cluster_group cluster = cg::this_cluster();
  flag = 0;
  cluster.sync();
  const unsigned rank = cluster.block_rank();
  unsigned remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(remote)
               : "r"(at_shared((void*)&flag)), "r"(1 - rank));
  for (unsigned i = 1; threadIdx.x == 0 && i <= static_cast<unsigned>(rounds); ++i) {
    const auto give = [&] {
      asm volatile("st.release.cluster.shared::cluster.u32 [%0], %1;" ::"r"(remote), "r"(i) : "memory");
    };
    if (rank == 0) give();
    unsigned seen = 0;
    while (seen < i)
      asm volatile("ld.acquire.cluster.shared::cluster.u32 %0, [%1];"
                   : "=r"(seen)
                   : "r"(at_shared((void*)&flag))
                   : "memory");
    if (rank == 1) give();
  }
  cluster.sync();
}

__global__ void cluster_barrier(int rounds) {
  cg::cluster_group cluster = cg::this_cluster();
  for (int i = 0; i < rounds; ++i) cluster.sync();
}

// Two CTAs hand a number back and forth through global memory.
__global__ void global_flag(unsigned* flags, int rounds) {
  for (unsigned i = 1; threadIdx.x == 0 && i <= static_cast<unsigned>(rounds); ++i) {
    unsigned* theirs = flags + 64 * (1 - blockIdx.x);
    unsigned* mine = flags + 64 * blockIdx.x;
    const auto give = [&] { asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(theirs), "r"(i) : "memory"); };
    if (blockIdx.x == 0) give();
    unsigned seen = 0;
    while (seen < i) asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(seen) : "l"(mine) : "memory");
    if (blockIdx.x == 1) give();
  }
}

__global__ void grid_barrier(int rounds) {
  for (int i = 0; i < rounds; ++i) cg::this_grid().sync();
}

__global__ void empty() {}

// The median of some runs, in microseconds.
template <class Run>
double microseconds(Run&& run) {
  cudaEvent_t begin, end;
  succeed(cudaEventCreate(&begin), "event"), succeed(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < kRepeats; ++i) {
    succeed(cudaEventRecord(begin), "event");
    run();
    succeed(cudaEventRecord(end), "event");
    succeed(cudaEventSynchronize(end), "run");
    float ms = 0;
    succeed(cudaEventElapsedTime(&ms, begin, end), "event");
    times.push_back(ms);
  }
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return 1e3 * times[kRepeats / 2];
}

template <class... Argument>
void launch(void (*kernel)(Argument...), int blocks, int cluster, bool cooperative, Argument... arguments) {
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks), config.blockDim = dim3(128), config.attrs = attributes;
  if (cluster > 1) {
    if (cluster > 8)
      succeed(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
              "cluster size");
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  }
  if (cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  succeed(cudaLaunchKernelEx(&config, kernel, arguments...), "launch");
}

double graph_of_launches() {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t runnable;
  succeed(cudaStreamCreate(&stream), "stream");
  succeed(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  for (int i = 0; i < kRounds; ++i) empty<<<1, 32, 0, stream>>>();
  succeed(cudaStreamEndCapture(stream, &graph), "capture");
  succeed(cudaGraphInstantiate(&runnable, graph, 0), "graph");
  return microseconds([&] { succeed(cudaGraphLaunch(runnable, nullptr), "graph"); }) / kRounds;
}

}  // namespace

int main() {
  cudaDeviceProp device;
  succeed(cudaGetDeviceProperties(&device, 0), "no GPU");
  std::printf("{\"device\": \"%s\"", device.name);
  const auto say = [](const char* what, double value) { std::printf(", \"%s\": %.3f", what, value); };
  say("DSMEM flag, there and back",
      microseconds([] { launch(shared_flag, 2, 2, false, kRounds); }) / kRounds);
  for (const int size : {2, 8, 16}) {
    char name[64];
    std::snprintf(name, sizeof name, "cluster barrier, %d CTAs", size);
    say(name, microseconds([&] { launch(cluster_barrier, size, size, false, kRounds); }) / kRounds);
  }
  unsigned* flags = nullptr;
  succeed(cudaMalloc(&flags, 1024), "memory");
  say("L2 flag, there and back", microseconds([&] {
                                   succeed(cudaMemsetAsync(flags, 0, 1024), "memory");
                                   launch(global_flag, 2, 1, true, flags, kRounds);
                                 }) / kRounds);
  say("grid barrier, a CTA on each multiprocessor",
      microseconds([&] { launch(grid_barrier, device.multiProcessorCount, 1, true, kRounds); }) / kRounds);
  say("launch in a graph", graph_of_launches());
  std::printf("}\n");
  return 0;
}
