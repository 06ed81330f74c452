// The matrix of a phase times its operand, for a few rows of the batch, by the threads of one block: the
// weights stay in registers and shared memory for all steps.
//
// A product says which (row, unit) each thread has results for (`items` of each of its `blocks`), and keeps
// the operand as it wants to read it: kRows rows of `stride` values of type Operand.
#pragma once

#include "accessor.cuh"
#include "shape.h"

namespace rnnfast {

// W[row][column] of a group, or its transpose; zero beyond its ends. `column` and `unit`: the gate and the
// unit that a row belongs to.
template <class Phase, class S>
class WeightReader {
 public:
  __device__ WeightReader(const Matrix& m, int64_t group, int64_t units)
      : data_(static_cast<const S*>(m.data) + group * m.group),
        row_(m.row),
        units_(units),
        inner_(Phase::kTransposed ? m.rows : m.columns) {}

  __device__ __forceinline__ S operator()(int column, int64_t unit, int64_t k) const {
    if (unit >= units_ || k >= inner_) return narrowed<S>(0);
    return Phase::kTransposed ? data_[k * row_ + unit] : data_[(column * units_ + unit) * row_ + k];
  }

 private:
  const S* data_;
  const int64_t row_, units_, inner_;
};

template <class Phase, class S>
class FmaProduct {
  using C = Compute<S>;
  static constexpr int kValues = 16 / sizeof(C);
  static constexpr int kUnits = FmaShape::units_for(Phase::kColumns), kSums = kUnits * Phase::kColumns;
  static constexpr int kHeld = FmaShape::kHeld;
  struct alignas(16) Values {
    C v[kValues];
  };

 public:
  using Shape = FmaShape;
  using Operand = C;
  static constexpr int kRows = Shape::kRows, kThreads = Shape::most_threads(sizeof(C)), kBlocks = 1,
                       kItems = 1;

  static Shape shape_for(const PhaseSize& sizes) { return {sizes, sizeof(C)}; }
  __device__ static C as_operand(C v) { return v; }

  // `weights`: room in shared memory.
  __device__ __forceinline__ FmaProduct(const Shape& shape, const Matrix& m, int64_t group, int64_t units,
                                        void* weights)
      : shape_(shape),
        weights_(static_cast<Values*>(weights) + threadIdx.x),
        set_(static_cast<int>(threadIdx.x) / shape.slices),
        slice_(static_cast<int>(threadIdx.x) % shape.slices) {
    const WeightReader<Phase, S> read(m, group, units);
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
#pragma unroll
      for (int sum = 0; sum < kSums; ++sum) held_[i][sum] = weight(read, i, sum);
    for (int i = kHeld; i < shape.vectors; ++i)
      for (int sum = 0; sum < kSums; ++sum) at(i, sum) = weight(read, i, sum);
  }

  __device__ __forceinline__ int row(int, int) const { return slice_ % kRows; }
  __device__ __forceinline__ int unit(int, int) const { return set_ * kUnits + slice_ / kRows; }
  // Whether this thread has the item at all.
  __device__ __forceinline__ bool has(int, int) const { return slice_ < kUnits * kRows; }

  // results[0][gate]: of this thread's item.
  __device__ __forceinline__ void multiply(int, const C* operand, C (&results)[1][Phase::kColumns]) const {
    C sums[kRows][kSums] = {};
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (i < shape_.vectors) add(operand, i, [&](int sum) { return held_[i][sum]; }, sums);
    for (int i = kHeld; i < shape_.vectors; ++i) add(operand, i, [&](int sum) { return at(i, sum); }, sums);
    add_slices(sums, results[0]);
  }

 private:
  // Two lanes that differ in one bit of their slice each add up one of two sums.
  __device__ __forceinline__ C add_halves(C low, C high, int bit) const {
    const bool upper = slice_ & bit;
    return (upper ? high : low) + shuffle_xor(upper ? low : high, bit);
  }

  // What all slices have, for the item of this one: the lowest bit says its row, those above its unit.
  __device__ __forceinline__ void add_slices(const C (&sums)[kRows][kSums],
                                             C (&result)[Phase::kColumns]) const {
    static_assert(kRows == 2 && (kUnits == 1 || kUnits == 4));
    constexpr int kColumns = Phase::kColumns;
    C of_row[kSums];
#pragma unroll
    for (int sum = 0; sum < kSums; ++sum) of_row[sum] = add_halves(sums[0][sum], sums[1][sum], 1);
#pragma unroll
    for (int gate = 0; gate < kColumns; ++gate) {
      if constexpr (kUnits == 1) {
        result[gate] = of_row[gate];
      } else {
        const C even = add_halves(of_row[gate], of_row[kColumns + gate], 2);
        const C odd = add_halves(of_row[2 * kColumns + gate], of_row[3 * kColumns + gate], 2);
        result[gate] = add_halves(even, odd, 4);
      }
    }
    for (int bit = kUnits * kRows; bit < shape_.slices; bit *= 2)
#pragma unroll
      for (int gate = 0; gate < kColumns; ++gate) result[gate] += shuffle_xor(result[gate], bit);
  }

  __device__ __forceinline__ Values weight(const WeightReader<Phase, S>& read, int vector, int sum) const {
    Values w;
#pragma unroll
    for (int v = 0; v < kValues; ++v)
      w.v[v] = widened(read(sum % Phase::kColumns, set_ * kUnits + sum / Phase::kColumns, first(vector) + v));
    return w;
  }

  // The place of a thread's vectors among those of the operand: neighbours read neighbours.
  __device__ __forceinline__ int first(int vector) const {
    return (vector * shape_.slices + slice_) * kValues;
  }
  __device__ __forceinline__ Values& at(int vector, int sum) const {
    return weights_[((vector - kHeld) * kSums + sum) * blockDim.x];
  }

  template <class Weights>
  __device__ __forceinline__ void add(const C* operand, int vector, const Weights& weights,
                                      C (&sums)[kRows][kSums]) const {
    Values x[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row)
      x[row] = *reinterpret_cast<const Values*>(operand + row * shape_.stride + first(vector));
#pragma unroll
    for (int sum = 0; sum < kSums; ++sum) {
      const Values w = weights(sum);
#pragma unroll
      for (int row = 0; row < kRows; ++row)
#pragma unroll
        for (int v = 0; v < kValues; ++v) sums[row][sum] += w.v[v] * x[row].v[v];
    }
  }

  const Shape& shape_;
  Values* const weights_;
  Values held_[kHeld][kSums];
  const int set_, slice_;
};

// Two 16-bit values, or one rounded to TF32, in a register.
template <class S>
__device__ __forceinline__ uint32_t register_of(const S* v) {
  return *reinterpret_cast<const uint32_t*>(v);
}

template <class Phase, class S, int kRowsOfBlock>
class MmaProduct {
 public:
  using Shape = MmaShape;
  using Operand = S;  // float: rounded to TF32
  static constexpr int kRows = kRowsOfBlock, kThreads = Shape::kThreads, kBlocks = Shape::kBlocks;
  static constexpr int kItems = kRows / 2;

  static Shape shape_for(const PhaseSize& sizes) { return {sizes, sizeof(S), kRows}; }
  __device__ static S as_operand(float v) {
    if constexpr (sizeof(S) == 4) {
      return rounded_to_tf32(v);
    } else {
      return narrowed<S>(v);
    }
  }

  __device__ __forceinline__ MmaProduct(const Shape& shape, const Matrix& m, int64_t group, int64_t units,
                                        void* weights)
      : shape_(shape),
        weights_(static_cast<Fragment*>(weights) + threadIdx.x % 32),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_row_(static_cast<int>(threadIdx.x) % 32 / 4),
        lane_pair_(static_cast<int>(threadIdx.x) % 4) {
    const WeightReader<Phase, S> read(m, group, units);
#pragma unroll
    for (int column = 0; column < kColumns; ++column)
#pragma unroll
      for (int step = 0; step < kHeldSteps; ++step) held_[column][step] = fragment(read, 0, column, step);
    for (int block = 0; block < kBlocks; ++block)
      for (int column = 0; exists(block) && column < kColumns; ++column)
        for (int step = block == 0 ? shape.held_steps : 0; step < shape.steps; ++step)
          at(block, column, step) = fragment(read, block, column, step);
  }

  // A lane has results of its column pair, for unit lane_row_ and for that eight below.
  __device__ __forceinline__ int row(int, int item) const {
    return kTwice ? lane_pair_ : 2 * lane_pair_ + item % 2;
  }
  __device__ __forceinline__ int unit(int block, int item) const {
    return (warp_ + block * Shape::kWarps) * Shape::kUnits + lane_row_ + 8 * (kTwice ? item : item / 2);
  }
  __device__ __forceinline__ bool has(int block, int) const { return exists(block); }

  __device__ __forceinline__ void multiply(int block, const S* operand,
                                           float (&results)[kItems][Phase::kColumns]) const {
    float sums[kColumns][kChains][4] = {};
    if (exists(block)) {
      int step = 0;
      if (block == 0) {
#pragma unroll
        for (int i = 0; i < kHeldSteps; ++i) {
          if (i < shape_.steps) {
            const Pair b = pair(operand, i);
#pragma unroll
            for (int column = 0; column < kColumns; ++column)
              mma(sums[column][i % kChains], held_[column][i].r, b.r, S{});
          }
        }
        step = shape_.held_steps;
      }
      for (; step < shape_.steps; step += kChains) {
#pragma unroll
        for (int chain = 0; chain < kChains; ++chain) {
          if (step + chain < shape_.steps) {
            const Pair b = pair(operand, step + chain);
#pragma unroll
            for (int column = 0; column < kColumns; ++column) {
              const Fragment w = at(block, column, step + chain);
              mma(sums[column][chain], w.r, b.r, S{});
            }
          }
        }
      }
    }
#pragma unroll
    for (int item = 0; item < kItems; ++item)
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        float sum = 0;
#pragma unroll
        for (int chain = 0; chain < kChains; ++chain) sum += sums[column][chain][kTwice ? 2 * item : item];
        results[item][column] = sum;
      }
  }

 private:
  static constexpr int kColumns = Phase::kColumns, kHeldSteps = Shape::held_steps_for(kColumns);
  // Columns 2 i and 2 i + 1 of the n8 are both row i.
  static constexpr bool kTwice = kRows == Shape::kFewRows;
  // Sums that do not wait for each other: an mma takes about 18 cycles.
  static constexpr int kChains = kColumns == 1 ? 4 : 1;
  static constexpr int kPerRegister = 4 / sizeof(S), kInner = 8 * kPerRegister;

  struct alignas(16) Fragment {
    uint32_t r[4];
  };
  struct Pair {
    uint32_t r[2];
  };

  __device__ __forceinline__ bool exists(int block) const {
    return warp_ + block * Shape::kWarps < shape_.blocks;
  }

  // Registers 0 and 2 of the lane: row lane_row_, values from kPerRegister lane_pair_ on, of each half; 1 and
  // 3: eight rows below.
  __device__ __forceinline__ Fragment fragment(const WeightReader<Phase, S>& read, int block, int column,
                                               int step) const {
    Fragment f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      alignas(4) S values[kPerRegister];
#pragma unroll
      for (int v = 0; v < kPerRegister; ++v) {
        const int k = step * kInner + i / 2 * (kInner / 2) + lane_pair_ * kPerRegister + v;
        values[v] = as_operand(widened(read(column, unit(block, 0) + 8 * (i % 2), k)));
      }
      f.r[i] = register_of(values);
    }
    return f;
  }

  // In shared memory: what the first blocks of all warps do not hold, then the second blocks.
  __device__ __forceinline__ Fragment& at(int block, int column, int step) const {
    const int own_steps = shape_.steps - (block == 0 ? shape_.held_steps : 0);
    const int own_step = step - (block == 0 ? shape_.held_steps : 0);
    const int before = block == 0 ? 0 : Shape::kWarps * kColumns * (shape_.steps - shape_.held_steps);
    return weights_[(before + (warp_ * kColumns + column) * own_steps + own_step) * 32];
  }

  __device__ __forceinline__ Pair pair(const S* operand, int step) const {
    const int row = kTwice ? lane_row_ / 2 : lane_row_;
    const S* from = operand + row * shape_.stride + step * kInner + lane_pair_ * kPerRegister;
    return {{register_of(from), register_of(from + kInner / 2)}};
  }

  const Shape& shape_;
  Fragment* const weights_;
  Fragment held_[kColumns][kHeldSteps];
  const int warp_, lane_row_, lane_pair_;
};

}  // namespace rnnfast
