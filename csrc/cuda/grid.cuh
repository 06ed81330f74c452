// A crew is any blocks of a launch that has all of its blocks on the GPU at the same time: members hand on
// their slices through global memory, which the second-level cache holds.
#pragma once

#include "crew.cuh"

namespace rnnfast::cuda {

// Two operands of each crew in global memory, and for each member a count of the slices that it has
// published. As in a cluster, whoever has the whole operand of a step knows that all members have read that
// of the step before. One buffer in shared memory: it is filled between two barriers of the block.
class GridLink {
 public:
  static constexpr int kBuffers = CrewShape::kGridBuffers;

  __device__ __forceinline__ GridLink(const Exchange& exchange, const CrewShape& shape, unsigned char* memory)
      : shape_(shape),
        operand_(memory + CrewShape::kOperandsAt),
        rank_(static_cast<int>(blockIdx.x) % shape.crew),
        crew_(blockIdx.x / shape.crew) {
    const int64_t crew = blockIdx.y * static_cast<int64_t>(gridDim.x / shape.crew) + crew_;
    operands_ = exchange.operands + crew * 2 * static_cast<int64_t>(shape.operand);
    counts_ = exchange.counts + crew * shape.crew;
  }

  __device__ __forceinline__ int rank() const { return rank_; }
  __device__ __forceinline__ int64_t crew() const { return crew_; }
  __device__ __forceinline__ void* initial() const { return operand_; }
  // As in a cluster.
  __device__ __forceinline__ void* slice(int n) const {
    return operand_ + shape_.operand + (n & 1) * shape_.slice_bytes;
  }
  __device__ __forceinline__ void ready() const { sync_block(); }

  // Ends: all members run, since the launch is cooperative, and take part in the same steps; none waits for
  // step n without having published for it, which waits for nothing but the operand of step n - 1.
  __device__ __forceinline__ const void* await(int n) const {
    if (n == 0) return operand_;
    if (static_cast<int>(threadIdx.x) < shape_.crew)
      await_count(counts_ + threadIdx.x, static_cast<uint32_t>(n), {"grid", n});
    sync_block();
    const auto* from =
        reinterpret_cast<const Vector16*>(operands_ + (n & 1) * static_cast<int64_t>(shape_.operand));
    auto* to = reinterpret_cast<Vector16*>(operand_);
    const int vectors = static_cast<int>(shape_.operand / sizeof(Vector16));
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < vectors; i += CrewShape::kThreads)
      to[i] = read_of_others(from + i);
    sync_block();
    return operand_;
  }

  __device__ __forceinline__ void publish(int n) const {
    auto* to = reinterpret_cast<Vector16*>(operands_ + ((n + 1) & 1) * static_cast<int64_t>(shape_.operand) +
                                           rank_ * static_cast<int64_t>(shape_.slice_bytes));
    const auto* from = static_cast<const Vector16*>(slice(n));
    const int vectors = static_cast<int>(shape_.slice_bytes / sizeof(Vector16));
    for (int i = static_cast<int>(threadIdx.x); i < vectors; i += CrewShape::kThreads) to[i] = from[i];
    sync_block();
    if (threadIdx.x == 0) publish_count(counts_ + rank_, static_cast<uint32_t>(n + 1));
  }

  __device__ __forceinline__ void leave() const {}

 private:
  const CrewShape& shape_;
  unsigned char* const operand_;
  unsigned char* operands_;
  uint32_t* counts_;
  const int rank_;
  const int64_t crew_;
};

template <class Pass, class S, class Product>
__global__ void __launch_bounds__(CrewShape::kThreads, 1)
    grid_kernel(const __grid_constant__ CrewArguments<typename Product::Shape> a) {
#if RNNFAST_HAS_MMA
  run_crew<Pass, S, Product, GridLink>(a);
#endif
}

template <class Pass, class S, class Product>
cudaError_t launch_grid(const Run& run, const CudaPlan& plan) {
  const auto shape = crew_shape<Pass, Product>(run.recurrence, plan, CrewShape::kGridBuffers);
  return launch_crew<S>(grid_kernel<Pass, S, Product>, run, shape, OnlyPhase<Pass>::kAhead.stream, {1, true});
}

}  // namespace rnnfast::cuda
