// The sizes of a kernel whose blocks of threads share rows of the batch: each block of a crew has some units,
// and the weights of their gates for all steps; each needs the whole operand of each step, or a part of it.
// No CUDA: the planner counts with them, too.
//
// An operand is stored as its members' slices, one behind the other; a slice as chunks of what one
// instruction (mma) or one vector (fma) takes of each row: [chunk][row][value]. So each member's slice is
// contiguous, and chunks follow each other evenly. Results of the matrix are summed by parts: `slices` of the
// operand's chunks are multiplied by different threads, which leave [slice][row][result] in shared memory.
//
// Where members scatter partial results (scatter.cuh), those of a thread-block cluster, its peers, share the
// units of all of them: each multiplies a part of the operand, for all of these units, and the others get its
// sums. The part consists of the slices of those members, one in each cluster of the crew, that have the same
// rank in theirs; in a crew of one cluster that is the member's own slice alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "plan_cuda.h"

namespace rnnfast {

constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Which blocks share rows of the batch, and how they hand on.
struct Crew {
  CudaSchedule schedule;
  int size, cluster;  // blocks of it, and of each of its thread-block clusters
  int rows;           // that it owns

  constexpr int peers() const { return schedule == CudaSchedule::cluster ? 1 : cluster; }
};

struct CrewShape {
  static constexpr int kThreads = 256, kWarps = kThreads / 32;
  // Members' units are a multiple of it.
  static constexpr int kUnitsApart = 4;
  // Rows that are multiplied at a time, and rows of a crew: where a grid's crew has more than these, weights
  // are gone through again for each so many.
  static constexpr int kRowsAtATime = 8, kMostRows = 32;
  static constexpr int kMostCrew = 256;
  // Blocks of a thread-block cluster, and of one of several of a grid's crew: larger ones of these leave more
  // multiprocessors without one, and have not been estimated to be faster.
  static constexpr int kMostCluster = 16, kMostGridCluster = 8;
  static_assert(kMostGridCluster % kWarps == 0, "each warp of a member writes to so many others");
  // Of shared memory: barriers; zeros, as many as a chunk of kRowsAtATime rows has; operands.
  static constexpr size_t kZerosAt = 128, kOperandsAt = 256;

  // Vectors of 16 bytes of partial results that a thread scatters to a peer, at most.
  static constexpr int kMostScattered = 4;
  // Of a vector of 16 bytes in the global memory through which a grid hands on slices; one more marks it.
  static constexpr int kMarkedWords = 3;
  // Of two operands of a grid's crew.
  int64_t exchange_bytes() const { return int64_t{2} * crew * marked_vectors * 16; }

  int rows, crew, cluster, columns, parts, slices = 1;
  int peers;           // members, itself too, that have parts of each other's results; 1: has its own, whole
  int units, results;  // of a member: units; matrix results of a row
  int times;           // that weights are multiplied at a step
  int cluster_bits = 0;     // 2 to the power of it: as many as a cluster has blocks, but no more than warps
  int chunk, slice_chunks;  // values of a row; chunks of a member's slice
  int chunks, stride = 0;   // of the operand that is multiplied; from row to row of results
  int marked_vectors = 0;   // of a slice
  size_t slice_bytes = 0, operand = 0, sums = 0, operands_at = 0, own_at = 0;
  size_t results_at = 0, weights_at = 0, shared = 0, held = 0;
  bool possible = false;

 protected:
  CrewShape(const PhaseSize& p, const Crew& c, int chunk_bytes, int value_bytes, int result_bytes)
      : rows(c.rows),
        crew(c.size),
        cluster(c.cluster),
        columns(p.columns),
        peers(c.peers()),
        times(static_cast<int>(ceil_div(c.rows, kRowsAtATime))) {
    parts = static_cast<int>(p.inner / p.units);
    units = static_cast<int>(round_up(ceil_div(p.units, crew), kUnitsApart));
    results = columns * units * peers;
    chunk = chunk_bytes / value_bytes;
    slice_chunks = static_cast<int>(ceil_div(parts * units, chunk));
    chunks = crew / peers * slice_chunks;
    slice_bytes = static_cast<size_t>(slice_chunks) * rows * chunk_bytes;
    operand = crew / peers * slice_bytes;
    const int sums_of_member = rows * columns * units * result_bytes;
    if (peers > 1) sums = static_cast<size_t>(peers) * sums_of_member;
    marked_vectors = static_cast<int>(ceil_div(static_cast<int64_t>(slice_bytes), int64_t{4} * kMarkedWords));
    while (2 << cluster_bits <= std::min(cluster, kWarps)) ++cluster_bits;
    // Sums of two steps; operands of two, but that a grid's comes after all threads have read the one before;
    // and a member's own slice, of which a cluster has two (their Links say why), and where sums are
    // scattered within a crew that alone.
    int buffers = 2, own_slices = 0;
    if (c.schedule == CudaSchedule::cluster) own_slices = 2;
    if (c.schedule == CudaSchedule::scatter) buffers = 0, own_slices = 1;
    if (c.schedule == CudaSchedule::grid) buffers = own_slices = 1;
    operands_at = kOperandsAt + 2 * sums;
    own_at = operands_at + buffers * operand;
    results_at = own_at + own_slices * slice_bytes;
    possible = crew % peers == 0 && p.inner == parts * p.units && rows * units <= kThreads &&
               crew <= kMostCrew &&
               (c.schedule == CudaSchedule::grid ? peers <= kMostGridCluster : rows <= kRowsAtATime) &&
               (peers == 1 || sums_of_member <= (kThreads >> cluster_bits) * kMostScattered * 16);
  }

  void lay_out(size_t result_bytes, size_t weights, size_t weights_held) {
    weights_at = results_at + static_cast<size_t>(slices) * rows * stride * result_bytes;
    held = weights_held;
    shared = weights_at + weights - weights_held;
  }
};

// A warp has up to four m16 tiles of results, or eight of those of all units, for some of the operand's
// chunks; the batch's rows are the n8.
struct CrewMmaShape : CrewShape {
  static constexpr int kChunkBytes = 32;
  static constexpr int kFragmentBytes = 512, kHeld = 24;  // in registers, of a warp
  static constexpr int most_tiles(CudaSchedule schedule) { return schedule == CudaSchedule::scatter ? 8 : 4; }
  // Sums of a tile that do not wait for each other.
  static constexpr int chains(int of_tiles) { return of_tiles >= 3 ? 1 : 4 / of_tiles; }
  // Numbers of tiles that there are kernels for.
  static constexpr bool are_tiles(int n) { return n <= 4 || n == 6 || n == 8; }

  CrewMmaShape(const PhaseSize& p, const Crew& c, int value_bytes)
      : CrewShape(p, c, kChunkBytes, value_bytes, sizeof(float)) {
    const int all_tiles = static_cast<int>(ceil_div(results, 16));
    if (all_tiles > most_tiles(c.schedule) * kWarps) {
      possible = false;
      return;
    }
    // As few instructions of a warp as can be, then as few reads of the operand and of partial results.
    int64_t least = -1;
    for (int t = 1; t <= most_tiles(c.schedule); ++t) {
      const int g = static_cast<int>(ceil_div(all_tiles, t));
      if (g > kWarps || !are_tiles(t)) continue;
      const int s = std::min(kWarps / g, chunks), own = static_cast<int>(ceil_div(chunks, s));
      const int64_t reads = int64_t{g} * chunks * 2 + int64_t{s} * all_tiles * 8;
      const int64_t cost = int64_t{own} * t * 16 + reads;
      if (least < 0 || cost < least) least = cost, tiles = t, groups = g, slices = s, own_chunks = own;
    }
    // For all results of tiles. Rows and columns of an mma's results lie in different banks.
    stride = static_cast<int>(round_up(groups * tiles * 16, 32)) + 4;
    const int held_chunks = std::min(own_chunks, kHeld / tiles), warps = groups * slices;
    held_fragments = held_chunks * tiles;
    fragments = held_fragments + static_cast<int>(round_up(own_chunks - held_chunks, chains(tiles))) * tiles;
    lay_out(sizeof(float), static_cast<size_t>(warps) * fragments * kFragmentBytes,
            static_cast<size_t>(warps) * held_fragments * kFragmentBytes);
  }

  // Of a warp; of fragments, some are zero, so that those that are not held are those of whole turns of
  // chains.
  int tiles = 1, own_chunks = 1, held_fragments = 0, fragments = 0;
  int groups = 1;  // of warps with the same tiles
};

// A thread has four results, for some of the operand's chunks; or, where registers take all weights, `lanes`
// neighbours have those of one unit, each for some of the chunks, and need no shared memory to add them up.
struct CrewFmaShape : CrewShape {
  static constexpr int kChunkBytes = 16, kSums = 4;
  // Until a chunk whose weights are in shared memory is there; until a partial result is, as four come at
  // once.
  static constexpr int kBeyondCycles = 40, kSliceCycles = 12;
  // Of lanes: a chunk's operand; an exchange.
  static constexpr int kChunkCycles = 8, kShuffleCycles = 24;
  // Whether there may be lanes: a grid's members have more weights anyway.
  static constexpr bool has_lanes(CudaSchedule schedule) {
    return schedule == CudaSchedule::cta || schedule == CudaSchedule::cluster;
  }
  // Chunks whose weights a thread keeps in registers, 16 for each. Doubles need more besides.
  static constexpr int held_for(int value_bytes) { return value_bytes == 8 ? 4 : 5; }

  CrewFmaShape(const PhaseSize& p, const Crew& c, int value_bytes)
      : CrewShape(p, c, kChunkBytes, value_bytes, value_bytes) {
    sets = static_cast<int>(ceil_div(results, kSums));
    if (sets > kThreads || rows > (value_bytes == 8 ? 4 : kMostRows)) {
      possible = false;
      return;
    }
    const int held = held_for(value_bytes);
    // Sums of different numbers of rows have the same bits, so this does not depend on it.
    if (has_lanes(c.schedule)) choose_lanes(held * kSums);
    if (lanes > 0) {
      lay_out(0, 0, 0);
      this->held = static_cast<size_t>(units) * lanes * own_chunks * columns * kChunkBytes;
      return;
    }
    // Few products of a thread, but few partial results to add, too: cycles, of two rows.
    int64_t least = -1;
    for (int s = 1; s <= std::min(kThreads / sets, chunks); ++s) {
      const int64_t own = ceil_div(chunks, s), beyond = std::max<int64_t>(own - held, 0);
      const int64_t cost = own * ceil_div(sets * s, 4 * 32) * 2 * kSums * kChunkBytes / 4 +
                           beyond * (kBeyondCycles + sets * s / 2) + s * kSliceCycles;
      if (least < 0 || cost < least) least = cost, slices = s, own_chunks = static_cast<int>(own);
    }
    // Units of rows, each read by a thread, lie as threads do.
    stride = results + ((units - results) % 32 + 32) % 32;
    const size_t vectors = static_cast<size_t>(sets) * slices * kSums * kChunkBytes;
    lay_out(value_bytes, vectors * own_chunks, vectors * std::min(own_chunks, held));
  }

  int sets = 1, own_chunks = 1;  // of threads with the same chunks; of a thread
  int lanes = 0;                 // 0: partial results through shared memory

 private:
  // As few cycles as can be, if a thread's registers hold so many vectors of weights. At least as many lanes
  // as rows may be.
  void choose_lanes(int most_held) {
    int fewest = 1;
    while (fewest < kRowsAtATime && units * 2 * fewest <= kThreads) fewest *= 2;
    int64_t least = -1;
    for (int n = 1, rounds = 0; n <= 32 && units * n <= kThreads; n *= 2, ++rounds) {
      const int own = static_cast<int>(ceil_div(chunks, n));
      if (n < fewest || own * columns > most_held) continue;
      const int64_t cost = own * (kChunkCycles + columns * chunk) + rounds * (kShuffleCycles + 4 * columns);
      if (least < 0 || cost < least) least = cost, lanes = n, own_chunks = own;
    }
  }
};

}  // namespace rnnfast
