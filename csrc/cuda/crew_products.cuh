// What the products of a crew's members have in common. A product is the part of a phase's matrix that a
// member has (crew_shape.h), which it keeps in registers and shared memory for all steps:
//
//   seat(shape)              the unit of a row whose results the thread takes
//   as_operand(v)            v as operands store it
//   multiply(operand, sums)  the results of the thread's unit; by all threads of the block
//   multiply_parts(operand)  parts of all results, to shared memory, without waiting for others
//
// CrewMma and CrewFma.
#pragma once

#include "crew_shape.h"
#include "values.cuh"

namespace rnnfast {

// Puts a value into a register whose number is not known to the compiler.
template <int kCount, class T>
__device__ __forceinline__ void set_register(T (&registers)[kCount], int i, const T& v) {
#pragma unroll
  for (int at = 0; at < kCount; ++at)
    if (at == i) registers[at] = v;
}

// The unit of a row whose results a thread takes.
struct CrewSeat {
  int row, local;
};

// Results of a thread's unit, whose parts lie in shared memory.
template <class C>
class CrewParts {
 public:
  __device__ __forceinline__ CrewParts(const CrewShape& shape, const CrewSeat& seat, unsigned char* memory)
      : first_(reinterpret_cast<const C*>(memory + shape.results_at)),
        at_(opaque(seat.row < shape.rows ? seat.row * shape.stride + seat.local : 0)),
        columns_apart_(opaque(shape.units)),
        slices_apart_(opaque(shape.rows * shape.stride)),
        slices_(opaque(shape.slices)) {}

  template <int kColumns>
  __device__ __forceinline__ void add(C (&sums)[kColumns]) const {
    const C* from = first_ + at_;
#pragma unroll
    for (int column = 0; column < kColumns; ++column) sums[column] = from[column * columns_apart_];
#pragma unroll 4
    for (int slice = 1; slice < slices_; ++slice) {
      from += slices_apart_;
#pragma unroll
      for (int column = 0; column < kColumns; ++column) sums[column] += from[column * columns_apart_];
    }
  }

 private:
  const C* const first_;
  const int at_, columns_apart_, slices_apart_, slices_;
};

// The weights of a member, in the order in which operands are stored.
template <class Phase, class S>
class CrewWeights {
 public:
  static constexpr int kMostParts = 4;

  // Of a result: where the weights of its sum begin.
  struct Row {
    const S* first;
    bool exists;
  };

  __device__ CrewWeights(const CrewShape& shape, const Matrix& m, int64_t group, int64_t units, int rank)
      : shape_(shape),
        data_(static_cast<const S*>(m.data) + group * m.group),
        row_(m.row),
        all_units_(units),
        first_unit_((rank - rank % shape.peers) * shape.units),
        units_of_column_(shape.peers * shape.units),
        first_member_(rank % shape.peers),
        even_(reinterpret_cast<uintptr_t>(data_) % 16 == 0 && (row_ | all_units_) % 4 == 0) {}

  __device__ __forceinline__ Row row(int result) const {
    const int column = result / units_of_column_;
    const int64_t unit = first_unit_ + result % units_of_column_;
    const int64_t first = Phase::kTransposed ? unit : (column * all_units_ + unit) * row_;
    return {data_ + first, result < shape_.results && unit < all_units_};
  }

  // The first place of some values in a row; how many of them there are.
  struct Place {
    int64_t k;
    int64_t count;
  };

  // Of values from `from` on of a chunk, up to four, which are of the same part and member: as many as divide
  // the units of a member.
  __device__ __forceinline__ Place place(int chunk, int from) const {
    const int member = first_member_ + chunk / shape_.slice_chunks * shape_.peers;
    const int within = chunk % shape_.slice_chunks * shape_.chunk + from;
    static_assert(kMostParts == 4);
    const int part = (within >= shape_.units) + (within >= 2 * shape_.units) + (within >= 3 * shape_.units);
    const int64_t unit = static_cast<int64_t>(member) * shape_.units + within - part * shape_.units;
    const bool is = chunk < shape_.chunks && within < shape_.parts * shape_.units;
    return {part * all_units_ + unit, is ? all_units_ - unit : 0};
  }

  // Zero where there are none.
  template <int kCount>
  __device__ __forceinline__ void read(const Row& row, const Place& place, S (&values)[kCount]) const {
    struct alignas(kCount * sizeof(S)) Together {
      S v[kCount];
    };
    static_assert(CrewShape::kUnitsApart % kCount == 0);
    if (!Phase::kTransposed && even_ && row.exists && place.count >= kCount) {
      const Together all = *reinterpret_cast<const Together*>(row.first + place.k);
#pragma unroll
      for (int v = 0; v < kCount; ++v) values[v] = all.v[v];
      return;
    }
#pragma unroll
    for (int v = 0; v < kCount; ++v)
      values[v] = row.exists && v < place.count ? row.first[(place.k + v) * (Phase::kTransposed ? row_ : 1)]
                                                : narrowed<S>(0);
  }

 private:
  const CrewShape& shape_;
  const S* const data_;
  const int64_t row_, all_units_;
  const int first_unit_, units_of_column_, first_member_;
  const bool even_;  // rows can be read four values at a time
};

}  // namespace rnnfast
