// What a schedule is given: sizes, strides and pointers. No torch, no cell, no device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace rnnfast {

enum class Dtype { f32, f64, bf16, f16 };

// As in ONNX: `bidirectional` runs even groups forward in time and odd groups in reverse.
enum class Direction { forward, reverse, bidirectional };

constexpr bool is_reversed(Direction direction, int64_t group) {
  return direction == Direction::reverse || (direction == Direction::bidirectional && group % 2 == 1);
}

constexpr int kMaxStreams = 11;
constexpr int kMaxEnds = 6;
constexpr int kMaxMatrices = 3;
constexpr int kMaxVectors = 4;
constexpr int kMaxUnitSets = 2;

// One row of values for every (group, step, row of the batch). Strides count elements; the values of a row
// are contiguous. In a packed stream all steps lie one behind the other and `step` is not used.
struct Stream {
  void* data = nullptr;
  int64_t group = 0, step = 0, row = 0;
};

// One row of values for every (group, row of the batch): what enters or leaves at a sequence's end.
struct End {
  void* data = nullptr;
  int64_t group = 0, row = 0;
};

// A weight matrix of each group, `rows` x `columns`, as torch keeps it: (gates * units, units of the
// operand). With scales, of 8 bits, groups one behind the other as cpu/int8.h has them.
struct Matrix {
  const void* data = nullptr;
  int64_t group = 0, row = 0;
  int64_t rows = 0, columns = 0;
  const float* scales = nullptr;
};

// One value for every (group, gate, unit), gates one behind the other: a bias, a gain.
struct Vector {
  const void* data = nullptr;
  int64_t group = 0;
};

// What is random in states: a share of the candidates of a sequence is dropped, states keep a share of what
// they were (cells/cell.h says where). Random numbers are functions of the seed and of a place.
struct Noise {
  double dropout = 0, zoneout_h = 0, zoneout_c = 0;  // probabilities
  // A key, and the number of the first step; where the pass runs. Null: all is as it would be on average.
  const int64_t* seed = nullptr;

  bool any() const { return dropout > 0 || zoneout_h > 0 || zoneout_c > 0; }
};

// One pass over a sequence batch, forward or BPTT. Which stream, end, matrix and vector stands in which place
// is the cell's business; absent ones have null data.
struct Recurrence {
  int64_t T = 0, B = 0, G = 1;
  int64_t units[kMaxUnitSets] = {};
  Direction direction = Direction::forward;

  // Rows 0 .. counts[t]-1 are active at step t; counts never grow with t. Null: all B rows, always.
  const int64_t* counts = nullptr;
  // Packed streams: the place of step t's first row. Null: streams are padded (their `step` stride counts).
  const int64_t* offsets = nullptr;

  // Rows that begin anywhere in padded streams, several of them behind one another in one row of these: how
  // many rows of values after the streams' first each begins, where all rows of all steps are `row` apart.
  // Null: row b begins at row b.
  const int64_t* origins = nullptr;
  int64_t padded = 0;  // with origins: (step, row) pairs of padded streams

  Stream streams[kMaxStreams];
  End ends[kMaxEnds];
  Matrix matrices[kMaxMatrices];
  Vector vectors[kMaxVectors];

  // One value for each row and step, in the dtype that values are computed in, without gaps: the norm of what
  // the cell records there.
  Stream norms;
  // Gradients of states are kept between -clip and clip.
  double clip = std::numeric_limits<double>::infinity();
  Noise noise;
  bool relu = false;  // instead of tanh, where a cell leaves that open

  int64_t active(int64_t t) const { return counts ? counts[t] : B; }

  // Of the widest unit set.
  int64_t most_units() const { return *std::max_element(units, units + kMaxUnitSets); }

  int64_t position(const Stream& s, int64_t g, int64_t t) const {
    return g * s.group + (offsets ? offsets[t] * s.row : t * s.step);
  }

  int64_t origin(int64_t row) const { return origins ? origins[row] : row; }

  // (group, step, row of the batch) triples of streams.
  int64_t positions() const {
    return G * (offsets ? offsets[T - 1] + counts[T - 1] : origins ? padded : T * B);
  }

  bool reversed(int64_t g) const { return is_reversed(direction, g); }
};

}  // namespace rnnfast
