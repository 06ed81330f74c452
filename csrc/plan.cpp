#include "plan.h"

#include <algorithm>
#include <stdexcept>

namespace rnnfast {
namespace {

int gates(Cell) { return 1; }

int element_bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : 4; }

// Waking a further worker and waiting for it costs a few microseconds; below this much arithmetic for each
// worker it does not pay.
constexpr double kWorthAWorker = 2.5e5;  // flop

template <class Value, size_t N>
Value from_name(const char* what, const std::string& given, const std::pair<const char*, Value> (&known)[N]) {
  std::string expected;
  for (const auto& [text, value] : known) {
    if (given == text) return value;
    expected += std::string(expected.empty() ? "" : ", ") + "'" + text + "'";
  }
  throw std::invalid_argument(std::string(what) + ": got '" + given + "', expected one of " + expected);
}

}  // namespace

Plan plan(const Problem& p) {
  // In BPTT a matrix result is dh: one column for each unit, over all gates.
  const int columns = p.pass == Pass::forward ? gates(p.cell) : 1;
  const double flop = 2.0 * p.T * p.B * p.G * p.H * p.H * gates(p.cell);
  const int64_t rows = std::max<int64_t>(1, p.B * p.G);
  const int64_t paid = std::max<int64_t>(1, static_cast<int64_t>(flop / kWorthAWorker));

  Plan plan;
  plan.schedule = "batch_split";
  plan.workers = static_cast<int>(std::min({static_cast<int64_t>(std::max(1, p.threads)), rows, paid}));
  plan.tile = tile_for(p.isa, columns);
  plan.tile_columns = plan.tile.vectors * vector_bytes(p.isa) / element_bytes(p.dtype);
  plan.isa = name(p.isa);
  plan.why = plan.workers == p.threads ? "one worker per thread, each owns rows of the batch"
             : plan.workers == rows    ? "as many workers as rows of the batch"
                                       : "too little work for more workers";
  return plan;
}

std::string describe(const Plan& p) {
  return std::string(p.schedule) + " workers=" + std::to_string(p.workers) +
         " tile=" + std::to_string(p.tile.rows) + "x" + std::to_string(p.tile_columns) + " isa=" + p.isa +
         " (" + p.why + ")";
}

Cell cell_from_name(const std::string& name) {
  return from_name<Cell>("cell", name, {{"elman_tanh", Cell::elman_tanh}, {"elman_relu", Cell::elman_relu}});
}

Pass pass_from_name(const std::string& name) {
  return from_name<Pass>("pass", name, {{"forward", Pass::forward}, {"bptt", Pass::bptt}});
}

Dtype dtype_from_name(const std::string& name) {
  return from_name<Dtype>(
      "dtype", name,
      {{"float32", Dtype::f32}, {"float64", Dtype::f64}, {"bfloat16", Dtype::bf16}, {"float16", Dtype::f16}});
}

Isa isa_from_name(const std::string& name) {
  return from_name<Isa>("isa", name,
                        {{"baseline", Isa::baseline}, {"avx2", Isa::avx2}, {"avx512", Isa::avx512}});
}

}  // namespace rnnfast
