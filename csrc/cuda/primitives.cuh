// What the kernels need of CUDA, each thing under one name. tests/cuda_host has the same names for kernels
// that run on the CPU.
#pragma once

#include <cstdint>

#include "together.h"

#if defined(RNNFAST_CUDA_HOST)
#include "cuda_host.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#if defined(RNNFAST_PATIENCE)
#include <cstdio>
#endif

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

// Their errors are about 2 ulp. Denormal results are zero.
__device__ __forceinline__ float fast_exp(float v) {
  float e;
  asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v * 1.4426950408889634f));
  return e;
}
__device__ __forceinline__ float fast_reciprocal(float v) {
  float r;
  asm volatile("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
}

// The argument, of which no compiler knows anything: it is kept in registers rather than computed, or read
// from the kernel's arguments, again, which takes long where it is on the way of a step. Numbers of
// multiprocessors are far below 2^20.
__device__ __forceinline__ int opaque(int v) {
  int multiprocessor;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(multiprocessor));
  return v + (multiprocessor >> 20);
}
__device__ __forceinline__ char* opaque(char* p) {
  asm volatile("" : "+l"(p));
  return p;
}

// p + number * bytes, in one instruction.
__device__ __forceinline__ char* advanced(char* p, int number, int bytes) {
  char* there;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(there) : "r"(number), "r"(bytes), "l"(p));
  return there;
}

// What is there if the condition holds, else zero; writes if it holds. Global memory, without branches.
#define RNNFAST_READ_IF(bits, constraint, zero)                                        \
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.s32 p, %2, 0;\n\tmov." bits " %0, " zero \
               ";\n\t"                                                                 \
               "@p ld.global." bits " %0, [%1];\n\t}"                                  \
               : "=&" constraint(v)                                                    \
               : "l"(__cvta_generic_to_global(from)), "r"(static_cast<int>(condition)))
#define RNNFAST_WRITE_IF(bits, constraint)                                                           \
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.s32 p, %2, 0;\n\t@p st.global." bits " [%0], %1;\n\t}" \
               :                                                                                     \
               : "l"(__cvta_generic_to_global(to)), constraint(v), "r"(static_cast<int>(condition))  \
               : "memory")
__device__ __forceinline__ float read_if(bool condition, const float* from) {
  float v;
  RNNFAST_READ_IF("f32", "f", "0f00000000");
  return v;
}
__device__ __forceinline__ double read_if(bool condition, const double* from) {
  double v;
  RNNFAST_READ_IF("f64", "d", "0d0000000000000000");
  return v;
}
template <class T>
__device__ __forceinline__ T read_if(bool condition, const T* from) {
  static_assert(sizeof(T) == 2);
  unsigned short v;
  RNNFAST_READ_IF("b16", "h", "0");
  return *reinterpret_cast<const T*>(&v);
}
__device__ __forceinline__ void write_if(bool condition, float* to, float v) { RNNFAST_WRITE_IF("f32", "f"); }
__device__ __forceinline__ void write_if(bool condition, double* to, double v) {
  RNNFAST_WRITE_IF("f64", "d");
}
template <class T>
__device__ __forceinline__ void write_if(bool condition, T* to, T value) {
  static_assert(sizeof(T) == 2);
  const unsigned short v = *reinterpret_cast<const unsigned short*>(&value);
  RNNFAST_WRITE_IF("b16", "h");
}
#undef RNNFAST_READ_IF
#undef RNNFAST_WRITE_IF

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

// Time passes between two looks at what is waited for. A wait without end would be a fault of the kernels: if
// they are built with -DRNNFAST_PATIENCE=N, waiters give up after N cycles of the clock, say who they are,
// and end the launch with an error.
class Patience {
 public:
#if defined(RNNFAST_PATIENCE)
  __device__ __forceinline__ explicit Patience(const Waiter& waiter) : waiter_(waiter), begin_(clock64()) {}
  __device__ __forceinline__ void pause() const {
    __nanosleep(20);
    if (clock64() - begin_ < static_cast<long long>(RNNFAST_PATIENCE)) return;
    printf("rnnfast: %s: block %u, thread %u waits in vain for step %d\n", waiter_.link, blockIdx.x,
           threadIdx.x, waiter_.step);
    __trap();
  }

 private:
  const Waiter waiter_;
  const long long begin_;
#else
  __device__ __forceinline__ explicit Patience(const Waiter&) {}
  __device__ __forceinline__ void pause() const { __nanosleep(20); }
#endif
};

// Blocks of a cluster, which see each other's shared memory. They need sm_90.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// Shared memory of any block of the cluster.
using ClusterAddress = uint32_t;

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ int rank_in_cluster() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// Where the block of that rank has what is at `mine` here.
__device__ __forceinline__ ClusterAddress in_block(const void* mine, int rank) {
  ClusterAddress theirs;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(shared_address(mine)), "r"(rank));
  return theirs;
}
// What all threads of the cluster did before is done, for all of them.
__device__ __forceinline__ void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

// A barrier in shared memory that counts bytes that blocks of the cluster write here. Each of its phases
// needs one arrival, which says how many bytes there will be; they may come before it.
struct ByteBarrier {
  uint64_t state;
};
// By one thread; before others use it, sync_cluster.
__device__ __forceinline__ void initialise(ByteBarrier* b) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\tfence.mbarrier_init.release.cluster;" ::"r"(
                   shared_address(b))
               : "memory");
}
__device__ __forceinline__ void expect_bytes(ByteBarrier* b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
               "r"(bytes)
               : "memory");
}
// Does not wait; the barrier, of the same block as `to`, counts the bytes when they are there.
__device__ __forceinline__ void write_async(ClusterAddress to, const Vector16& from, ClusterAddress barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.u32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
          to),
      "r"(from.v[0]), "r"(from.v[1]), "r"(from.v[2]), "r"(from.v[3]), "r"(barrier)
      : "memory");
}
// Until the phase of that parity is over: they have 0 and 1 in turns.
__device__ __forceinline__ void await_phase(ByteBarrier* b, uint32_t parity, const Waiter& waiter) {
  const Patience patience(waiter);
  uint32_t over = 0;
  while (true) {
    // It sleeps by itself, for some time. What it acquires lies in this block's shared memory.
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(over)
        : "r"(shared_address(b)), "r"(parity)
        : "memory");
    if (over) return;
    patience.pause();
  }
}
#endif

// Vectors in global memory whose last number says what the others are: vectors are written and read in one
// piece, so that who sees the mark has what belongs to it. They need sm_80, and PTX 8.4 of CUDA 12.4.
__device__ __forceinline__ void write_marked(Vector16* to, const Vector16& v) {
  asm volatile(
      "{\n\t.reg .b128 v;\n\t.reg .b64 low, high;\n\t"
      "mov.b64 low, {%1, %2};\n\tmov.b64 high, {%3, %4};\n\tmov.b128 v, {low, high};\n\t"
      "st.relaxed.gpu.global.b128 [%0], v;\n\t}" ::"l"(__cvta_generic_to_global(to)),
      "r"(v.v[0]), "r"(v.v[1]), "r"(v.v[2]), "r"(v.v[3])
      : "memory");
}
// Zero, without a branch, where the condition does not hold.
__device__ __forceinline__ Vector16 read_marked(const Vector16* from, bool condition) {
  Vector16 v;
  asm volatile(
      "{\n\t.reg .b128 v;\n\t.reg .b64 low, high;\n\t.reg .pred p;\n\t"
      "setp.ne.s32 p, %5, 0;\n\tmov.b64 low, 0;\n\tmov.b64 high, 0;\n\t"
      "@p ld.relaxed.gpu.global.b128 v, [%4];\n\t@p mov.b128 {low, high}, v;\n\t"
      "mov.b64 {%0, %1}, low;\n\tmov.b64 {%2, %3}, high;\n\t}"
      : "=&r"(v.v[0]), "=&r"(v.v[1]), "=&r"(v.v[2]), "=&r"(v.v[3])
      : "l"(__cvta_generic_to_global(from)), "r"(static_cast<int>(condition))
      : "memory");
  return v;
}
// Until what was read, and is read again, has that mark.
__device__ __forceinline__ void await_mark(Vector16& v, const Vector16* from, uint32_t mark,
                                           const Waiter& waiter) {
  if (v.v[3] == mark) return;
  const Patience patience(waiter);
  do {
    patience.pause();
    v = read_marked(from, true);
  } while (v.v[3] != mark);
}

// Launches a kernel of one argument. together: how its blocks know of each other.
template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 blocks, int threads, size_t shared, cudaStream_t stream,
                   const Arguments& arguments, Together together = {}) {
  constexpr size_t kWithoutAsking = 48 << 10;
  if (shared > kWithoutAsking) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  config.attrs = attributes;
  if (together.cluster > 1) {
    constexpr int kPortable = 8;
    if (together.cluster > kPortable) {
      const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
      if (error != cudaSuccess) return error;
    }
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeClusterDimension;
    a.val.clusterDim = {static_cast<unsigned>(together.cluster), 1, 1};
  }
  if (together.resident) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeCooperative;
    a.val.cooperative = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, arguments);
}

}  // namespace rnnfast
#endif

// Whether code is compiled for a GPU that has such instructions; the host, where kernels are launched,
// counts.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define RNNFAST_HAS_MMA 1
#else
#define RNNFAST_HAS_MMA 0
#endif
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define RNNFAST_HAS_CLUSTERS 1
#else
#define RNNFAST_HAS_CLUSTERS 0
#endif
