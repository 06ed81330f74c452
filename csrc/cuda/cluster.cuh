// A crew is a thread-block cluster: members write their slices into each other's shared memory.
#pragma once

#include "crew.cuh"

namespace rnnfast::cuda {

#if RNNFAST_HAS_CLUSTERS
// A member of a cluster whose members write to each other's shared memory, to two buffers of so many bytes,
// each with a barrier that counts the bytes of all members. A member publishes for step n + 1 after it has
// read all of step n's buffer, so whoever has all of step n + 1 knows that no member reads the buffer of step
// n any more, and may publish for step n + 2, to the same one.
class ClusterMember {
 public:
  __device__ __forceinline__ ClusterMember(const CrewShape& shape, unsigned char* memory, size_t buffer)
      : barriers_(reinterpret_cast<ByteBarrier*>(memory)),
        buffers_(memory + CrewShape::kOperandsAt),
        rank_(rank_in_cluster()),
        cluster_(opaque(shape.cluster)),
        buffer_(opaque(static_cast<int>(buffer))) {
    if (threadIdx.x < kBuffers) initialise(barriers_ + threadIdx.x);
    // Warps share out members, or, where these are fewer, what a member is handed; all are powers of two.
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int members = 1 << shape.cluster_bits;
    first_vector_ = (warp >> shape.cluster_bits) * 32 + lane;
    apart_ = opaque(CrewShape::kThreads >> shape.cluster_bits);
#pragma unroll
    for (int i = 0; i < kMostTargets; ++i) {
      const int m = (warp & (members - 1)) + i * members;
      if (m >= shape.cluster) continue;
      // Not all of them to the same one at a time.
      target_ranks_[i] = (rank_ + m) & (shape.cluster - 1);
      targets_[i] = in_block(memory, target_ranks_[i]), count_ = i + 1;
    }
  }

  __device__ __forceinline__ int rank() const { return rank_; }
  // Where a crew is one cluster.
  __device__ __forceinline__ int crew() const { return static_cast<int>(blockIdx.x) / cluster_; }
  // Barriers are initialised before members count bytes on them.
  __device__ __forceinline__ void ready() const { sync_cluster(); }

  // Ends: all members run, since they are of one cluster, and take part in the same steps; none waits for
  // step n without having published for it, which waits for nothing but the buffer of step n - 1.
  __device__ __forceinline__ const void* await(int n) const {
    if (n > 0) await_phase(barriers_ + (n & 1), static_cast<uint32_t>((n - 1) >> 1 & 1), {"cluster", n});
    return buffers_ + (n & 1) * buffer_;
  }

  // A member's shared memory is there as long as others may write to it.
  __device__ __forceinline__ void leave() const { sync_cluster(); }

 protected:
  static constexpr int kBuffers = 2, kVector = sizeof(Vector16),
                       kMostTargets = CrewShape::kMostCluster / CrewShape::kWarps;

  // Before publishing for step n + 1: where its barrier is in targets. Its phase before, of step n - 1, is
  // over. Bytes may come before this arrival, the phase does not end.
  __device__ __forceinline__ int expect(int n) const {
    const int buffer = (n + 1) & 1;
    if (threadIdx.x == 0) expect_bytes(barriers_ + buffer, static_cast<uint32_t>(buffer_));
    return buffer * static_cast<int>(sizeof(ByteBarrier));
  }
  // Where, in targets, this member writes so many bytes.
  __device__ __forceinline__ int target_offset(int n, int bytes) const {
    return static_cast<int>(CrewShape::kOperandsAt) + ((n + 1) & 1) * buffer_ + rank_ * bytes;
  }

  ByteBarrier* const barriers_;
  unsigned char* const buffers_;
  const int rank_, cluster_, buffer_;     // in the cluster; its blocks; bytes of a buffer
  int first_vector_, apart_;              // of what a member is handed, that the thread writes
  ClusterAddress targets_[kMostTargets];  // where those have their shared memory that the thread writes to
  int target_ranks_[kMostTargets] = {}, count_ = 0;
};

class ClusterLink : public ClusterMember {
 public:
  __device__ __forceinline__ ClusterLink(const Exchange&, const CrewShape& shape, unsigned char* memory)
      : ClusterMember(shape, memory, shape.operand), slice_(opaque(static_cast<int>(shape.slice_bytes))) {}

  __device__ __forceinline__ void* initial() const { return buffers_; }
  // Two: threads put the next one while others may still read this one to hand it on.
  __device__ __forceinline__ void* slice(int n) const {
    return buffers_ + kBuffers * buffer_ + (n & 1) * slice_;
  }

  __device__ __forceinline__ void publish(int n) const {
    const int barrier = expect(n), to = target_offset(n, slice_);
    const auto* from = static_cast<const Vector16*>(slice(n));
    for (int i = first_vector_; i < slice_ / kVector; i += apart_) {
      const Vector16 v = from[i];
#pragma unroll
      for (int t = 0; t < kMostTargets; ++t)
        if (t < count_) write_async(targets_[t] + to + i * kVector, v, targets_[t] + barrier);
    }
  }

 private:
  const int slice_;  // bytes
};
#endif

struct InCluster {
  static constexpr bool kExists = RNNFAST_HAS_CLUSTERS;
#if RNNFAST_HAS_CLUSTERS
  template <class S, class Product>
  using Passing = Gather<ClusterLink, Product>;
#endif
};

}  // namespace rnnfast::cuda
