// A member's products by fused multiply-adds.
#pragma once

#include "crew_products.cuh"

namespace rnnfast {

// kSchedule: of the kernels that multiply like that. Where S has 16 bits it is for lanes alone.
template <class Phase, class S, CudaSchedule kSchedule>
class CrewFma {
  using C = Compute<S>;

 public:
  using Shape = CrewFmaShape;
  using Operand = C;
  static constexpr int kChunk = Shape::kChunkBytes / sizeof(C), kColumns = Phase::kColumns;
  static constexpr bool kLanes = Shape::has_lanes(kSchedule), kParts = sizeof(S) != 2;

  __device__ static CrewSeat seat(const Shape& shape) {
    const int i = static_cast<int>(threadIdx.x);
    if (!kLanes || shape.lanes == 0) return {i / shape.units, i % shape.units};
    const int local = i / shape.lanes;
    return {local < shape.units ? i % shape.lanes : shape.rows, local};
  }

  __device__ static C as_operand(C v) { return v; }

  __device__ __forceinline__ CrewFma(const Shape& shape, const Matrix& m, int64_t group, int64_t units,
                                     int rank, unsigned char* memory)
      : shape_(shape),
        parts_(shape, seat(shape), memory),
        results_(reinterpret_cast<C*>(memory + shape.results_at)) {
    const CrewWeights<Phase, S> read(shape, m, group, units, rank);
    const int i = static_cast<int>(threadIdx.x);
    weights_ = reinterpret_cast<Values*>(memory + shape.weights_at) + i;
    zeros_ = reinterpret_cast<const Values*>(memory + CrewShape::kZerosAt);
    while (kLanes && lanes_ < shape.lanes) lanes_ = lanes_ == 0 ? 1 : 2 * lanes_;
    while (rows_ < shape.rows) rows_ *= 2;
    if (kLanes && lanes_ > 0) {
      set_ = i / lanes_, slice_ = i % lanes_, apart_ = shape.rows * lanes_;
      there_ = (shape.chunks - slice_ + lanes_ - 1) / lanes_;
      own_chunks_ = (shape.chunks + lanes_ - 1) / lanes_;
      if (set_ < shape.units)
        take_weights(read, own_chunks_ * kColumns, [&](int at, int& result) {
          result = at % kColumns * shape.units + set_;
          return at / kColumns * lanes_ + slice_;
        });
    } else if constexpr (kParts) {
      set_ = i % shape.sets, slice_ = i / shape.sets;
      if (slice_ < shape.slices)
        take_weights(read, shape.own_chunks * kSums, [&](int at, int& result) {
          result = set_ * kSums + at % kSums;
          return chunk(at / kSums);
        });
    }
  }

  // The results of the thread's unit. By all threads of the block.
  __device__ __forceinline__ void multiply(const C* operand, C (&sums)[kColumns]) const {
    if (kLanes && lanes_ > 0) return with_rows([&](auto rows) { multiply_in_lanes(rows, operand, sums); });
    if constexpr (kParts) {
      multiply_parts(operand);
      sync_block();
      parts_.add(sums);
    }
  }
  // As CrewMma has it.
  __device__ __forceinline__ void multiply_parts(const C* operand) const {
    if (slice_ < shape_.slices) with_rows([&](auto rows) { multiply_rows(rows, operand); });
  }

 private:
  static constexpr int kSums = Shape::kSums, kHeld = Shape::held_for(sizeof(C));
  struct alignas(16) Values {
    C v[kChunk];
  };
  template <int kRows>
  struct Rows {};

  template <class F>
  __device__ __forceinline__ void with_rows(const F& f) const {
    // By comparisons: tables of addresses to go to take longer.
    if (rows_ < 2) return f(Rows<1>{});
    if (rows_ < 4) return f(Rows<2>{});
    if (rows_ < 8) return f(Rows<4>{});
    if constexpr (sizeof(C) == 4) return f(Rows<8>{});
  }

  // `place` has the result and the chunk of the vector of weights with that number.
  template <class Place>
  __device__ __forceinline__ void take_weights(const CrewWeights<Phase, S>& read, int count,
                                               const Place& place) {
#pragma unroll 2
    for (int i = 0; i < count; ++i) {
      S stored[kChunk];
      int result;
      const int chunk_of_it = place(i, result);
      read.read(read.row(result), read.place(chunk_of_it, 0), stored);
      Values w;
#pragma unroll
      for (int v = 0; v < kChunk; ++v) w.v[v] = widened(stored[v]);
      if (i < kHeld * kSums) {
        set_register(held_, i, w);
      } else {
        at(i / kSums, i % kSums) = w;
      }
    }
  }

  // Neighbours read neighbours.
  __device__ __forceinline__ int chunk(int i) const { return i * shape_.slices + slice_; }
  __device__ __forceinline__ Values& at(int i, int sum) const {
    return weights_[((i - kHeld) * kSums + sum) * (shape_.sets * shape_.slices)];
  }

  template <int kRows, int kCount, class Weights>
  __device__ __forceinline__ void add(const Values* from, const Weights& weights,
                                      C (&sums)[kRows][kCount]) const {
    Values x[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) x[row] = from[row];
#pragma unroll
    for (int sum = 0; sum < kCount; ++sum) {
      const Values w = weights(sum);
#pragma unroll
      for (int row = 0; row < kRows; ++row)
#pragma unroll
        for (int v = 0; v < kChunk; ++v) sums[row][sum] += w.v[v] * x[row].v[v];
    }
  }

  // Neighbouring lanes have a unit's products of different chunks, and add them up.
  template <int kRows>
  __device__ __forceinline__ void multiply_in_lanes(Rows<kRows>, const C* operand,
                                                    C (&results)[kColumns]) const {
    constexpr int kMost = kHeld * kSums / kColumns, kTogether = kRows >= 4 ? 1 : 4 / kRows;
    // Sums that do not wait for each other; as many for any number of rows, whose sums have the same bits.
    constexpr int kChains = kColumns >= 3 ? 1 : 2;
    const auto* from = reinterpret_cast<const Values*>(operand) + slice_ * kRows;
    C sums[kRows][kColumns][kChains] = {};
#pragma unroll
    for (int first = 0; first < kMost; first += kTogether) {
      if (first >= own_chunks_) break;
      Values x[kTogether][kRows];
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
#pragma unroll
        for (int row = 0; row < kRows; ++row)
          x[i][row] = (first + i < there_ ? from + (first + i) * apart_ : zeros_)[row];
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
#pragma unroll
        for (int column = 0; column < kColumns; ++column)
#pragma unroll
          for (int row = 0; row < kRows; ++row)
#pragma unroll
            for (int v = 0; v < kChunk; ++v)
              if (first + i < kMost)
                sums[row][column][v % kChains] +=
                    held_[(first + i) * kColumns + column].v[v] * x[i][row].v[v];
    }
    C of_rows[kRows][kColumns];
#pragma unroll
    for (int row = 0; row < kRows; ++row)
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        C sum = sums[row][column][0];
#pragma unroll
        for (int chain = 1; chain < kChains; ++chain) sum += sums[row][column][chain];
        of_rows[row][column] = sum;
      }
    // A lane keeps every second row of those that it has until it has its own, and hands on the others.
    int mask = 1;
#pragma unroll
    for (int rows = kRows; rows > 1; rows /= 2, mask *= 2) {
      const bool second = slice_ & mask;
#pragma unroll
      for (int row = 0; row < rows / 2; ++row)
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
          const C first = of_rows[2 * row][column], other = of_rows[2 * row + 1][column];
          of_rows[row][column] = (second ? other : first) + shuffle_xor(second ? first : other, mask);
        }
    }
    for (; mask < lanes_; mask *= 2)
#pragma unroll
      for (int column = 0; column < kColumns; ++column)
        of_rows[0][column] += shuffle_xor(of_rows[0][column], mask);
#pragma unroll
    for (int column = 0; column < kColumns; ++column) results[column] = of_rows[0][column];
  }

  template <int kRows>
  __device__ __forceinline__ void multiply_rows(Rows<kRows>, const C* operand) const {
    const auto* from = reinterpret_cast<const Values*>(operand);
    C* to = results_ + static_cast<int64_t>(slice_) * rows_ * shape_.stride + set_ * kSums;
    if constexpr (kRows < Shape::kRowsAtATime) {
      multiply_some<kRows>(from, kRows, to);
    } else {
#pragma unroll 1
      for (int first = 0; first < rows_; first += kRows)
        multiply_some<kRows>(from + first, rows_, to + first * shape_.stride);
    }
  }

  // Of rows whose chunks are so many vectors apart.
  template <int kRows>
  __device__ __forceinline__ void multiply_some(const Values* from, int apart, C* to) const {
    C sums[kRows][kSums] = {};
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (chunk(i) < shape_.chunks)
        add<kRows, kSums>(from + chunk(i) * apart, [&](int sum) { return held_[i * kSums + sum]; }, sums);
#pragma unroll 1
    for (int i = kHeld; chunk(i) < shape_.chunks; ++i)
      add<kRows, kSums>(from + chunk(i) * apart, [&](int sum) { return at(i, sum); }, sums);
#pragma unroll
    for (int row = 0; row < kRows; ++row)
#pragma unroll
      for (int first = 0; first < kSums; first += kChunk) {
        Values some;
#pragma unroll
        for (int v = 0; v < kChunk; ++v) some.v[v] = sums[row][first + v];
        *reinterpret_cast<Values*>(to + row * shape_.stride + first) = some;
      }
  }

  const Shape& shape_;
  const CrewParts<C> parts_;
  C* const results_;
  Values* weights_;
  const Values* zeros_;
  Values held_[kHeld * kSums] = {};
  int set_, slice_, rows_ = 1;
  // Where lanes add up: how many; of a lane's chunks how many there are at most, there are, and how far
  // apart they are. As rows_, computed and not read from the shape, so that they stay in registers.
  int lanes_ = 0, own_chunks_ = 0, there_ = 0, apart_ = 0;
};

}  // namespace rnnfast
