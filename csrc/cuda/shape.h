// The sizes of a cta kernel: how the results of a phase's matrix are shared out over the threads of a block,
// and how much memory that takes. No CUDA: the planner counts with them, too.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../plan.h"

namespace rnnfast {

constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Fused multiply-adds of float or double. A row of threads, `slices` of them, has some units; each thread
// adds up a slice of the sums' terms, 16 bytes of them at a time, for all rows of the block.
struct FmaShape {
  static constexpr int kRows = 2;
  // Doubles take two registers each.
  static constexpr int most_threads(int value_bytes) { return value_bytes == 8 ? 384 : 512; }
  // Vectors of 16 bytes of each of a thread's sums that it keeps in registers: 64 KB in all, of floats; of
  // its 128 registers the step takes the others.
  static constexpr int kHeld = 2;
  // So that a thread has about four sums of each row of the batch.
  static constexpr int units_for(int columns) { return columns >= 3 ? 1 : 4; }
  static constexpr int least_slices(int columns) { return units_for(columns) * kRows; }

  FmaShape(const PhaseSize& p, int value_bytes) : columns(p.columns), units(units_for(p.columns)) {
    const int values = 16 / value_bytes;
    sets = ceil_div(p.units, units);
    slices = least_slices(p.columns);
    while (slices < 32 && 2 * slices * sets <= most_threads(value_bytes) && slices * values < p.inner)
      slices *= 2;
    threads = static_cast<int>(round_up(sets * slices, 32));
    vectors = static_cast<int>(ceil_div(p.inner, slices * values));
    stride = vectors * slices * values;
    possible = sets * slices <= most_threads(value_bytes);
    operands = static_cast<size_t>(2 * kRows * stride * value_bytes);
    const int sums = units * columns;
    const int held_vectors = vectors < kHeld ? vectors : kHeld;
    held = static_cast<size_t>(threads) * sums * 16 * held_vectors;
    shared = operands + static_cast<size_t>(threads) * sums * 16 * (vectors - held_vectors);
  }

  int rows = kRows, columns, units, slices, threads, vectors;
  int64_t sets, stride;  // stride: of the operand's rows
  size_t operands, shared,
      held;  // bytes: of both operand buffers, of shared memory in all, of weights in registers
  bool possible;
};

// mma.sync on 16-bit values, or on float32 rounded to TF32. A block of 16 units has an m16 tile for each
// column, the rows of the batch are its n8; each warp has kBlocks blocks. With four rows each stands twice in
// the n8, so that each lane has half as many results: a step, most of which is the cell's arithmetic, is
// shorter, and takes twice as many blocks of threads.
struct MmaShape {
  static constexpr int kFewRows = 4, kMostRows = 8;
  static constexpr int kUnits = 16, kWarps = 8, kBlocks = 2, kThreads = 32 * kWarps;
  static constexpr int kFragmentBytes = 512;
  // Steps of the warp's first block whose fragments it keeps in registers, 4 each in a lane, which has 255:
  // 96 KB in all. Adjoints, which have one column, read more besides.
  static constexpr int held_steps_for(int columns) { return columns == 1 ? 18 : 24 / columns; }

  MmaShape(const PhaseSize& p, int value_bytes, int rows_of_block) : rows(rows_of_block), columns(p.columns) {
    const int inner = 32 / value_bytes;  // of an instruction
    blocks = ceil_div(p.units, kUnits);
    steps = static_cast<int>(ceil_div(p.inner, inner));
    // 16 bytes beyond a multiple of 128: the rows of a fragment lie in different banks.
    stride = (round_up(p.inner * value_bytes, 128) + 16) / value_bytes;
    possible = blocks <= kWarps * kBlocks;
    held_steps = steps < held_steps_for(columns) ? steps : held_steps_for(columns);
    const int64_t first = blocks < kWarps ? blocks : kWarps;
    threads = static_cast<int>(32 * first);
    operands = static_cast<size_t>(2 * rows * stride * value_bytes);
    held = static_cast<size_t>(first * columns * held_steps) * kFragmentBytes;
    shared = operands + static_cast<size_t>((blocks * steps - first * held_steps) * columns) * kFragmentBytes;
  }

  int rows, columns, units = kUnits, steps, held_steps, threads;
  int64_t blocks, stride;
  size_t operands, shared, held;
  bool possible;
};

}  // namespace rnnfast
