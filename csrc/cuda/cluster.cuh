// A crew is a thread-block cluster: members write their slices into each other's shared memory.
#pragma once

#include "crew.cuh"

namespace rnnfast::cuda {

#if RNNFAST_HAS_CLUSTERS
// Two buffers of the operand, and for each a barrier that counts the bytes of all slices. A member publishes
// its slice for step n + 1 after it has read all of step n's operand, so whoever has the operand of step n +
// 1 knows that no member reads that of step n any more, and may publish for step n + 2, to the same buffer.
class ClusterLink {
 public:
  static constexpr int kBuffers = CrewShape::kClusterBuffers;

  __device__ __forceinline__ ClusterLink(const Exchange&, const CrewShape& shape, unsigned char* memory)
      : shape_(shape),
        barriers_(reinterpret_cast<ByteBarrier*>(memory)),
        operands_(memory + CrewShape::kOperandsAt),
        rank_(rank_in_cluster()) {
    if (threadIdx.x < kBuffers) initialise(barriers_ + threadIdx.x);
  }

  __device__ __forceinline__ int rank() const { return rank_; }
  __device__ __forceinline__ int64_t crew() const { return blockIdx.x / shape_.crew; }
  __device__ __forceinline__ void* initial() const { return operands_; }
  // Two: threads put the next one while others may still read this one to hand it on.
  __device__ __forceinline__ void* slice(int n) const {
    return operands_ + kBuffers * shape_.operand + (n & 1) * shape_.slice_bytes;
  }
  // Barriers are initialised before members count bytes on them.
  __device__ __forceinline__ void ready() const { sync_cluster(); }

  // Ends: all members run, since they are of one cluster, and take part in the same steps; none waits for
  // step n without having published for it, which waits for nothing but the operand of step n - 1.
  __device__ __forceinline__ const void* await(int n) const {
    if (n > 0) await_phase(barriers_ + (n & 1), static_cast<uint32_t>((n - 1) >> 1 & 1), {"cluster", n});
    return operands_ + (n & 1) * shape_.operand;
  }

  __device__ __forceinline__ void publish(int n) const {
    const int buffer = (n + 1) & 1;
    ByteBarrier* barrier = barriers_ + buffer;
    // Its phase before, of step n - 1, is over. Slices may come before this arrival, the phase does not end.
    if (threadIdx.x == 0) expect_bytes(barrier, static_cast<uint32_t>(shape_.operand));
    unsigned char* to = operands_ + buffer * shape_.operand + rank_ * shape_.slice_bytes;
    const auto* from = static_cast<const Vector16*>(slice(n));
    const int vectors = static_cast<int>(shape_.slice_bytes / sizeof(Vector16));
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    // Warps share out members, or, where these are fewer, what a member is handed; all are powers of two.
    const int members = 1 << shape_.crew_bits, share = warp >> shape_.crew_bits;
    const int apart = CrewShape::kThreads >> shape_.crew_bits;
    for (int i = share * 32 + lane; i < vectors; i += apart) {
      const Vector16 v = from[i];
      for (int m = warp & (members - 1); m < shape_.crew; m += members) {
        const int member = (rank_ + m) & (shape_.crew - 1);  // not all of them to the same one
        write_async(in_block(to + i * sizeof(Vector16), member), v, in_block(barrier, member));
      }
    }
  }

  // A member's shared memory is there as long as others may write to it.
  __device__ __forceinline__ void leave() const { sync_cluster(); }

 private:
  const CrewShape& shape_;
  ByteBarrier* const barriers_;
  unsigned char* const operands_;
  const int rank_;
};
#endif

template <class Pass, class S, class Product>
__global__ void __launch_bounds__(CrewShape::kThreads, 1)
    cluster_kernel(const __grid_constant__ CrewArguments<typename Product::Shape> a) {
#if RNNFAST_HAS_CLUSTERS
  run_crew<Pass, S, Product, ClusterLink>(a);
#endif
}

template <class Pass, class S, class Product>
cudaError_t launch_cluster(const Run& run, const CudaPlan& plan) {
  const auto shape = crew_shape<Pass, Product>(run.recurrence, plan, CrewShape::kClusterBuffers);
  return launch_crew<S>(cluster_kernel<Pass, S, Product>, run, shape, OnlyPhase<Pass>::kAhead.stream, {shape.crew, false});
}

}  // namespace rnnfast::cuda
