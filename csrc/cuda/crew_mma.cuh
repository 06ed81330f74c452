// A member's products by tensor cores (mma.sync), of 16-bit values or of float32 rounded to TF32.
#pragma once

#include "crew_products.cuh"

namespace rnnfast {

// Two 16-bit values, or one rounded to TF32, in a register.
template <class S>
__device__ __forceinline__ uint32_t register_of(const S* v) {
  return *reinterpret_cast<const uint32_t*>(v);
}

template <class Phase, class S, CudaSchedule kSchedule>
class CrewMma {
 public:
  using Shape = CrewMmaShape;
  using Operand = S;  // float: rounded to TF32
  static constexpr int kChunk = Shape::kChunkBytes / sizeof(S), kColumns = Phase::kColumns;

  __device__ static CrewSeat seat(const Shape& shape) {
    return {static_cast<int>(threadIdx.x) / shape.units, static_cast<int>(threadIdx.x) % shape.units};
  }

  __device__ static S as_operand(float v) {
    if constexpr (sizeof(S) == 4) {
      return rounded_to_tf32(v);
    } else {
      return narrowed<S>(v);
    }
  }

  __device__ __forceinline__ CrewMma(const Shape& shape, const Matrix& m, int64_t group, int64_t units,
                                     int rank, unsigned char* memory)
      : parts_(shape, seat(shape), memory),
        lane_row_(static_cast<int>(threadIdx.x) % 32 / 4),
        lane_pair_(static_cast<int>(threadIdx.x) % 4) {
    const int beyond = shape.fragments - shape.held_fragments;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    // Once, and held in registers: quotients and reads of arguments take long.
    slice_ = opaque(warp / shape.groups), group_ = warp % shape.groups;
    slices_ = shape.slices, tiles_ = opaque(shape.tiles), stride_ = opaque(shape.stride);
    zeros_ = reinterpret_cast<const S*>(memory + CrewShape::kZerosAt) + lane_pair_ * 2 * kPerRegister;
    results_ = reinterpret_cast<float*>(memory + shape.results_at);
    const int first_chunk = slice_ * shape.own_chunks, left = shape.chunks - first_chunk;
    count_ = opaque(left < shape.own_chunks ? left : shape.own_chunks);
    // Columns of the n8 beyond the rows repeat the last row.
    const int row = lane_row_ < shape.rows ? lane_row_ : shape.rows - 1;
    apart_ = opaque(shape.rows * kChunk);
    from_ = opaque(first_chunk * apart_ + row * kChunk + lane_pair_ * 2 * kPerRegister);
    to_ = opaque((slice_ * shape.rows + 2 * lane_pair_) * shape.stride + result(0));
    rows_ = opaque(shape.rows);
    weights_ = reinterpret_cast<Fragment*>(memory + shape.weights_at) + warp * beyond * 32 +
               static_cast<int>(threadIdx.x) % 32;
    const CrewWeights<Phase, S> read(shape, m, group, units, rank);
    if (!works()) return;
#pragma unroll 2
    for (int i = 0; i < shape.fragments; ++i) {
      const int chunk = i / shape.tiles;
      const Fragment f = chunk < count_ ? fragment(read, i % shape.tiles, first_chunk + chunk) : Fragment{};
      if (i < shape.held_fragments) {
        set_register(held_, i, f);
      } else {
        weights_[(i - shape.held_fragments) * 32] = f;
      }
    }
  }

  // The results of the thread's unit. By all threads of the block.
  __device__ __forceinline__ void multiply(const S* operand, float (&sums)[kColumns]) const {
    multiply_parts(operand);
    sync_block();
    parts_.add(sums);
  }
  // Parts of all results, to shared memory.
  __device__ __forceinline__ void multiply_parts(const S* operand) const {
    if (!works()) return;
#pragma unroll 1
    for (int first_row = 0; first_row < rows_; first_row += Shape::kRowsAtATime)
      multiply_tiles(operand + first_row * kChunk, first_row);
  }

 private:
  static constexpr int kPerRegister = 4 / sizeof(S);

  struct alignas(16) Fragment {
    uint32_t r[4];
  };
  struct alignas(8) Pair {
    uint32_t r[2];
  };
  __device__ __forceinline__ bool works() const { return slice_ < slices_; }
  // The result of lane_row_ in one of the warp's tiles.
  __device__ __forceinline__ int result(int tile) const { return (group_ * tiles_ + tile) * 16 + lane_row_; }

  // Registers 0 and 2: the tile's row lane_row_, each half of the terms; 1 and 3: that eight below. Which
  // terms these are is up to us, as long as operands are read alike: a lane reads those of both its registers
  // in one piece.
  __device__ __forceinline__ Fragment fragment(const CrewWeights<Phase, S>& read, int tile, int chunk) const {
    Fragment f;
    const auto place = read.place(chunk, lane_pair_ * 2 * kPerRegister);
#pragma unroll
    for (int eight = 0; eight < 2; ++eight) {
      S values[2 * kPerRegister];
      read.read(read.row(result(tile) + 8 * eight), place, values);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        alignas(4) S own[kPerRegister];
#pragma unroll
        for (int v = 0; v < kPerRegister; ++v) own[v] = as_operand(widened(values[half * kPerRegister + v]));
        f.r[2 * half + eight] = register_of(own);
      }
    }
    return f;
  }

  __device__ __forceinline__ void multiply_tiles(const S* operand, int first_row) const {
    if (tiles_ < 2) return multiply_tiles<1>(operand, first_row);
    if (tiles_ < 3) return multiply_tiles<2>(operand, first_row);
    if (tiles_ < 4) return multiply_tiles<3>(operand, first_row);
    if (tiles_ < 5) return multiply_tiles<4>(operand, first_row);
    if constexpr (Shape::most_tiles(kSchedule) > 4) {
      if (tiles_ < 7) return multiply_tiles<6>(operand, first_row);
      multiply_tiles<8>(operand, first_row);
    }
  }

  template <int kTiles>
  __device__ __forceinline__ void multiply_tiles(const S* operand, int first_row) const {
    constexpr int kChains = Shape::chains(kTiles), kHeldChunks = Shape::kHeld / kTiles;
    // Chunks whose operands are read at once, and waited for together.
    constexpr int kTogether = 4;
    const S* from = operand + from_;
    const auto operand_of = [&](int i) {
      return *reinterpret_cast<const Pair*>(i < count_ ? from + i * apart_ : zeros_);
    };
    float sums[kTiles][kChains][4] = {};
#pragma unroll
    for (int first = 0; first < kHeldChunks; first += kTogether) {
      if (first >= count_) break;
      Pair b[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) b[i] = operand_of(first + i);
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
          if (first + i < kHeldChunks)
            mma(sums[tile][i % kChains], held_[(first + i) * kTiles + tile].r, b[i].r, S{});
    }
    const Fragment* weights = weights_;
#pragma unroll 1
    for (int i = kHeldChunks; i < count_; i += kChains, weights += kChains * kTiles * 32) {
      Pair b[kChains];
      Fragment w[kChains][kTiles];
#pragma unroll
      for (int chain = 0; chain < kChains; ++chain) {
        b[chain] = operand_of(i + chain);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) w[chain][tile] = weights[(chain * kTiles + tile) * 32];
      }
#pragma unroll
      for (int chain = 0; chain < kChains; ++chain)
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) mma(sums[tile][chain], w[chain][tile].r, b[chain].r, S{});
    }
    float* to = results_ + to_ + first_row * stride_;
#pragma unroll
    for (int column = 0; column < 2; ++column, to += stride_) {
      if (first_row + 2 * lane_pair_ + column >= rows_) return;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float sum = 0;
#pragma unroll
          for (int chain = 0; chain < kChains; ++chain) sum += sums[tile][chain][2 * half + column];
          to[tile * 16 + half * 8] = sum;
        }
    }
  }

  const CrewParts<float> parts_;
  Fragment* weights_ = nullptr;
  const S* zeros_;
  float* results_;
  Fragment held_[Shape::kHeld] = {};
  int slice_, group_, slices_, tiles_, stride_;
  int count_, apart_;  // of chunks: how many; from one to the next
  int from_, to_;      // where its operand and its results begin
  int rows_;
  const int lane_row_, lane_pair_;
};

}  // namespace rnnfast
