// One matrix product and one kernel for each step and phase: right for every size and on every GPU. Launches
// read nothing from the host later on, so that a CUDA graph can hold them.
#pragma once

#include "../cells/phase_list.h"
#include "accessor.cuh"
#include "kernels.h"

namespace rnnfast::cuda {

// Of a phase at one step, for all rows and groups.
struct StepArguments {
  Recurrence recurrence;
  Stream computed;
  Step steps[2];  // of even and of odd groups
  const void* results;
  void* operands[2];  // what phases put goes here
  int64_t widths[2];  // of the operands
  void* carries[kMostCarries];
  void* sums;                // that the phase before left, and then this one; of each statistic (G, B)
  int64_t rows;              // no more are active
  bool multiplies_entering;  // whether rows that enter have a result of the matrix
};

template <class Phase, class S, bool kNoise>
struct StepwiseOwn {
  using C = Compute<S>;
  static constexpr bool kNoisy = kNoise;

  const StepArguments& a;
  int64_t row;  // of all groups
  int64_t unit;
  const int64_t units;
  bool multiplied;
  int64_t step_in_time;
  C added[Phase::kStatistics > 0 ? Phase::kStatistics : 1] = {};

  __device__ __forceinline__ C matrix(int gate) const {
    if (!multiplied) return C(0);
    return static_cast<const C*>(a.results)[(row * Phase::kColumns + gate) * units + unit];
  }
  __device__ __forceinline__ void put(int operand, C v, int64_t of, int part) const {
    static_cast<S*>(a.operands[operand])[row * a.widths[operand] + part * units + of] = narrowed<S>(v);
  }
  __device__ __forceinline__ C carry(int i) const { return carried(i); }
  __device__ __forceinline__ void keep(int i, C v) const { carried(i) = v; }
  __device__ __forceinline__ C& carried(int i) const {
    return static_cast<C*>(a.carries[i])[row * units + unit];
  }
  __device__ __forceinline__ void add(int i, C v) { added[i] = added[i] + v; }
  __device__ __forceinline__ C sum(int i) const { return sums(i); }
  __device__ __forceinline__ C& sums(int i) const {
    return static_cast<C*>(a.sums)[i * a.recurrence.G * a.recurrence.B + row];
  }
  __device__ __forceinline__ int64_t time() const { return step_in_time; }
};

constexpr int kStepThreads = 256;

// A unit of a row at a phase. The window is made anew for each: kept for all units of a row, its pointers
// would spill.
template <class Phase, class S, class Own>
__device__ __forceinline__ void run_unit(const StepArguments& a, const Step& step, int64_t group, int64_t row,
                                         Own& own) {
  const Window window(a.recurrence, a.computed, step, group, sizeof(S), sizeof(Compute<S>));
  Accessor<Phase, S, Own> at(a.recurrence, window, group, row, own.unit, own);
  Phase::run(at);
}

template <class Phase>
__device__ __forceinline__ bool is_multiplied(const StepArguments& a, const Step& step, int64_t row) {
  return Phase::kColumns > 0 && (row < step.entering || a.multiplies_entering);
}

// A thread for each (group, row, unit). Four blocks of 256 leave a thread 64 registers, which none exceeds;
// left to itself ptxas aims at 48 on sm_80, and spills.
template <class Phase, class S, bool kNoisy>
__global__ void __launch_bounds__(kStepThreads, 4) step_kernel(const __grid_constant__ StepArguments a) {
  const Recurrence& r = a.recurrence;
  const int64_t units = r.units[Phase::kUnits];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  const int64_t unit = i % units, row = i / units % a.rows, group = i / units / a.rows;
  if (group >= r.G) return;
  const Step& step = a.steps[group % 2];
  if (row >= step.end) return;
  StepwiseOwn<Phase, S, kNoisy> own{
      a, group * r.B + row, unit, units, is_multiplied<Phase>(a, step, row), step.t[Step::kNow]};
  run_unit<Phase, S>(a, step, group, row, own);
}

// Of all threads of a block, in an order that is always the same; the first thread has it.
template <class C>
__device__ C sum_over_block(C v) {
  C* of_warps = static_cast<C*>(shared_memory());
  for (int mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = v;
  sync_block();
  C sum = 0;
  for (int warp = 0; threadIdx.x == 0 && warp < kStepThreads / 32; ++warp) sum += of_warps[warp];
  sync_block();
  return sum;
}

// A block for each (group, row): cells with statistics, sums over the units of a row. Two blocks leave a
// thread 128 registers.
template <class Phase, class S, bool kNoisy>
__global__ void __launch_bounds__(kStepThreads, 2) row_kernel(const __grid_constant__ StepArguments a) {
  const Recurrence& r = a.recurrence;
  const int64_t units = r.units[Phase::kUnits];
  const int64_t row = static_cast<int64_t>(blockIdx.x) % a.rows,
                group = static_cast<int64_t>(blockIdx.x) / a.rows;
  const Step& step = a.steps[group % 2];
  if (row >= step.end) return;
  StepwiseOwn<Phase, S, kNoisy> own{
      a, group * r.B + row, 0, units, is_multiplied<Phase>(a, step, row), step.t[Step::kNow]};
  for (own.unit = threadIdx.x; own.unit < units; own.unit += kStepThreads)
    run_unit<Phase, S>(a, step, group, row, own);
  for (int i = 0; i < Phase::kStatistics; ++i) {
    // Every thread has read the sums of the phase before when the first one writes.
    const auto sum = sum_over_block(own.added[i]);
    if (threadIdx.x == 0) own.sums(i) = sum;
  }
}

struct PrepareArguments {
  End initial;
  void* buffers[2];
  int64_t B, G, width;
};

// What rows enter with, where matrices look for it. A row keeps it until it enters, so both buffers have it.
template <class S>
__global__ void __launch_bounds__(kStepThreads) prepare_kernel(const __grid_constant__ PrepareArguments a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  const int64_t k = i % a.width, row = i / a.width % a.B, group = i / a.width / a.B;
  if (group >= a.G) return;
  const S v = static_cast<const S*>(a.initial.data)[group * a.initial.group + row * a.initial.row + k];
  for (void* buffer : a.buffers) static_cast<S*>(buffer)[i] = v;
}

inline dim3 blocks_for(int64_t threads) {
  return dim3(static_cast<unsigned>(ceil_div(threads, static_cast<int64_t>(kStepThreads))));
}

template <class Pass, class S>
class Stepwise {
 public:
  explicit Stepwise(const Run& run) : run_(run), r_(run.recurrence) {}

  cudaError_t go() {
    int i = 0;
    for (const Operand& operand : Pass::kOperands) prepare(operand, i++);
    for (int c = 0; c < carries_of<Pass>(r_) && ok(); ++c)
      error_ = cudaMemsetAsync(run_.workspace.carries[c], 0,
                               r_.G * r_.B * r_.most_units() * sizeof(Compute<S>), run_.stream);
    for (int64_t step = 0; step < r_.T && ok(); ++step)
      for_each_phase(typename Pass::Phases{}, [&](auto phase, int index) {
        if (ok()) run_phase<decltype(phase)>(index, step);
      });
    return error_;
  }

 private:
  bool ok() const { return error_ == cudaSuccess; }

  int64_t width(const Operand& operand) const { return operand.parts * r_.units[operand.units]; }

  void prepare(const Operand& operand, int index) {
    const End* initial = initial_of(r_, operand);
    if (!initial || !ok()) return;
    void* const* buffers = run_.workspace.operands[index];
    const PrepareArguments a{*initial, {buffers[0], buffers[1]}, r_.B, r_.G, width(operand)};
    error_ = launch(prepare_kernel<S>, blocks_for(a.B * a.G * a.width), kStepThreads, 0, run_.stream, a);
  }

  template <class Phase>
  void run_phase(int index, int64_t step) {
    StepArguments a{};
    a.recurrence = r_, a.computed = run_.computed;
    // Steps of the two directions of a bidirectional layer have other rows.
    for (int group = 0; group < 2; ++group) {
      a.steps[group] = step_of(r_, is_reversed(r_.direction, group) != Pass::kBackward, step);
      if (group < r_.G && a.steps[group].end > a.rows) a.rows = a.steps[group].end;
    }
    const int put_at_this_step = static_cast<int>(1 - step % 2);
    int i = 0;
    for (const Operand& operand : Pass::kOperands) {
      a.operands[i] = run_.workspace.operands[i][put_at_this_step], a.widths[i] = width(operand);
      ++i;
    }
    a.multiplies_entering = multiplies_entering<Pass, Phase>(r_);
    if (Phase::kColumns > 0 && (step > 0 || a.multiplies_entering))
      run_.multiply(index, Phase::kSameStep ? put_at_this_step : 1 - put_at_this_step, a.rows);
    a.results = run_.workspace.results[index];
    for (int c = 0; c < carries_of<Pass>(r_); ++c) a.carries[c] = run_.workspace.carries[c];
    a.sums = run_.workspace.sums;
    if constexpr (most_statistics(typename Pass::Phases{}) > 0) {
      const auto kernel = r_.noise.any() ? row_kernel<Phase, S, true> : row_kernel<Phase, S, false>;
      error_ = launch(kernel, dim3(static_cast<unsigned>(r_.G * a.rows)), kStepThreads,
                      kStepThreads / 32 * sizeof(Compute<S>), run_.stream, a);
    } else {
      const auto kernel = r_.noise.any() ? step_kernel<Phase, S, true> : step_kernel<Phase, S, false>;
      error_ = launch(kernel, blocks_for(r_.G * a.rows * r_.units[Phase::kUnits]), kStepThreads, 0,
                      run_.stream, a);
    }
  }

  const Run& run_;
  const Recurrence& r_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace rnnfast::cuda
