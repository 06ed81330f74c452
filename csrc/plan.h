// Which schedule runs a recurrence, with which tile and how many workers, and why. Plain C++: a plan for any
// machine can be asked for on any other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "recurrence.h"

namespace rnnfast {

enum class Isa { baseline, avx2, avx512 };
enum class Cell { elman_tanh, elman_relu, lstm, gru, layer_norm_lstm };
enum class Pass { forward, bptt };
// How the rows of the batch and the units are shared out (cpu/split.h), and whether matrices are packed into
// panels first or read in place (cpu/packing.h).
enum class Schedule { batch_split, unit_split };
enum class WeightLayout { packed, in_place };

// Matrix columns for each unit.
constexpr int gates(Cell cell) {
  return cell == Cell::lstm || cell == Cell::layer_norm_lstm ? 4 : cell == Cell::gru ? 3 : 1;
}

// Whether there is a c besides h.
constexpr bool has_c(Cell cell) { return cell == Cell::lstm || cell == Cell::layer_norm_lstm; }

constexpr int compute_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : 4; }
constexpr int storage_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int vector_bytes(Isa isa) { return isa == Isa::avx512 ? 64 : isa == Isa::avx2 ? 32 : 16; }

// The register tile of the CPU microkernel: rows of the batch x vectors of matrix columns.
struct Tile {
  int rows, vectors;
};

// `columns`: matrix columns per unit. AVX-512 has 32 registers: 24 accumulators, the panel's vectors and a
// broadcast. The others have 16, of which 12 accumulate. A tile holds whole units, so three gates take three
// vectors; other cells take four (AVX-512) or as few as fill the FMA pipes (two, for one column per unit).
constexpr Tile tile_for(Isa isa, int columns) {
  const bool wide = isa == Isa::avx512;
  if (columns == 3) return {wide ? 8 : 4, 3};
  if (columns == 4) return {wide ? 6 : 3, 4};
  return {6, wide ? 4 : 2};
}

constexpr const char* name(Schedule schedule) {
  return schedule == Schedule::batch_split ? "batch_split" : "unit_split";
}
constexpr const char* name(WeightLayout weights) {
  return weights == WeightLayout::packed ? "packed" : "in_place";
}
constexpr const char* name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "baseline";
}

// What a caller wants instead of the planner's choice; what cannot be had is brought as near as can be.
struct Wishes {
  std::optional<Schedule> schedule;
  std::optional<WeightLayout> weights;
  std::optional<int> workers;
};

struct Problem {
  Cell cell = Cell::elman_tanh;
  Pass pass = Pass::forward;
  int64_t T = 1, B = 1, H = 1, G = 1;
  int64_t I = 0;        // units of the input that the pass projects itself; 0: it is projected already
  int64_t P = 0;        // units of the state where a projection makes it differ from H
  bool initial = true;  // whether the first step multiplies: there is an initial state
  Dtype dtype = Dtype::f32;
  bool int8 = false;  // weights of 8 bits, which need no rearranging
  Isa isa = Isa::baseline;
  bool bf16_dots = false;  // as has_bf16_dots says
  int threads = 1;
  int processors = 1 << 20;  // threads beyond these would only take turns
  bool crowded = false;      // other programs have taken processors (cpu/team.h)
  Wishes wishes;
};

// What planners know of a cell's phase with a matrix: for each of `units` units, `columns` sums of length
// `inner`.
struct PhaseSize {
  int columns;
  int64_t units, inner;
};
std::vector<PhaseSize> phase_sizes(const Problem& problem);

struct Plan {
  Schedule schedule = Schedule::batch_split;
  int workers = 1;
  int crew = 1;  // workers that share rows, each with units of its own
  WeightLayout weights = WeightLayout::packed;
  Tile tile = {1, 1};
  int tile_columns = 1;
  const char* isa = "";  // avx512_bf16 where that instruction is used
  const char* why = "";
  double seconds = 0;  // as predicted for the machine that the planner's constants were measured on
};

Plan plan(const Problem& problem);

// Whether an environment variable is 0.
bool switched_off(const char* variable);

// Whether this processor multiplies pairs of bfloat16 by an instruction of its own (AVX512_BF16), which
// libraries do not take for granted; RNNFAST_BF16_DOTS=0 says no.
bool has_bf16_dots();

// Names as users write them ("elman_tanh", "bptt", "float32", "avx2"); throw std::invalid_argument otherwise.
Cell cell_from_name(const std::string& name);
Pass pass_from_name(const std::string& name);
Dtype dtype_from_name(const std::string& name);
Isa isa_from_name(const std::string& name);
Schedule schedule_from_name(const std::string& name);
WeightLayout weights_from_name(const std::string& name);

// One line, the same for the same plan.
std::string describe(const Plan& plan);

}  // namespace rnnfast
