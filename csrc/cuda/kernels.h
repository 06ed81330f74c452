// The recurrences on a GPU, one file per cell. No torch.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#include "../plan.h"
#include "plan_cuda.h"

namespace rnnfast::cuda {

// Of a phase: the matrix that it multiplies with, and what that reads.
struct PhaseInfo {
  int units = 0;    // index into Recurrence::units
  int columns = 0;  // results for each unit; 0: no matrix
  int matrix = 0, operand = 0;
  bool transposed = false, same_step = false;
};

constexpr int kMostPhases = 5, kMostCarries = 7;

struct PassInfo {
  int phases = 0, operands = 0, carries = 0, statistics = 0;
  PhaseInfo phase[kMostPhases];
  struct {
    int units = 0, parts = 0;  // as in cells/cell.h
  } operand[2];
};

PassInfo pass_info(Cell cell, Pass pass, bool projected, bool noisy);

// Arrays that a stepwise run works in. Rows lie one behind the other, groups too: (G, B, width). Operands are
// in the dtype of the arrays, all else in the one that is computed with (float32; float64 for float64).
struct Workspace {
  void* operands[2][2] = {};         // width: parts * units; two buffers, which take turns
  void* results[kMostPhases] = {};   // of each phase's matrix, width: columns * units
  void* carries[kMostCarries] = {};  // width: units of the phase, at most those of the widest
  void* sums = nullptr;              // (statistics, G, B)
};

// results of a phase = its operand, in one of the two buffers, times its matrix, for the first rows of each
// group.
using Multiply = std::function<void(int phase, int buffer, int64_t rows)>;

// Through what members of a grid's crews hand on their slices of operands, in global memory: two operands of
// each crew of a launch (grid.cuh), zero at first. marks: greater than all of the launches before.
struct Exchange {
  unsigned char* operands = nullptr;
  uint32_t marks = 0;
};

struct Run {
  Recurrence recurrence;  // counts and offsets on the host
  // Of the dtype that is computed with: what takes the place of the stream that a phase has computed ahead,
  // or where the squares of what it records go.
  Stream computed;
  // The same numbers on the GPU, for plans of one launch.
  const int64_t *counts = nullptr, *offsets = nullptr;
  Exchange exchange;
  Workspace workspace;
  Multiply multiply;
  cudaStream_t stream = nullptr;
};

// Clusters of `size` blocks with that much shared memory that run at the same time on the current device.
int clusters_at_once(int size, int64_t shared_memory);

cudaError_t run_elman(const Run& run, Cell cell, Pass pass, Dtype dtype, const CudaPlan& plan);
cudaError_t run_lstm(const Run& run, Pass pass, Dtype dtype, const CudaPlan& plan);
cudaError_t run_projected_lstm(const Run& run, Pass pass, Dtype dtype, const CudaPlan& plan);
cudaError_t run_gru(const Run& run, Pass pass, Dtype dtype, const CudaPlan& plan);
cudaError_t run_layer_norm_lstm(const Run& run, Pass pass, Dtype dtype, const CudaPlan& plan);

}  // namespace rnnfast::cuda
