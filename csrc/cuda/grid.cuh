// A crew is any blocks of a launch that has all of its blocks on the GPU at the same time: members hand on
// their slices through global memory, which the second-level cache holds.
#pragma once

#include "crew.cuh"

namespace rnnfast::cuda {

// Two operands of each crew in global memory, in vectors of three numbers, which are marked with the step
// that they are for: who reads one knows from itself whether it is there, without a second look and without
// fences. (NCCL calls such protocols LL.) The slices of members of the same rank in their clusters lie one
// behind the other: they are what each of these members reads. As in a cluster, whoever has all that it reads
// of a step knows that those who wrote it, who are those who read what it writes itself, have read that of
// the step before. One buffer in shared memory: it is filled between two barriers of the block.
class GridLink {
 public:
  __device__ __forceinline__ GridLink(const Exchange& exchange, const CrewShape& shape, unsigned char* memory)
      : operand_(memory + shape.operands_at),
        own_(memory + shape.own_at),
        rank_(static_cast<int>(blockIdx.x) % shape.crew),
        crew_(static_cast<int>(blockIdx.x) / shape.crew),
        marks_(exchange.marks),
        words_(opaque(static_cast<int>(shape.slice_bytes / sizeof(uint32_t)))),
        slice_(opaque(shape.marked_vectors)),
        vectors_(opaque(shape.crew / shape.peers * shape.marked_vectors)),
        buffer_(opaque(shape.crew * shape.marked_vectors)),
        own_vectors_(rank_ / shape.peers * slice_),
        member_(static_cast<int>(threadIdx.x) / shape.marked_vectors),
        within_(static_cast<int>(threadIdx.x) % shape.marked_vectors),
        members_(CrewShape::kThreads / shape.marked_vectors),
        rest_(CrewShape::kThreads % shape.marked_vectors) {
    from_ = reinterpret_cast<Vector16*>(exchange.operands) + int64_t{2} * crew_ * buffer_ +
            rank_ % shape.peers * vectors_;
  }

  __device__ __forceinline__ int rank() const { return rank_; }
  __device__ __forceinline__ int crew() const { return crew_; }
  __device__ __forceinline__ void* initial() const { return operand_; }
  // One: all threads have handed it on when await returns.
  __device__ __forceinline__ void* slice(int) const { return own_; }
  __device__ __forceinline__ void ready() const { sync_block(); }

  // Ends: all members run, since the launch is cooperative, and take part in the same steps; none waits for
  // step n without having published for it, which waits for nothing but the operand of step n - 1 (and, where
  // there are clusters, for what grid_of_clusters.cuh says).
  __device__ __forceinline__ const void* await(int n) const {
    if (n == 0) return operand_;
    const Vector16* from = from_ + (n & 1) * buffer_;
    int member = member_, within = within_;
    for (int first = static_cast<int>(threadIdx.x); first < vectors_;
         first += kTogether * CrewShape::kThreads) {
      Vector16 v[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int at = first + i * CrewShape::kThreads;
        v[i] = read_marked(from + at, at < vectors_);
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int at = first + i * CrewShape::kThreads;
        if (at >= vectors_) break;
        await_mark(v[i], from + at, mark(n), {"grid", n});
        auto* to = reinterpret_cast<uint32_t*>(operand_) + member * words_;
#pragma unroll
        for (int word = 0; word < kWords; ++word)
          if (within * kWords + word < words_) to[within * kWords + word] = v[i].v[word];
        member += members_, within += rest_;
        if (within >= slice_) within -= slice_, ++member;
      }
    }
    sync_block();
    return operand_;
  }

  __device__ __forceinline__ void publish(int n) const {
    Vector16* to = from_ + ((n + 1) & 1) * buffer_ + own_vectors_;
    const auto* from = static_cast<const uint32_t*>(slice(n));
    for (int i = static_cast<int>(threadIdx.x); i < slice_; i += CrewShape::kThreads) {
      Vector16 v;
#pragma unroll
      for (int word = 0; word < kWords; ++word)
        v.v[word] = from[i * kWords + word < words_ ? i * kWords + word : 0];
      v.v[kWords] = mark(n + 1);
      write_marked(to + i, v);
    }
  }

  __device__ __forceinline__ void leave() const {}

 private:
  static constexpr int kWords = CrewShape::kMarkedWords, kTogether = 4;

  __device__ __forceinline__ uint32_t mark(int n) const { return marks_ + static_cast<uint32_t>(n); }

  unsigned char *const operand_, *const own_;
  Vector16* from_;  // what is read, in the first of two operands
  const int rank_, crew_;
  const uint32_t marks_;
  // Of a slice: numbers, vectors. Vectors of what is read of an operand, of an operand, and before the slice
  // of the member's own in what it reads.
  const int words_, slice_, vectors_, buffer_, own_vectors_;
  // Of the thread's first vector the member, and the number within its slice; from one to the next.
  const int member_, within_, members_, rest_;
};

struct InGrid {
  static constexpr bool kExists = RNNFAST_HAS_MMA;
  template <class S, class Product>
  using Passing = Gather<GridLink, Product>;
};

}  // namespace rnnfast::cuda
