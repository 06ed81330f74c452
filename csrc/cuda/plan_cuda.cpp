#include "plan_cuda.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "crew_shape.h"

namespace rnnfast {
// Fitted to steps of all plans for 44 layers on an H200, to 9 % of them (root mean square), and scaled by
// what the chains of instructions of a step became since, as the compiler's schedule has them: gates 0.5 of
// before, an mma's products 0.7. benchmarks/fit_cuda.py fits them again.
const std::array<WorkCost, kKindsOfWork>& work_costs() {
  static constexpr std::array<WorkCost, kKindsOfWork> kCosts{{
      // Barriers of the block, with products by fma, by fma in lanes, or by mma.
      {"step by fma", 440},
      {"step by fma in lanes", 280},
      {"step by mma", 620},
      {"gate", 115},                         // its arithmetic and memory
      {"row", 14},                           // its indices
      {"slice", 12},                         // a partial result, until it is added
      {"shuffle", 30},                       // an exchange between lanes
      {"mma, waited for", 27},               // by the next of its chain
      {"mma, issued", 9},                    // by a scheduler
      {"fma of 32 bits", 1 / 85.0},          // on one multiprocessor
      {"fma of 64 bits", 1 / 42.0},          // likewise
      {"byte in shared memory", 1 / 190.0},  // as far as products wait for it
      // Through the shared memory of others; more for each member and for each of the operand's parts.
      {"exchange in a cluster", 160},
      {"member of a cluster", 7.7},
      {"part of an operand in a cluster", 64},
      {"scattered sums", 100},
      // Through global memory: a write that others see, and a read; more for each member, and what it reads.
      {"exchange in a grid", 850},
      {"member of a grid", 3},
      {"byte of a grid", 1 / 64.0},
  }};
  return kCosts;
}

namespace {

namespace gpu {
constexpr double kHz = 1.7e9;
constexpr int kSchedulers = 4;  // of a multiprocessor
constexpr double kStart = 8;    // us: reading the weights, each time
constexpr double kLaunch = 5;   // us: of a kernel after another; with products by torch's operators, 11
constexpr double kL2Rate = 3e6, kFlops32 = 40e6, kFlops16 = 300e6, kFlops64 = 20e6;  // bytes and flops a us
constexpr int kLeastCapability = 80, kLeastForClusters = 90;
}  // namespace gpu

// Kernels of one launch count bytes between positions in streams, and positions, in 32 bits.
constexpr int64_t kMostPositions = int64_t{1} << 31, kMostStride = (int64_t{1} << 31) / 8;

// A plan with all steps in a launch, that may serve. microseconds: for a step, with its share of what comes
// before all steps.
struct Candidate {
  CudaPlan plan;
  std::string obstacle;
  double microseconds = 0;
};

bool takes_mma(const CudaProblem& p) {
  return p.dtype == Dtype::bf16 || p.dtype == Dtype::f16 || (p.dtype == Dtype::f32 && p.tf32);
}

// Whether what is multiplied has several values for each unit.
bool has_parts(const CudaProblem& p) {
  const PhaseSize phase = phase_sizes(p)[0];
  return phase.inner > phase.units;
}

// What keeps any kernel of one launch from serving, if something does.
std::string obstacle(const CudaProblem& p, CudaSchedule schedule) {
  const std::string of = name(schedule);
  const int least = in_clusters(schedule) ? gpu::kLeastForClusters : gpu::kLeastCapability;
  if (p.limits.capability < least)
    return of + " needs compute capability " + std::to_string(least / 10) + "." + std::to_string(least % 10);
  if (p.H == 0) return "no units";
  if (p.B == 0 || p.G == 0) return "no rows";
  if (p.P > 0) return of + " has no projected LSTM";
  if (p.cell == Cell::layer_norm_lstm) return of + " has no layer normalisation";
  if (p.noisy) return of + " has no noise";
  if (schedule == CudaSchedule::scatter && !has_parts(p)) return of + " is for BPTT of several gates";
  if (p.captured_packed) return of + " does not take packed sequences in a CUDA graph";
  if (p.stride >= kMostStride) return "steps lie too far apart for " + of;
  if (p.T == 0) return "no steps";
  if (p.T * p.B >= kMostPositions) return "too many steps for " + of;
  // Blocks are counted likewise.
  const int64_t of_a_row = schedule == CudaSchedule::cta ? 1 : CrewShape::kMostCrew;
  if (p.B * p.G >= kMostPositions / of_a_row) return "too many rows for " + of;
  return "";
}

// Of a step of a member of a crew, but for its waiting for the others.
WorkCount crew_work(const CrewShape& shape, double shared_bytes) {
  WorkCount work;
  work[Work::gate] = std::max(shape.columns, shape.parts);
  work[Work::row] = shape.rows;
  work[Work::shared_byte] = shared_bytes;
  return work;
}

// Of partial results in shared memory, which are written and read.
double slices_bytes(const CrewShape& shape, int result_bytes) {
  return 2.0 * shape.slices * shape.rows * shape.results * result_bytes;
}

WorkCount member_work(const CudaProblem&, const CrewMmaShape& shape) {
  const double warps = shape.groups * shape.slices, fragments = shape.tiles * shape.own_chunks;
  const double turns = static_cast<double>(ceil_div(shape.groups * shape.slices, gpu::kSchedulers));
  const double weights = warps * fragments * CrewMmaShape::kFragmentBytes - static_cast<double>(shape.held);
  const double operands =
      static_cast<double>(shape.groups * shape.chunks * shape.rows * CrewMmaShape::kChunkBytes);
  WorkCount work = crew_work(shape, weights * shape.times + operands + slices_bytes(shape, 4));
  work[Work::step_mma] = 1;
  work[Work::slice] = shape.slices;
  // Whichever takes longer.
  const int chains = shape.tiles >= 3 ? shape.tiles : 4;
  WorkCount issued, waited_for;
  issued[Work::mma_issue] = fragments * turns * shape.times;
  waited_for[Work::mma_latency] = fragments / chains * shape.times;
  const bool waits = waited_for.cycles() > issued.cycles();
  const Work longer = waits ? Work::mma_latency : Work::mma_issue;
  work[longer] = waits ? waited_for[longer] : issued[longer];
  return work;
}

WorkCount member_work(const CudaProblem& p, const CrewFmaShape& shape) {
  const Work fma = p.dtype == Dtype::f64 ? Work::fma64 : Work::fma32;
  if (shape.lanes > 0) {
    const double turns = static_cast<double>(ceil_div(shape.units * shape.lanes, 32 * gpu::kSchedulers));
    const double fmas = static_cast<double>(shape.own_chunks) * shape.columns * shape.chunk * shape.rows;
    WorkCount work =
        crew_work(shape, static_cast<double>(shape.own_chunks) * shape.rows * CrewShape::kWarps * 128);
    work[Work::step_lanes] = 1;
    work[Work::shuffle] = std::log2(shape.lanes);
    work[fma] = fmas * turns * 32 * gpu::kSchedulers;
    return work;
  }
  const double vectors = static_cast<double>(shape.slices) * shape.own_chunks;
  const double sums = static_cast<double>(shape.sets) * CrewFmaShape::kSums * vectors;
  const double weights = sums * CrewFmaShape::kChunkBytes - static_cast<double>(shape.held);
  // A warp reads a vector of each row at once, or a few of them.
  const double operands = static_cast<double>(ceil_div(shape.sets, 32)) * vectors * shape.rows * 128;
  // A scheduler is as late as it has warps.
  const double threads = static_cast<double>(shape.sets * shape.slices);
  const double turns = static_cast<double>(ceil_div(shape.sets * shape.slices, 32 * gpu::kSchedulers));
  const double idle = turns * 32 * gpu::kSchedulers / threads;
  WorkCount work =
      crew_work(shape, weights * shape.times + operands + slices_bytes(shape, compute_bytes(p.dtype)));
  work[Work::step_fma] = 1;
  work[Work::slice] = shape.slices;
  work[fma] = sums * shape.chunk * shape.rows * idle;
  return work;
}

// How often multiprocessors change crews; 0: a crew has no room. A block's weights take most of a
// multiprocessor's registers: it has one at a time.
int64_t turns(const DeviceLimits& limits, const Crew& crew, int64_t crews) {
  const int64_t at_once = limits.clusters_of(crew.cluster) / (crew.size / crew.cluster);
  return at_once == 0 ? 0 : ceil_div(crews, at_once);
}

// From what the members of a crew put to where all have it.
void add_exchange(WorkCount& work, CudaSchedule schedule, const CrewShape& shape) {
  if (shape.cluster > 1) {
    work[Work::cluster_exchange] = 1;
    work[Work::cluster_member] = shape.cluster;
    work[Work::cluster_part] = shape.parts;
  }
  // Of each peer partial results are written, and read by their unit's thread; another barrier of the block.
  if (shape.peers > 1) {
    work[Work::cluster_part] = shape.columns;
    work[Work::slice] += shape.peers;
    work[Work::scatter] = 1;
  }
  if (schedule == CudaSchedule::grid) {
    work[Work::grid_exchange] = 1;
    work[Work::grid_member] = shape.crew / shape.peers;
    work[Work::grid_byte] = static_cast<double>(shape.exchange_bytes()) / 2 / shape.peers;
  }
}

// Names of what does not fit.
struct Room {
  const char *found, *weights, *blocks;
};
Room room(CudaSchedule schedule) {
  switch (schedule) {
    case CudaSchedule::cluster:
    case CudaSchedule::scatter:
      return {"W_hh fits the blocks of a cluster", "W_hh does not fit the blocks of a cluster",
              "the GPU has no room for a cluster"};
    case CudaSchedule::grid:
      return {"W_hh fits the multiprocessors", "W_hh does not fit the multiprocessors",
              "the blocks of a crew do not fit the GPU at the same time"};
    case CudaSchedule::cta:
    case CudaSchedule::stepwise:
      break;
  }
  return {"W_hh fits the shared memory and registers of a block",
          "W_hh does not fit the shared memory and registers of a block", ""};
}

double microseconds_of(const WorkCount& work) { return work.cycles() / gpu::kHz * 1e6; }

// Any step of a grid takes that long: its many plans need not be tried where another is faster.
double least_of_a_grid() {
  static const double least = [] {
    WorkCount fma, mma;
    fma[Work::grid_exchange] = fma[Work::step_fma] = fma[Work::gate] = 1;
    mma[Work::grid_exchange] = mma[Work::step_mma] = mma[Work::gate] = 1;
    return std::min(microseconds_of(fma), microseconds_of(mma));
  }();
  return least;
}

// Takes a plan for crews of that size, if it may serve and is the fastest so far.
template <class Shape>
void consider(Candidate& c, const CudaProblem& p, const PhaseSize& phase, const Crew& crew) {
  constexpr bool kMma = std::is_same_v<Shape, CrewMmaShape>;
  const int bytes = kMma ? storage_bytes(p.dtype) : compute_bytes(p.dtype);
  const int64_t crews = ceil_div(p.B, int64_t{crew.rows}) * p.G, taken = turns(p.limits, crew, crews);
  const double times = static_cast<double>(taken), starts = times * gpu::kStart / static_cast<double>(p.T);
  // Who waits for blocks of other clusters needs them all on the GPU.
  const bool resident = crew.schedule == CudaSchedule::grid;
  if (c.plan.crew > 0 && resident && times * least_of_a_grid() + starts >= c.microseconds) return;
  const Shape shape(phase, crew, bytes);
  if (!shape.possible || static_cast<int64_t>(shape.shared) > p.limits.shared_memory) return;
  if constexpr (!kMma)
    if (storage_bytes(p.dtype) == 2 && shape.lanes == 0) return;
  if (c.plan.crew == 0) c.obstacle = room(crew.schedule).blocks;
  if (taken == 0) return;
  WorkCount work = member_work(p, shape);
  add_exchange(work, crew.schedule, shape);
  work *= times;
  const double microseconds = microseconds_of(work);
  if (c.plan.crew > 0 && microseconds + starts >= c.microseconds) return;
  c.obstacle.clear();
  c.microseconds = microseconds + starts;
  c.plan.arithmetic = kMma ? Arithmetic::mma : Arithmetic::fma;
  c.plan.crew = crew.size, c.plan.cluster = crew.cluster;
  c.plan.rows = crew.rows, c.plan.units = shape.units;
  c.plan.launches = resident ? taken : 1;
  c.plan.blocks = ceil_div(crews, c.plan.launches) * crew.size;
  c.plan.threads = CrewShape::kThreads;
  c.plan.shared_memory = static_cast<int64_t>(shape.shared);
  c.plan.weight_registers = static_cast<int64_t>(shape.held);
  c.plan.exchange_bytes = resident ? c.plan.blocks / crew.size * shape.exchange_bytes() : 0;
  c.plan.microseconds = microseconds;
  c.plan.work = work;
}

// Numbers of clusters, of so many blocks each, that a grid's crews may have and are worth a try: at least
// two.
std::vector<int> clusters_of_a_crew(const CudaProblem& p, int rows, int cluster) {
  const int most = p.limits.clusters_of(cluster);
  std::vector<int> counts;
  if (most < 2) return counts;
  // The fewest whose members have so many units, for all rows of which there are threads.
  for (int units = CrewShape::kUnitsApart; units * rows <= CrewShape::kThreads;
       units += CrewShape::kUnitsApart)
    counts.push_back(static_cast<int>(std::clamp<int64_t>(ceil_div(p.H, int64_t{units} * cluster), 2, most)));
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  return counts;
}

// Crews worth a try that own so many rows each.
std::vector<Crew> possible_crews(const CudaProblem& p, CudaSchedule schedule, int rows) {
  if (schedule == CudaSchedule::cta) return {{schedule, 1, 1, rows}};
  const auto is_wished = [](const std::optional<int>& wish, int size) { return !wish || size == *wish; };
  std::vector<Crew> crews;
  if (in_clusters(schedule)) {
    for (int size = 2; size <= CrewShape::kMostCluster; size *= 2)
      if (is_wished(p.wish_crew, size)) crews.push_back({schedule, size, size, rows});
    return crews;
  }
  const int most = p.limits.capability < gpu::kLeastForClusters ? 1 : CrewShape::kMostGridCluster;
  for (int cluster = 1; cluster <= most; cluster *= 2) {
    if (!is_wished(p.wish_cluster, cluster)) continue;
    if (p.wish_crew && *p.wish_crew >= 2 * cluster && *p.wish_crew % cluster == 0)
      crews.push_back({schedule, *p.wish_crew, cluster, rows});
    if (p.wish_crew) continue;
    for (const int count : clusters_of_a_crew(p, rows, cluster))
      crews.push_back({schedule, count * cluster, cluster, rows});
  }
  return crews;
}

Candidate candidate(const CudaProblem& p, CudaSchedule schedule) {
  Candidate c;
  c.plan.schedule = schedule;
  c.obstacle = obstacle(p, schedule);
  if (!c.obstacle.empty()) return c;
  c.obstacle = room(schedule).weights;
  const PhaseSize phase = phase_sizes(p)[0];
  bool any = false;
  for (int rows = 1; rows <= CrewShape::kMostRows; rows *= 2) {
    if (p.wish_rows && rows != *p.wish_rows) continue;
    for (const Crew& crew : possible_crews(p, schedule, rows)) {
      any = true;
      // Where float32 may be rounded it need not be, if that is not slower; nor need tensor cores multiply 16
      // bits, where a block's lanes have all weights (the last condition of consider).
      const bool both = takes_mma(p) && (storage_bytes(p.dtype) != 2 || schedule == CudaSchedule::cta);
      if (both ? p.wish_arithmetic != Arithmetic::mma : !takes_mma(p))
        consider<CrewFmaShape>(c, p, phase, crew);
      if (both ? p.wish_arithmetic != Arithmetic::fma : takes_mma(p))
        consider<CrewMmaShape>(c, p, phase, crew);
    }
  }
  if (!any) c.obstacle = room(schedule).blocks;
  return c;
}

// What each of so many recurrences that run at the same time has of a GPU.
DeviceLimits share_of(DeviceLimits limits, int64_t recurrences) {
  if (recurrences < 1)
    throw std::invalid_argument("beside: got " + std::to_string(recurrences - 1) +
                                ", expected no negative number");
  const auto share = [&](int of) { return static_cast<int>(of / recurrences); };
  limits.multiprocessors = std::max(share(limits.multiprocessors), 1);
  for (int& clusters : limits.clusters) clusters = share(clusters);
  return limits;
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

CudaPlan plan_cuda(const CudaProblem& problem) {
  CudaProblem p = problem;
  p.limits = share_of(p.limits, 1 + p.beside);
  // The passes of a layer that is to scatter, but have nothing to.
  if (p.wish == CudaSchedule::scatter && !has_parts(p)) p.wish = CudaSchedule::cluster;
  CudaPlan by_steps = stepwise(p);
  if (p.wish == CudaSchedule::stepwise) {
    by_steps.why = "as asked for";
    return by_steps;
  }
  Candidate best;
  bool first = true;
  for (const CudaSchedule schedule :
       {CudaSchedule::cta, CudaSchedule::cluster, CudaSchedule::scatter, CudaSchedule::grid}) {
    if (p.wish && schedule != *p.wish) continue;
    if (!p.wish && schedule == CudaSchedule::grid && best.plan.crew > 0 &&
        best.microseconds <= least_of_a_grid())
      continue;
    const Candidate c = candidate(p, schedule);
    if (first || (c.obstacle.empty() && (!best.obstacle.empty() || c.microseconds < best.microseconds)))
      best = c;
    first = false;
  }
  if (!best.obstacle.empty()) {
    by_steps.why = best.obstacle;
    return by_steps;
  }
  if (!p.wish && best.microseconds > by_steps.microseconds) {
    by_steps.why = "a product for each step is estimated to be faster";
    return by_steps;
  }
  best.plan.why = p.wish ? "as asked for" : room(best.plan.schedule).found;
  return best.plan;
}

std::string describe(const CudaPlan& p) {
  if (p.schedule == CudaSchedule::stepwise) return "stepwise (" + p.why + ")";
  std::string text = std::string(name(p.schedule)) + " " + name(p.arithmetic);
  const auto add = [&](const char* what, int64_t number) { text += what + std::to_string(number); };
  if (p.launches > 1) add(" launches=", p.launches);
  add(" blocks=", p.blocks);
  add(" crew=", p.crew);
  if (p.schedule == CudaSchedule::grid && p.cluster > 1) add(" cluster=", p.cluster);
  add(" tile=", p.rows), add("x", p.units), add(" threads=", p.threads), add(" shared=", p.shared_memory);
  add(" registers=", p.weight_registers);
  return text + " (" + p.why + ")";
}

CudaSchedule cuda_schedule_from_name(const std::string& given) {
  for (const CudaSchedule s : {CudaSchedule::stepwise, CudaSchedule::cta, CudaSchedule::cluster,
                               CudaSchedule::scatter, CudaSchedule::grid})
    if (given == name(s)) return s;
  throw std::invalid_argument("schedule: got '" + given +
                              "', expected one of 'stepwise', 'cta', 'cluster', 'scatter', 'grid'");
}

Arithmetic arithmetic_from_name(const std::string& given) {
  for (const Arithmetic a : {Arithmetic::fma, Arithmetic::mma})
    if (given == name(a)) return a;
  throw std::invalid_argument("arithmetic: got '" + given + "', expected one of 'fma', 'mma'");
}

}  // namespace rnnfast
