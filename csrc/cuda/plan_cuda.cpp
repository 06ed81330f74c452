#include "plan_cuda.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "shape.h"

namespace rnnfast {
namespace {

// What times are estimated from: an H100's rates. Only where they say stepwise beats cta do they decide.
namespace gpu {
constexpr double kHz = 1.7e9;
constexpr double kSharedBytes = 128;                   // of shared memory, a cycle
constexpr double kFmas32 = 128, kFmas64 = 64;          // a cycle, on one multiprocessor
constexpr double kMmaLatency = 18, kCtaLatency = 400;  // cycles: of an mma; of a step, whatever its size
constexpr double kCell = 270;                          // instructions: a cell's arithmetic and memory
constexpr int kSchedulers = 4;   // of a multiprocessor, an instruction of a warp a cycle each
constexpr double kCtaStart = 8;  // us: reading the weights
constexpr double kLaunch = 2.5;  // us: of a kernel after another
constexpr double kL2Rate = 3e6, kFlops32 = 40e6, kFlops16 = 300e6, kFlops64 = 20e6;  // bytes and flops a us
constexpr int kLeastCapability = 80;
}  // namespace gpu

constexpr int64_t kMostGroups = 65535;  // blocks of a grid's second dimension
// Offsets of the rows of a block are less than 2^31 elements.
constexpr int64_t kMostRowStride = (int64_t{1} << 31) / (2 * std::max(FmaShape::kRows, MmaShape::kMostRows));

// A cta kernel that may serve.
struct Candidate {
  CudaPlan plan;
  const char* obstacle = nullptr;
};

// A block's weights take most of a multiprocessor's registers: it has one at a time.
double waves(const CudaProblem& p, const CudaPlan& plan) {
  return static_cast<double>(ceil_div(plan.blocks, int64_t{p.limits.multiprocessors}));
}

// Of the cell's arithmetic, where each lane of `warps` warps has so many items.
double cell_cycles(double items, int64_t warps) {
  return gpu::kCell * items * static_cast<double>(ceil_div(warps, int64_t{gpu::kSchedulers}));
}

double fma_cycles(const CudaProblem& p, const PhaseSize& phase, const FmaShape& shape) {
  const double sums = static_cast<double>(phase.columns * phase.units * phase.inner);
  const double rate = p.dtype == Dtype::f64 ? gpu::kFmas64 : gpu::kFmas32;
  const double operand_reads =
      static_cast<double>(shape.threads) / 32 * shape.vectors * FmaShape::kRows * 128;
  return cell_cycles(1, shape.threads / 32) +
         std::max(sums * FmaShape::kRows / rate,
                  (static_cast<double>(shape.shared - shape.operands) + operand_reads) / gpu::kSharedBytes);
}

double mma_cycles(const PhaseSize& phase, const MmaShape& shape) {
  const double chain = phase.columns == 1 ? ceil_div(shape.steps, 4) : shape.steps;
  const double blocks = static_cast<double>(ceil_div(shape.blocks, MmaShape::kWarps));
  const double warps = static_cast<double>(std::min<int64_t>(shape.blocks, MmaShape::kWarps));
  const double operand_reads = warps * blocks * static_cast<double>(shape.operands) / 2;
  return cell_cycles(shape.rows / 2.0 * blocks, shape.threads / 32) + blocks * chain * gpu::kMmaLatency +
         (static_cast<double>(shape.shared - shape.operands) + operand_reads) / gpu::kSharedBytes;
}

template <class Shape>
void take(CudaPlan& plan, const CudaProblem& p, const Shape& shape, double cycles) {
  plan.rows = shape.rows, plan.units = shape.units;
  plan.blocks = ceil_div(p.B, int64_t{shape.rows}) * p.G;
  plan.threads = shape.threads;
  plan.shared_memory = static_cast<int64_t>(shape.shared);
  plan.weight_registers = static_cast<int64_t>(shape.held);
  plan.microseconds = waves(p, plan) * (cycles + gpu::kCtaLatency) / gpu::kHz * 1e6;
}

Candidate cta(const CudaProblem& p) {
  Candidate c;
  c.plan.schedule = CudaSchedule::cta;
  const bool mma = p.dtype == Dtype::bf16 || p.dtype == Dtype::f16 || (p.dtype == Dtype::f32 && p.tf32);
  c.plan.arithmetic = mma ? Arithmetic::mma : Arithmetic::fma;
  if (p.limits.capability < gpu::kLeastCapability) c.obstacle = "cta needs compute capability 8.0";
  if (p.H == 0) c.obstacle = "no units";
  if (p.P > 0) c.obstacle = "cta has no projected LSTM";
  if (p.cell == Cell::layer_norm_lstm) c.obstacle = "cta has no layer normalisation";
  if (p.noisy) c.obstacle = "cta has no noise";
  if (p.G > kMostGroups) c.obstacle = "more groups than a grid takes";
  if (p.captured_packed) c.obstacle = "cta does not take packed sequences in a CUDA graph";
  if (p.row_stride > kMostRowStride) c.obstacle = "rows of the batch lie too far apart for cta";
  if (c.obstacle) return c;

  const PhaseSize phase = phase_sizes(p)[0];
  bool possible = false;
  if (mma) {
    for (const int rows : {MmaShape::kMostRows, MmaShape::kFewRows}) {
      const MmaShape shape(phase, storage_bytes(p.dtype), rows);
      CudaPlan plan = c.plan;
      take(plan, p, shape, mma_cycles(phase, shape));
      const bool better = p.wish_rows ? rows == p.wish_rows : plan.microseconds < c.plan.microseconds;
      if (c.plan.rows == 0 || better) c.plan = plan;
      possible = shape.possible;
    }
  } else {
    const FmaShape shape(phase, compute_bytes(p.dtype));
    possible = shape.possible;
    take(c.plan, p, shape, fma_cycles(p, phase, shape));
  }
  if (!possible) c.obstacle = "more units than the threads of a block take";
  if (c.plan.shared_memory > p.limits.shared_memory)
    c.obstacle = "W_hh does not fit the shared memory and registers of a block";
  return c;
}

CudaPlan stepwise(const CudaProblem& p) {
  CudaPlan plan;
  for (const PhaseSize& phase : phase_sizes(p)) {
    const double weights = static_cast<double>(p.G * phase.columns * phase.units * phase.inner);
    const double rate = p.dtype == Dtype::f64              ? gpu::kFlops64
                        : p.dtype == Dtype::f32 && !p.tf32 ? gpu::kFlops32
                                                           : gpu::kFlops16;
    plan.microseconds += 2 * gpu::kLaunch + std::max(weights * storage_bytes(p.dtype) / gpu::kL2Rate,
                                                     2 * weights * static_cast<double>(p.B) / rate);
  }
  return plan;
}

}  // namespace

CudaPlan plan_cuda(const CudaProblem& p) {
  CudaPlan by_steps = stepwise(p);
  if (p.wish == CudaSchedule::stepwise) {
    by_steps.why = "as asked for";
    return by_steps;
  }
  Candidate c = cta(p);
  if (c.obstacle) {
    by_steps.why = c.obstacle;
    return by_steps;
  }
  const double steps = static_cast<double>(p.T);
  if (p.wish != CudaSchedule::cta &&
      c.plan.microseconds * steps + gpu::kCtaStart > by_steps.microseconds * steps) {
    by_steps.why = "a product for each step is estimated to be faster";
    return by_steps;
  }
  c.plan.why = p.wish ? "as asked for" : "W_hh fits the shared memory and registers of a block";
  return c.plan;
}

std::string describe(const CudaPlan& p) {
  char text[256];
  if (p.schedule == CudaSchedule::stepwise) {
    std::snprintf(text, sizeof text, "stepwise (%s)", p.why);
  } else {
    std::snprintf(text, sizeof text,
                  "cta %s blocks=%lld tile=%dx%d threads=%d shared=%lld registers=%lld (%s)",
                  name(p.arithmetic), static_cast<long long>(p.blocks), p.rows, p.units, p.threads,
                  static_cast<long long>(p.shared_memory), static_cast<long long>(p.weight_registers), p.why);
  }
  return text;
}

CudaSchedule cuda_schedule_from_name(const std::string& given) {
  for (const CudaSchedule s : {CudaSchedule::stepwise, CudaSchedule::cta})
    if (given == name(s)) return s;
  throw std::invalid_argument("schedule: got '" + given + "', expected one of 'stepwise', 'cta'");
}

}  // namespace rnnfast
