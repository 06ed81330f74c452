// Runs the CUDA kernels on the CPU, for tests: what csrc/cuda/primitives.cuh has for a GPU, and CUDA's own
// words.
//
//   c++ -std=c++20 -DRNNFAST_CUDA_HOST -I tests/cuda_host -I <CUDA's headers> -x c++ kernel.cu ...
//   cuda_host.cpp
//
// Each CUDA thread is a fibre; exactly one runs at a time, until it waits for others, and a seeded generator
// (set_seed) draws which is next, so that a schedule can be replayed; it also draws when writes to the shared
// memory of other blocks arrive. Seen as errors of the launch: a barrier or a warp's exchange that not all
// threads come to, writes to a block that has ended, and whatever waits for ever. Shared memory starts as NaN
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

#include "cuda/together.h"

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
// Where it is compiled with CUDA_HOST_STRAGGLERS, now and then a thread waits for so long that others do
// much.
void straggle(const Place& place);

void set_seed(uint64_t seed);
// The first error of the latest launch; empty if there was none.
const char* last_error();
cudaError_t run(dim3 blocks, int threads, size_t shared, rnnfast::Together together,
                const std::function<void()>& body);

// Blocks of a cluster: `mine` in the shared memory of the block of that rank.
int rank_in_cluster();
char* in_block(const void* mine, int rank, const Place& place);
void cluster_barrier(const Place& place);
void initialise(uint64_t* barrier);
void expect_bytes(uint64_t* barrier, uint32_t bytes, const Place& place);
// The write happens, and is counted, at any time until the barrier's phase is over.
void write_async(char* to, const rnnfast::Vector16& from, uint64_t* barrier, const Place& place);
void await_phase(uint64_t* barrier, uint32_t parity, const Place& place);

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
inline float fast_reciprocal(float v) { return 1 / v; }

template <class T>
T read_if(bool condition, const T* from) {
  return condition ? *from : T{};
}
template <class T>
void write_if(bool condition, T* to, T v) {
  if (condition) *to = v;
}
inline char* opaque(char* p) { return p; }
inline int opaque(int v) { return v; }
inline char* advanced(char* p, int number, int bytes) { return p + int64_t{number} * bytes; }

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

using ClusterAddress = char*;
struct ByteBarrier {
  uint64_t state;
};

inline int rank_in_cluster() { return cuda_host::rank_in_cluster(); }
inline ClusterAddress in_block(const void* mine, int rank, CUDA_HOST_PLACE("in_block")) {
  return cuda_host::in_block(mine, rank, place);
}
inline void sync_cluster(CUDA_HOST_PLACE("sync_cluster")) { cuda_host::cluster_barrier(place); }
inline void initialise(ByteBarrier* b) { cuda_host::initialise(&b->state); }
inline void expect_bytes(ByteBarrier* b, uint32_t bytes, CUDA_HOST_PLACE("expect_bytes")) {
  cuda_host::expect_bytes(&b->state, bytes, place);
}
inline void write_async(ClusterAddress to, const Vector16& from, ClusterAddress barrier,
                        CUDA_HOST_PLACE("write_async")) {
#if defined(CUDA_HOST_TSAN)
  *reinterpret_cast<Vector16*>(to) = from;  // by this thread, as ThreadSanitizer sees it
#endif
  cuda_host::write_async(to, from, reinterpret_cast<uint64_t*>(barrier), place);
}
inline void await_phase(ByteBarrier* b, uint32_t parity, const Waiter&, CUDA_HOST_PLACE("await_phase")) {
  cuda_host::await_phase(&b->state, parity, place);
}

// The mark is written last and read first.
inline void write_marked(Vector16* to, const Vector16& v) {
  uint64_t halves[2];
  std::memcpy(halves, v.v, sizeof(halves));
  auto* at = reinterpret_cast<uint64_t*>(to);
  __atomic_store_n(at, halves[0], __ATOMIC_RELAXED);
  __atomic_store_n(at + 1, halves[1], __ATOMIC_RELEASE);
}
inline Vector16 look_at_marked(const Vector16* from) {
  const auto* at = reinterpret_cast<const uint64_t*>(from);
  uint64_t halves[2];
  halves[1] = __atomic_load_n(at + 1, __ATOMIC_ACQUIRE);
  halves[0] = __atomic_load_n(at, __ATOMIC_RELAXED);
  Vector16 v;
  std::memcpy(v.v, halves, sizeof(halves));
  return v;
}
inline Vector16 read_marked(const Vector16* from, bool condition, CUDA_HOST_PLACE("read_marked")) {
  if (!condition) return {};
  cuda_host::straggle(place);
  return look_at_marked(from);
}
inline void await_mark(Vector16& v, const Vector16* from, uint32_t mark, const Waiter&,
                       CUDA_HOST_PLACE("await_mark")) {
  while (v.v[3] != mark) {
    cuda_host::pause(place);
    v = look_at_marked(from);
  }
}

template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 blocks, int threads, size_t shared, cudaStream_t,
                   const Arguments& arguments, Together together = {}) {
  return cuda_host::run(blocks, threads, shared, together, [&] { kernel(arguments); });
}

}  // namespace rnnfast
