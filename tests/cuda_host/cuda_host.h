// Runs the CUDA kernels on the CPU, for tests: what csrc/cuda/primitives.cuh has for a GPU, and CUDA's own
// words.
//
//   c++ -std=c++20 -DRNNFAST_CUDA_HOST -I tests/cuda_host -I <CUDA's headers> -x c++ kernel.cu ...
//   cuda_host.cpp
//
// Each CUDA thread is a fibre; exactly one runs at a time, until it waits for others, and a seeded generator
// (set_seed) draws which is next, so that a schedule can be replayed. Seen as errors of the launch: a barrier
// or a warp's exchange that not all threads come to, and whatever waits for ever. Shared memory starts as NaN
// and is exactly as long as was asked for, which AddressSanitizer watches. Under ThreadSanitizer each CUDA
// thread is a thread of its own, and only CUDA's means of synchronisation order what they do: it reports
// races on shared and on global memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

extern uint3 threadIdx, blockIdx;  // of the thread that runs
extern dim3 blockDim, gridDim;

namespace cuda_host {

// Where a kernel waits: reported if it waits for ever.
struct Place {
  const char* operation;
  const char* file;
  int line;
};

void* shared_memory();
void barrier(const Place& place);
int lane();
// Hands `size` bytes to the other lanes of the warp, waits for theirs, and copies those of one lane.
void exchange(const void* mine, size_t size, int from, void* theirs, const Place& place);
// Lets others run.
void pause(const Place& place);

void set_seed(uint64_t seed);
// The first error of the latest launch; empty if there was none.
const char* last_error();
cudaError_t run(const void* kernel, dim3 blocks, int threads, size_t shared,
                const std::function<void()>& body);

float bits_to_float(uint32_t bits);
// The lane's part of a 16 x 8 product of fragments whose element (lane, register, half) `value` reads.
struct Fragments {
  uint32_t a[4], b[2];
};
enum class Kind { bf16, f16, tf32 };
void multiply(float (&d)[4], const Fragments& mine, Kind kind, const Place& place);

}  // namespace cuda_host

#define CUDA_HOST_PLACE(operation) \
  const cuda_host::Place& place = {operation, __builtin_FILE(), __builtin_LINE()}

namespace rnnfast {

inline void* shared_memory() { return cuda_host::shared_memory(); }

inline void sync_block(CUDA_HOST_PLACE("sync_block")) { cuda_host::barrier(place); }

inline void sync_warp() {}  // lanes go on one by one; exchanges wait for all

template <class T>
T shuffle_xor(T v, int mask, CUDA_HOST_PLACE("shuffle_xor")) {
  T theirs;
  cuda_host::exchange(&v, sizeof v, cuda_host::lane() ^ mask, &theirs, place);
  return theirs;
}

inline float fast_exp(float v) { return std::exp(v); }
inline float fast_quotient(float a, float b) { return a / b; }
inline int opaque(int v) { return v; }

inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], cuda_host::Kind kind,
                CUDA_HOST_PLACE("mma")) {
  cuda_host::Fragments mine;
  std::memcpy(mine.a, a, sizeof a), std::memcpy(mine.b, b, sizeof b);
  cuda_host::multiply(d, mine, kind, place);
}
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16,
                CUDA_HOST_PLACE("mma")) {
  mma(d, a, b, cuda_host::Kind::bf16, place);
}
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half,
                CUDA_HOST_PLACE("mma")) {
  mma(d, a, b, cuda_host::Kind::f16, place);
}
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float,
                CUDA_HOST_PLACE("mma")) {
  mma(d, a, b, cuda_host::Kind::tf32, place);
}

// To nearest, ties away from zero, as cvt.rna does; infinity and NaN stay.
inline float rounded_to_tf32(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & ~0x1fffu;
  return cuda_host::bits_to_float(bits);
}

template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 blocks, int threads, size_t shared, cudaStream_t,
                   const Arguments& arguments) {
  return cuda_host::run(reinterpret_cast<const void*>(kernel), blocks, threads, shared,
                        [&] { kernel(arguments); });
}

}  // namespace rnnfast
