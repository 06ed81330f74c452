// A crew is several thread-block clusters of a launch that has all of its blocks on the GPU at the same time.
// Slices of the operand go through global memory, as in grid.cuh, but a member reads those of one member of
// each cluster alone, a fraction of them, and multiplies them for the units of its whole cluster, whose
// members scatter the partial results, as in scatter.cuh.
#pragma once

#include "grid.cuh"
#include "scatter.cuh"

namespace rnnfast::cuda {

#if RNNFAST_HAS_CLUSTERS
template <class C, int kColumns>
class ClusteredGridLink {
 public:
  using Sums = ScatterLink<C, kColumns, CrewShape::kMostGridCluster>;

  __device__ __forceinline__ ClusteredGridLink(const Exchange& exchange, const CrewShape& shape,
                                               unsigned char* memory)
      : operands_(exchange, shape, memory), sums_(exchange, shape, memory) {}

  __device__ __forceinline__ int rank() const { return operands_.rank(); }
  __device__ __forceinline__ int crew() const { return operands_.crew(); }
  __device__ __forceinline__ void* initial() const { return operands_.initial(); }
  __device__ __forceinline__ void* slice(int n) const { return operands_.slice(n); }
  __device__ __forceinline__ void ready() const { sums_.ready(); }
  __device__ __forceinline__ void leave() const { sums_.leave(); }

  __device__ __forceinline__ const GridLink& operands() const { return operands_; }
  __device__ __forceinline__ const Sums& sums() const { return sums_; }

 private:
  const GridLink operands_;
  const Sums sums_;
};

// Waits end: for slices of a step, since their members have published them after the arithmetic of the step
// before, which came after the sums of that step; and for sums of a step, since peers have published them
// after their slices of that step had come. So what is waited for always is of an earlier step, or of the
// same one and from those who wait for slices alone.
template <class C, class Product>
class GatherAndScatter {
 public:
  using Link = ClusteredGridLink<C, Product::kColumns>;

  __device__ __forceinline__ GatherAndScatter(const Link& link, const Product& product)
      : link_(link), product_(product) {}

  // Sums are counted from one: those of the n-th step come between its operand and the next one.
  __device__ __forceinline__ void receive(int n, C (&results)[Product::kColumns]) const {
    const auto* operand = static_cast<const typename Product::Operand*>(link_.operands().await(n));
    sync_warp();  // as in Gather
    product_.multiply_parts(operand);
    sync_block();
    link_.sums().publish(n);
    link_.sums().receive(n + 1, results);
  }
  __device__ __forceinline__ void send(int n) const {
    sync_block();
    link_.operands().publish(n);
  }

 private:
  const Link& link_;
  const Product& product_;
};
#endif

struct InGridOfClusters {
  static constexpr bool kExists = RNNFAST_HAS_CLUSTERS;
#if RNNFAST_HAS_CLUSTERS
  template <class S, class Product>
  using Passing = GatherAndScatter<Compute<S>, Product>;
#endif
};

}  // namespace rnnfast::cuda
