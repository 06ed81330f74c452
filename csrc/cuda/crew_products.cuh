// The part of a phase's matrix that a member of a crew has (crew_shape.h), times the operand. Weights stay in
// registers and shared memory for all steps; sums of parts of the operand are left in shared memory.
#pragma once

#include "crew_shape.h"
#include "values.cuh"

namespace rnnfast {

// Two 16-bit values, or one rounded to TF32, in a register.
template <class S>
__device__ __forceinline__ uint32_t register_of(const S* v) {
  return *reinterpret_cast<const uint32_t*>(v);
}

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
        first_unit_(shape.scatters ? 0 : rank * shape.units),
        units_of_column_(shape.scatters ? shape.results : shape.units),
        first_member_(shape.scatters ? rank : 0),
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
    const int member = first_member_ + chunk / shape_.slice_chunks;
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

template <class Phase, class S, CudaSchedule kSchedule>
class CrewMma {
 public:
  using Shape = CrewMmaShape;
  using Operand = S;  // float: rounded to TF32
  using Result = float;
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
    columns_ = opaque(shape.rows - 2 * lane_pair_);
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
    if (works()) multiply_tiles(operand);
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

  __device__ __forceinline__ void multiply_tiles(const S* operand) const {
    if (tiles_ < 2) return multiply_tiles<1>(operand);
    if (tiles_ < 3) return multiply_tiles<2>(operand);
    if (tiles_ < 4) return multiply_tiles<3>(operand);
    if (tiles_ < 5) return multiply_tiles<4>(operand);
    if constexpr (Shape::most_tiles(kSchedule) > 4) {
      if (tiles_ < 7) return multiply_tiles<6>(operand);
      multiply_tiles<8>(operand);
    }
  }

  template <int kTiles>
  __device__ __forceinline__ void multiply_tiles(const S* operand) const {
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
    float* to = results_ + to_;
#pragma unroll
    for (int column = 0; column < 2; ++column, to += stride_) {
      if (column >= columns_) return;
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
  int count_, apart_;        // of chunks: how many; from one to the next
  int from_, to_, columns_;  // where its operand and its results begin; of these, how many are of a row
  const int lane_row_, lane_pair_;
};

// kSchedule: of the kernels that multiply like that. Where S has 16 bits it is for lanes alone.
template <class Phase, class S, CudaSchedule kSchedule>
class CrewFma {
  using C = Compute<S>;

 public:
  using Shape = CrewFmaShape;
  using Operand = C;
  using Result = C;
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
    C sums[kRows][kSums] = {};
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (chunk(i) < shape_.chunks)
        add<kRows, kSums>(from + chunk(i) * kRows, [&](int sum) { return held_[i * kSums + sum]; }, sums);
#pragma unroll 1
    for (int i = kHeld; chunk(i) < shape_.chunks; ++i)
      add<kRows, kSums>(from + chunk(i) * kRows, [&](int sum) { return at(i, sum); }, sums);
    C* to = results_ + static_cast<int64_t>(slice_) * kRows * shape_.stride + set_ * kSums;
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
