// A crew of one: a block of threads has all units of its rows, and hands on states in its own shared memory.
#pragma once

#include "crew.cuh"

namespace rnnfast::cuda {

// Two buffers, which take turns: the slice of one member is the whole operand.
class AloneLink {
 public:
  __device__ __forceinline__ AloneLink(const Exchange&, const CrewShape& shape, unsigned char* memory)
      : shape_(shape), operands_(memory + CrewShape::kOperandsAt) {}

  __device__ __forceinline__ int rank() const { return 0; }
  __device__ __forceinline__ int crew() const { return static_cast<int>(blockIdx.x); }
  __device__ __forceinline__ void* initial() const { return operands_; }
  __device__ __forceinline__ void* slice(int n) const { return operands_ + ((n + 1) & 1) * shape_.operand; }
  __device__ __forceinline__ void ready() const { sync_block(); }
  __device__ __forceinline__ const void* await(int n) const { return operands_ + (n & 1) * shape_.operand; }
  __device__ __forceinline__ void publish(int) const {}
  __device__ __forceinline__ void leave() const {}

 private:
  const CrewShape& shape_;
  unsigned char* const operands_;
};

struct Alone {
  static constexpr bool kExists = RNNFAST_HAS_MMA;
  template <class S, class Product>
  using Passing = Gather<AloneLink, Product>;
};

}  // namespace rnnfast::cuda
