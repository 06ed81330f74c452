// Which schedule runs a recurrence on a GPU, and why. Plain C++: a plan for any GPU can be asked for
// anywhere.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "../plan.h"

namespace rnnfast {

// All but stepwise have all steps of a row in one launch: rows of the batch belong to a block of threads
// (cta), to a crew of blocks in a thread-block cluster, which hand on states or gradients of gates (cluster)
// or, backwards, partial sums of gradients of states (scatter), or to a crew of blocks that are all on the
// GPU at the same time, by themselves or in clusters that scatter partial sums (grid).
enum class CudaSchedule { stepwise, cta, cluster, scatter, grid };

constexpr bool in_clusters(CudaSchedule s) {
  return s == CudaSchedule::cluster || s == CudaSchedule::scatter;
}

// How a kernel of one launch multiplies: fused multiply-adds, or mma.sync on 16-bit values or on TF32.
enum class Arithmetic { fma, mma };

struct DeviceLimits {
  int capability = 0;  // ten times the major number and the minor: 90 is sm_90
  int multiprocessors = 1;
  int64_t shared_memory = 0;  // bytes that a block may ask for
  // Clusters of 2, 4, 8 and 16 blocks, each of which has a multiprocessor, that run at the same time.
  static constexpr int kClusterSizes = 4;
  static constexpr int cluster_size(int i) { return 2 << i; }
  int clusters[kClusterSizes] = {};

  // Clusters of so many blocks; of one, multiprocessors.
  int clusters_of(int blocks) const {
    if (blocks == 1) return multiprocessors;
    for (int i = 0; i < kClusterSizes; ++i)
      if (cluster_size(i) == blocks) return clusters[i];
    return 0;
  }
};

struct CudaProblem : Problem {
  DeviceLimits limits;
  bool tf32 = false;   // float32 may be rounded to TF32 where it is multiplied
  int64_t beside = 0;  // other recurrences that run at the same time, each with its share of the limits
  // Packed sequences in a CUDA graph: such kernels would read batch sizes that are copied outside of it.
  bool captured_packed = false;
  int64_t stride = 0;  // elements between steps of a stream, at most; between rows, if it is packed
  bool noisy = false;  // Recurrence::noise
  std::optional<CudaSchedule> wish;
  // Rows of a block or crew, blocks of a crew and of a grid's clusters; what cannot be had is not taken.
  std::optional<int> wish_rows, wish_crew, wish_cluster;
  std::optional<Arithmetic> wish_arithmetic;
};

// What a step is made of: kinds of work, each of which takes so many cycles. An estimate is their sum.
enum class Work {
  step_fma,
  step_lanes,
  step_mma,
  gate,
  row,
  slice,
  shuffle,
  mma_latency,
  mma_issue,
  fma32,
  fma64,
  shared_byte,
  cluster_exchange,
  cluster_member,
  cluster_part,
  scatter,
  grid_exchange,
  grid_member,
  grid_byte
};
constexpr int kKindsOfWork = static_cast<int>(Work::grid_byte) + 1;
struct WorkCost {
  const char* name;
  double cycles;
};
// By Work.
const std::array<WorkCost, kKindsOfWork>& work_costs();

// How much there is of each.
class WorkCount {
 public:
  double& operator[](Work w) { return counts_[static_cast<size_t>(w)]; }
  double operator[](Work w) const { return counts_[static_cast<size_t>(w)]; }
  WorkCount& operator*=(double times) {
    for (double& count : counts_) count *= times;
    return *this;
  }
  double cycles() const {
    double sum = 0;
    for (size_t i = 0; i < counts_.size(); ++i) sum += counts_[i] * work_costs()[i].cycles;
    return sum;
  }

 private:
  std::array<double, kKindsOfWork> counts_{};
};

struct CudaPlan {
  CudaSchedule schedule = CudaSchedule::stepwise;
  Arithmetic arithmetic = Arithmetic::fma;
  // Stepwise: 0, down to weight_registers.
  int crew = 0;                  // blocks of threads that share rows: 1 for cta
  int cluster = 0;               // blocks of a thread-block cluster: 1 for cta, and for a grid without
  int rows = 0;                  // of the batch that a crew owns
  int units = 0;                 // that each block has
  int64_t launches = 1;          // one after the other, each of crews that are on the GPU at the same time
  int64_t blocks = 0;            // of a launch
  int threads = 0;               // of a block
  int64_t shared_memory = 0;     // bytes of a block
  int64_t weight_registers = 0;  // bytes of weights that a block keeps in registers
  int64_t exchange_bytes = 0;    // grid: of global memory, in which its crews hand on operands
  double microseconds = 0;       // a step of all rows, as estimated from measurements of an H200
  WorkCount work;                // of such a step, which that is estimated from
  std::string why;
};

CudaPlan plan_cuda(const CudaProblem& problem);

constexpr const char* name(CudaSchedule schedule) {
  return schedule == CudaSchedule::cta       ? "cta"
         : schedule == CudaSchedule::cluster ? "cluster"
         : schedule == CudaSchedule::scatter ? "scatter"
         : schedule == CudaSchedule::grid    ? "grid"
                                             : "stepwise";
}
constexpr const char* name(Arithmetic arithmetic) { return arithmetic == Arithmetic::mma ? "mma" : "fma"; }

CudaSchedule cuda_schedule_from_name(const std::string& name);
Arithmetic arithmetic_from_name(const std::string& name);

// One line, the same for the same plan.
std::string describe(const CudaPlan& plan);

}  // namespace rnnfast
