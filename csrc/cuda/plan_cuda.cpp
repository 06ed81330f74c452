#include "plan_cuda.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "crew_shape.h"

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
constexpr double kStart = 8;     // us: reading the weights
constexpr double kLaunch = 2.5;  // us: of a kernel after another
constexpr double kL2Rate = 3e6, kFlops32 = 40e6, kFlops16 = 300e6, kFlops64 = 20e6;  // bytes and flops a us
constexpr int kLeastCapability = 80, kLeastForClusters = 90;
constexpr double kCrewCell = 600;  // cycles: a cell's arithmetic and barriers of the block, one unit a thread
constexpr double kMmaIssue = 8;  // cycles: of a scheduler
// Cycles: from what the members of a crew put to where all have it, through each other's shared memory and
// through the second-level cache; bytes that a multiprocessor reads from there in a cycle.
constexpr double kClusterExchange = 800, kGridExchange = 2400, kL2Bytes = 32;
}  // namespace gpu

constexpr int64_t kMostGroups = 65535;  // blocks of a grid's second dimension
// Offsets of the rows of a block are less than 2^31 elements.
constexpr int64_t kMostRowStride = (int64_t{1} << 31) / (2 * std::max(FmaShape::kRows, MmaShape::kMostRows));

// A plan of one launch that may serve.
struct Candidate {
  CudaPlan plan;
  std::string obstacle;
};

bool takes_mma(const CudaProblem& p) {
  return p.dtype == Dtype::bf16 || p.dtype == Dtype::f16 || (p.dtype == Dtype::f32 && p.tf32);
}

// What keeps any kernel of one launch from serving, if something does.
std::string obstacle(const CudaProblem& p, CudaSchedule schedule) {
  const std::string of = name(schedule);
  const int least = schedule == CudaSchedule::cluster ? gpu::kLeastForClusters : gpu::kLeastCapability;
  if (p.limits.capability < least)
    return of + " needs compute capability " + std::to_string(least / 10) + "." + std::to_string(least % 10);
  if (p.H == 0) return "no units";
  if (p.P > 0) return of + " has no projected LSTM";
  if (p.noisy) return of + " has no noise";
  if (p.G > kMostGroups) return "more groups than a grid takes";
  if (p.captured_packed) return of + " does not take packed sequences in a CUDA graph";
  if (p.row_stride > kMostRowStride) return "rows of the batch lie too far apart for " + of;
  return "";
}

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
  plan.rows = shape.rows, plan.crew = 1, plan.units = shape.units;
  plan.blocks = ceil_div(p.B, int64_t{shape.rows}) * p.G;
  plan.threads = shape.threads;
  plan.shared_memory = static_cast<int64_t>(shape.shared);
  plan.weight_registers = static_cast<int64_t>(shape.held);
  plan.microseconds = waves(p, plan) * (cycles + gpu::kCtaLatency) / gpu::kHz * 1e6;
}

Candidate cta(const CudaProblem& p) {
  Candidate c;
  c.plan.schedule = CudaSchedule::cta;
  const bool mma = takes_mma(p);
  c.plan.arithmetic = mma ? Arithmetic::mma : Arithmetic::fma;
  c.obstacle = obstacle(p, CudaSchedule::cta);
  if (!c.obstacle.empty()) return c;

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

// Cycles of a step of a member of a crew, but for its waiting for the others.
double crew_cycles(const CrewShape& shape, double instructions, double weight_bytes, double operand_bytes,
                   int result_bytes) {
  const double results = 2.0 * shape.slices * shape.rows * shape.results * result_bytes;
  return gpu::kCrewCell + std::max(instructions, (weight_bytes + operand_bytes) / gpu::kSharedBytes) +
         results / gpu::kSharedBytes;
}

double cycles(const CudaProblem&, const CrewMmaShape& shape) {
  const double warps = shape.groups * shape.slices, fragments = shape.tiles * shape.own_chunks;
  const double turns = static_cast<double>(ceil_div(shape.groups * shape.slices, gpu::kSchedulers));
  const int chains = shape.tiles >= 3 ? shape.tiles : 4;
  const double issue = std::max(fragments * turns * gpu::kMmaIssue, fragments / chains * gpu::kMmaLatency);
  const double weights = warps * fragments * CrewMmaShape::kFragmentBytes - static_cast<double>(shape.held);
  return crew_cycles(shape, issue, weights, static_cast<double>(shape.groups * shape.operand), 4);
}

double cycles(const CudaProblem& p, const CrewFmaShape& shape) {
  const double rate = p.dtype == Dtype::f64 ? gpu::kFmas64 : gpu::kFmas32;
  const double vectors = static_cast<double>(shape.slices) * shape.own_chunks;
  const double sums = static_cast<double>(shape.sets) * CrewFmaShape::kSums * vectors;
  const double weights = sums * CrewFmaShape::kChunkBytes - static_cast<double>(shape.held);
  // A warp reads a vector of each row at once, or a few of them.
  const double operands =
      static_cast<double>(ceil_div(shape.sets, 32)) * vectors * shape.rows * gpu::kSharedBytes;
  return crew_cycles(shape, sums * shape.chunk * shape.rows / rate, weights, operands,
                     compute_bytes(p.dtype));
}

// How often multiprocessors change crews; 0: no crew has room.
int64_t turns(const CudaProblem& p, CudaSchedule schedule, int crew, int64_t crews) {
  if (schedule == CudaSchedule::grid) return crews * crew <= p.limits.multiprocessors ? 1 : 0;
  int size = 0;
  while (size < DeviceLimits::kClusterSizes && DeviceLimits::cluster_size(size) != crew) ++size;
  if (size == DeviceLimits::kClusterSizes || p.limits.clusters[size] == 0) return 0;
  return ceil_div(crews, int64_t{p.limits.clusters[size]});
}

// Takes a plan for crews of that size, if it may serve and is the fastest so far.
template <class Shape>
void consider(Candidate& c, const CudaProblem& p, int crew, int rows) {
  const CudaSchedule schedule = c.plan.schedule;
  const bool cluster = schedule == CudaSchedule::cluster;
  const int bytes = c.plan.arithmetic == Arithmetic::mma ? storage_bytes(p.dtype) : compute_bytes(p.dtype);
  const int buffers = cluster ? CrewShape::kClusterBuffers : CrewShape::kGridBuffers;
  const Shape shape(phase_sizes(p)[0], bytes, crew, rows, buffers);
  const int64_t crews = ceil_div(p.B, int64_t{rows}) * p.G;
  const int64_t taken = turns(p, schedule, crew, crews);
  if (!shape.possible || static_cast<int64_t>(shape.shared) > p.limits.shared_memory) return;
  if (c.plan.crew == 0)
    c.obstacle = cluster ? "the GPU has no room for a cluster"
                         : "blocks of a crew do not fit the GPU at the same time";
  if (taken == 0) return;
  const double exchange = cluster ? gpu::kClusterExchange
                                  : gpu::kGridExchange + static_cast<double>(shape.operand) / gpu::kL2Bytes;
  const double microseconds = static_cast<double>(taken) * (cycles(p, shape) + exchange) / gpu::kHz * 1e6;
  if (c.plan.crew > 0 && microseconds >= c.plan.microseconds) return;
  c.obstacle.clear();
  c.plan.rows = rows, c.plan.crew = crew, c.plan.units = shape.units;
  c.plan.blocks = crews * crew;
  c.plan.threads = CrewShape::kThreads;
  c.plan.shared_memory = static_cast<int64_t>(shape.shared);
  c.plan.weight_registers = static_cast<int64_t>(shape.held);
  c.plan.exchange_bytes = cluster ? 0 : crews * 2 * static_cast<int64_t>(shape.operand);
  c.plan.microseconds = microseconds;
}

Candidate crews(const CudaProblem& p, CudaSchedule schedule) {
  Candidate c;
  c.plan.schedule = schedule;
  c.plan.arithmetic = takes_mma(p) ? Arithmetic::mma : Arithmetic::fma;
  c.obstacle = obstacle(p, schedule);
  if (!c.obstacle.empty()) return c;
  c.obstacle = schedule == CudaSchedule::cluster ? "W_hh does not fit the blocks of a cluster"
                                                 : "W_hh does not fit the multiprocessors";
  std::vector<int> sizes;
  if (p.wish_crew) {
    sizes = {*p.wish_crew};
  } else {
    const int most = schedule == CudaSchedule::cluster ? 16 : p.limits.multiprocessors;
    for (int size = 2; size <= most; size *= 2) sizes.push_back(size);
  }
  for (const int rows : {2, 4, CrewShape::kMostRows}) {
    if (p.wish_rows && rows != *p.wish_rows) continue;
    std::vector<int> of_rows = sizes;
    // As many as there is room for.
    const int64_t all = p.limits.multiprocessors / (ceil_div(p.B, int64_t{rows}) * p.G);
    if (schedule == CudaSchedule::grid && !p.wish_crew && all >= 2) of_rows.push_back(static_cast<int>(all));
    for (const int size : of_rows) {
      if (size < 2) continue;
      if (c.plan.arithmetic == Arithmetic::mma) {
        consider<CrewMmaShape>(c, p, size, rows);
      } else {
        consider<CrewFmaShape>(c, p, size, rows);
      }
    }
  }
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
  const double steps = static_cast<double>(p.T);
  Candidate best;
  bool first = true;
  for (const CudaSchedule schedule : {CudaSchedule::cta, CudaSchedule::cluster, CudaSchedule::grid}) {
    if (p.wish && schedule != *p.wish) continue;
    Candidate c = schedule == CudaSchedule::cta ? cta(p) : crews(p, schedule);
    if (first ||
        (c.obstacle.empty() && (!best.obstacle.empty() || c.plan.microseconds < best.plan.microseconds)))
      best = c;
    first = false;
  }
  if (!best.obstacle.empty()) {
    by_steps.why = best.obstacle;
    return by_steps;
  }
  if (!p.wish && best.plan.microseconds * steps + gpu::kStart > by_steps.microseconds * steps) {
    by_steps.why = "a product for each step is estimated to be faster";
    return by_steps;
  }
  best.plan.why = p.wish ? "as asked for"
                  : best.plan.schedule == CudaSchedule::cta
                      ? "W_hh fits the shared memory and registers of a block"
                  : best.plan.schedule == CudaSchedule::cluster ? "W_hh fits the blocks of a cluster"
                                                                : "W_hh fits the multiprocessors";
  return best.plan;
}

std::string describe(const CudaPlan& p) {
  if (p.schedule == CudaSchedule::stepwise) return "stepwise (" + p.why + ")";
  std::string text = std::string(name(p.schedule)) + " " + name(p.arithmetic);
  const auto add = [&](const char* what, int64_t number) { text += what + std::to_string(number); };
  add(" blocks=", p.blocks);
  if (p.schedule != CudaSchedule::cta) add(" crew=", p.crew);
  add(" tile=", p.rows), add("x", p.units), add(" threads=", p.threads), add(" shared=", p.shared_memory);
  add(" registers=", p.weight_registers);
  return text + " (" + p.why + ")";
}

CudaSchedule cuda_schedule_from_name(const std::string& given) {
  for (const CudaSchedule s :
       {CudaSchedule::stepwise, CudaSchedule::cta, CudaSchedule::cluster, CudaSchedule::grid})
    if (given == name(s)) return s;
  throw std::invalid_argument("schedule: got '" + given +
                              "', expected one of 'stepwise', 'cta', 'cluster', 'grid'");
}

}  // namespace rnnfast
