// Small kernels, right and wrong, that show what the harness sees: `self KERNEL SEED` prints what came of
// one.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "cuda/primitives.cuh"

using namespace rnnfast;

namespace {

constexpr int kThreads = 64;

struct Arguments {
  float* out;
  unsigned* flag;
  bool wrong;
};

// Each thread adds up what all have put into shared memory. Wrong: without waiting for them.
__global__ void sum_kernel(const Arguments a) {
  float* values = static_cast<float*>(shared_memory());
  values[threadIdx.x] = 1;
  if (!a.wrong) sync_block();
  float sum = 0;
  for (int i = 0; i < kThreads; ++i) sum += values[(threadIdx.x + i) % kThreads];
  a.out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

// The second block reads what the first wrote before it raised a flag. Wrong: the flag is no release.
__global__ void flag_kernel(const Arguments a) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    a.out[0] = 1;
    __atomic_store_n(a.flag, 1u, a.wrong ? __ATOMIC_RELAXED : __ATOMIC_RELEASE);
  } else {
    const cuda_host::Place place = {"the flag", __FILE__, __LINE__};
    while (__atomic_load_n(a.flag, __ATOMIC_ACQUIRE) == 0) cuda_host::pause(place);
    a.out[kThreads] = a.out[0];
  }
}

// Wrong: a flag that nobody raises.
__global__ void waiting_kernel(const Arguments a) {
  const cuda_host::Place place = {"a flag", __FILE__, __LINE__};
  while (a.wrong && __atomic_load_n(a.flag, __ATOMIC_ACQUIRE) == 0) cuda_host::pause(place);
}

// Wrong: one thread has gone home.
__global__ void barrier_kernel(const Arguments a) {
  if (a.wrong && threadIdx.x == 7) return;
  sync_block();
}

// Wrong: half of the threads wait at another barrier.
__global__ void two_barriers_kernel(const Arguments a) {
  if (a.wrong && threadIdx.x < 32) {
    sync_block();
  } else {
    sync_block();
  }
}

// Wrong: half of the warp.
__global__ void shuffle_kernel(const Arguments a) {
  float v = static_cast<float>(threadIdx.x);
  if (!a.wrong || threadIdx.x % 32 < 16) v = shuffle_xor(v, 1);
  a.out[blockIdx.x * kThreads + threadIdx.x] = v;
}

// Wrong: one value beyond what was asked for.
__global__ void overrun_kernel(const Arguments a) {
  float* values = static_cast<float*>(shared_memory());
  values[threadIdx.x + (a.wrong && threadIdx.x == kThreads - 1)] = 1;
}

using Kernel = void (*)(Arguments);

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const std::map<std::string, Kernel> kernels{
      {"sum", sum_kernel},         {"flag", flag_kernel},       {"waiting", waiting_kernel},
      {"barrier", barrier_kernel}, {"shuffle", shuffle_kernel}, {"two_barriers", two_barriers_kernel},
      {"overrun", overrun_kernel}};
  cuda_host::set_seed(std::strtoull(argv[3], nullptr, 10));
  std::vector<float> out(2 * kThreads, -1);
  unsigned flag = 0;
  const cudaError_t error = launch(kernels.at(argv[1]), dim3(2), kThreads, kThreads * sizeof(float), nullptr,
                                   Arguments{out.data(), &flag, std::string(argv[2]) == "wrong"});
  if (error != cudaSuccess) {
    std::printf("%s\n", cuda_host::last_error());
    return 1;
  }
  for (int i = 0; i < kThreads && std::string(argv[1]) == "sum"; ++i)
    if (!(out[i] == kThreads)) {
      std::printf("wrong sum\n");
      return 1;
    }
  std::printf("fine\n");
  return 0;
}
