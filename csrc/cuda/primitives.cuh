// What the kernels need of CUDA, each thing under one name. tests/cuda_host has the same names for kernels
// that run on the CPU.
#pragma once

#include <cstdint>

#if defined(RNNFAST_CUDA_HOST)
#include "cuda_host.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace rnnfast {

__device__ __forceinline__ void* shared_memory() {
  extern __shared__ __align__(128) unsigned char bytes[];
  return bytes;
}

__device__ __forceinline__ void sync_block() { __syncthreads(); }

// All lanes of the warp go on together.
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

template <class T>
__device__ __forceinline__ T shuffle_xor(T v, int mask) {
  return __shfl_xor_sync(0xffffffffu, v, mask);
}

__device__ __forceinline__ float fast_exp(float v) { return __expf(v); }
__device__ __forceinline__ float fast_quotient(float a, float b) { return __fdividef(a, b); }

// v, of which the compiler knows nothing: what is computed from it in a loop is computed in the loop, rather
// than before it and kept in registers.
__device__ __forceinline__ int opaque(int v) {
  asm volatile("" : "+r"(v));
  return v;
}

// d += a b, of 16 x k and k x 8 matrices over the lanes of a warp, as the PTX manual lays out the fragments
// of mma.m16n8k16 (16-bit values) and mma.m16n8k8 (TF32). They need sm_80.
#define RNNFAST_MMA(instruction)                                                  \
  asm volatile("mma.sync.aligned." instruction                                    \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    __nv_bfloat16) {
  RNNFAST_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half) {
  RNNFAST_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float) {
  RNNFAST_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef RNNFAST_MMA

__device__ __forceinline__ float rounded_to_tf32(float v) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return __uint_as_float(bits);
}

// Launches a kernel of one argument.
template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 blocks, int threads, size_t shared, cudaStream_t stream,
                   const Arguments& arguments) {
  constexpr size_t kWithoutAsking = 48 << 10;
  if (shared > kWithoutAsking) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments);
}

}  // namespace rnnfast
#endif

// Whether code is compiled for a GPU that the cta kernels run on; the host, where they are launched, counts.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define RNNFAST_HAS_MMA 1
#else
#define RNNFAST_HAS_MMA 0
#endif
