// A crew is a thread-block cluster, as in cluster.cuh, of a pass whose operand has several parts: BPTT, where
// the gradients of all gates are what a state's gradient comes from. A member keeps the weights of its own
// units' gates, multiplies those alone, for all units, and hands each member the partial results for its
// units. These are fewer numbers than the gates, whose whole operand no member needs to have.
#pragma once

#include "cluster.cuh"

namespace rnnfast::cuda {

#if RNNFAST_HAS_CLUSTERS
// Two buffers of partial results: [member][row][column][unit]. Why two are enough: as ClusterMember
// says. kMostMembers: of the clusters of such a launch.
template <class C, int kColumns, int kMostMembers>
class ScatterLink : public ClusterMember {
 public:
  __device__ __forceinline__ ScatterLink(const Exchange&, const CrewShape& shape, unsigned char* memory)
      : ClusterMember(shape, memory, shape.sums),
        own_(memory + shape.own_at),
        parts_(reinterpret_cast<const C*>(memory + shape.results_at)),
        units_(opaque(shape.units)),
        vectors_(opaque(shape.rows * kColumns * shape.units / kValues)),
        slices_(opaque(shape.slices)),
        slices_apart_(opaque(shape.rows * shape.stride)) {
    const int of_column = shape.units / kValues, i = static_cast<int>(threadIdx.x);
    own_sums_ =
        i < shape.rows * shape.units ? i / shape.units * kColumns * shape.units + i % shape.units : -1;
#pragma unroll
    for (int v = 0; v < CrewShape::kMostScattered; ++v) {
      const int vector = first_vector_ + v * apart_, column = vector / of_column;
      places_[v] = column / kColumns * shape.stride + column % kColumns * shape.peers * shape.units +
                   vector % of_column * kValues;
    }
  }

  __device__ __forceinline__ void* initial() const { return nullptr; }
  // One: it has been multiplied by all threads before they put the next one.
  __device__ __forceinline__ void* slice(int) const { return own_; }

  // What members have for the thread's unit, if it has one, in the order of their ranks.
  __device__ __forceinline__ void receive(int n, C (&results)[kColumns]) const {
#pragma unroll
    for (C& result : results) result = 0;
    if (n == 0) return;
    const C* from = static_cast<const C*>(await(n)) + own_sums_;
    if (own_sums_ < 0) return;
#pragma unroll 4
    for (int member = 0; member < cluster_; ++member, from += vectors_ * kValues)
#pragma unroll
      for (int column = 0; column < kColumns; ++column) results[column] += from[column * units_];
  }

  // Sums of the parts of a product, to the members whose units they are for.
  __device__ __forceinline__ void publish(int n) const {
    const int barrier = expect(n), to = target_offset(n, vectors_ * kVector);
#pragma unroll
    for (int i = 0; i < CrewShape::kMostScattered; ++i) {
      const int vector = first_vector_ + i * apart_;
      if (vector >= vectors_) break;
#pragma unroll
      for (int t = 0; t < kMostMembers / CrewShape::kWarps; ++t) {
        if (t > 0 && t >= count_) break;
        const C* from = parts_ + places_[i] + target_ranks_[t] * units_;
        Vector sum = *reinterpret_cast<const Vector*>(from);
#pragma unroll 1
        for (int slice = 1; slice < slices_; ++slice) {
          const Vector other = *reinterpret_cast<const Vector*>(from + slice * slices_apart_);
#pragma unroll
          for (int v = 0; v < kValues; ++v) sum.v[v] += other.v[v];
        }
        write_async(targets_[t] + to + vector * kVector, *reinterpret_cast<const Vector16*>(&sum),
                    targets_[t] + barrier);
      }
    }
  }

 private:
  static constexpr int kValues = kVector / sizeof(C);
  struct alignas(kVector) Vector {
    C v[kValues];
  };

  unsigned char* const own_;
  const C* const parts_;
  const int units_, vectors_, slices_, slices_apart_;  // vectors of a member
  int own_sums_;                           // of the thread's unit, among those of a member; -1: it has none
  int places_[CrewShape::kMostScattered];  // among parts, of the thread's vectors of the first member
};

// A step's product comes after its arithmetic: run_crew.
template <class C, class Product>
class Scatter {
 public:
  using Link = ScatterLink<C, Product::kColumns, CrewShape::kMostCluster>;

  __device__ __forceinline__ Scatter(const Link& link, const Product& product)
      : link_(link), product_(product) {}

  __device__ __forceinline__ void receive(int n, C (&results)[Product::kColumns]) const {
    link_.receive(n, results);
  }
  __device__ __forceinline__ void send(int n) const {
    sync_block();
    product_.multiply_parts(static_cast<const typename Product::Operand*>(link_.slice(n)));
    sync_block();
    link_.publish(n);
  }

 private:
  const Link& link_;
  const Product& product_;
};
#endif

struct Scattering {
  static constexpr bool kExists = RNNFAST_HAS_CLUSTERS;
#if RNNFAST_HAS_CLUSTERS
  template <class S, class Product>
  using Passing = Scatter<Compute<S>, Product>;
#endif
};

}  // namespace rnnfast::cuda
