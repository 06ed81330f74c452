// All steps in one launch: each block of threads owns some rows of one group, which never wait for others,
// and keeps the weights in its registers and shared memory. Both directions of a bidirectional layer run side
// by side.
#pragma once

#include "../cells/phase_list.h"
#include "kernels.h"
#include "products.cuh"

namespace rnnfast::cuda {

template <class Shape>
struct CtaArguments {
  Recurrence recurrence;  // counts and offsets on the GPU
  Stream computed;
  Shape shape;
};

template <class Pass>
using OnlyPhase = decltype(phase_at<0>(typename Pass::Phases{}));

// What a thread keeps for one unit of one row.
template <class Pass, class S, class Product>
struct CtaOwn {
  using C = Compute<S>;
  static constexpr bool kRemembers = true, kNoisy = false;

  const C* results;
  typename Product::Operand* target;  // of the row
  int units;
  C carries[Pass::kCarries > 0 ? Pass::kCarries : 1] = {};
  C stored[kMaxStreams] = {};

  __device__ __forceinline__ C matrix(int gate) const { return results[gate]; }
  __device__ __forceinline__ void put(int, C v, int unit, int part) {
    target[part * units + unit] = Product::as_operand(v);
  }
  __device__ __forceinline__ C carry(int i) const { return carries[i]; }
  __device__ __forceinline__ void keep(int i, C v) { carries[i] = v; }
  __device__ __forceinline__ C remembered(int stream) const { return stored[stream]; }
  __device__ __forceinline__ void remember(int stream, C v) { stored[stream] = v; }
};

// Both buffers of the operand: what rows enter with, and zero.
template <class Pass, class S, class Product>
__device__ void fill_operands(const Recurrence& r, const typename Product::Shape& shape, int64_t group,
                              int64_t first_row, typename Product::Operand* operands) {
  constexpr Operand operand = Pass::kOperands[0];
  const int64_t width = operand.parts * r.units[operand.units], size = Product::kRows * shape.stride;
  End initial;
  if constexpr (operand.initial >= 0) initial = r.ends[operand.initial];
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
    const int64_t row = first_row + i / shape.stride, k = i % shape.stride;
    Compute<S> v = 0;
    if (initial.data && row < r.B && k < width)
      v = widened(static_cast<const S*>(initial.data)[group * initial.group + row * initial.row + k]);
    operands[i] = operands[size + i] = Product::as_operand(v);
  }
}

template <class Pass, class S, class Product>
__device__ __forceinline__ void run_cta(const CtaArguments<typename Product::Shape>& a) {
  using Phase = OnlyPhase<Pass>;
  using C = Compute<S>;
  using Own = CtaOwn<Pass, S, Product>;
  static_assert(Phase::kStatistics == 0 && !Phase::kSameStep && Phase::kColumns > 0);
  const Recurrence& r = a.recurrence;
  const int64_t group = blockIdx.y, first_row = static_cast<int64_t>(blockIdx.x) * Product::kRows;
  const int units = static_cast<int>(r.units[Phase::kUnits]), stride = static_cast<int>(a.shape.stride);
  auto* operands = static_cast<typename Product::Operand*>(shared_memory());
  const Product product(a.shape, r.matrices[Phase::kMatrix], group, units,
                        static_cast<unsigned char*>(shared_memory()) + a.shape.operands);
  fill_operands<Pass, S, Product>(r, a.shape, group, first_row, operands);
  sync_block();

  const bool descending = is_reversed(r.direction, group) != Pass::kBackward;
  Own owned[Product::kBlocks][Product::kItems];
  for (int64_t i = 0; i < r.T; ++i) {
    const Step step = step_of(r, descending, i);
    if (step.end <= first_row) continue;
    const Window<int> window(r, a.computed, step, group, first_row, sizeof(S), sizeof(C));
    const auto* before = operands + i % 2 * Product::kRows * stride;
    auto* now = operands + (1 - i % 2) * Product::kRows * stride;
#pragma unroll
    for (int block = 0; block < Product::kBlocks; ++block) {
      C results[Product::kItems][Phase::kColumns], fetched[Product::kItems][kMaxFetched];
      const auto each_item = [&](auto&& run) {
#pragma unroll
        for (int item = 0; item < Product::kItems; ++item) {
          const int row = opaque(product.row(block, item)), unit = opaque(product.unit(block, item));
          Own& own = owned[block][item];
          own.results = results[item], own.target = now + row * stride, own.units = units;
          if (product.has(block, item) && unit < units && row < window.active)
            run(own, row, unit, fetched[item]);
        }
      };
      // Memory answers while the matrix is multiplied.
      each_item([&](Own& own, int row, int unit, C* values) {
        Accessor<Phase, S, Own, int, Reads::fetch> at(r, window, group, first_row, row, unit, own, values);
        Phase::run(at);
      });
      sync_warp();
      product.multiply(block, before, results);
      each_item([&](Own& own, int row, int unit, C* values) {
        Accessor<Phase, S, Own, int, Reads::use> at(r, window, group, first_row, row, unit, own, values);
        Phase::run(at);
      });
    }
    sync_block();
  }
}

template <class Pass, class S, class Product>
__global__ void __launch_bounds__(Product::kThreads, 1)
    cta_kernel(const __grid_constant__ CtaArguments<typename Product::Shape> a) {
#if RNNFAST_HAS_MMA
  run_cta<Pass, S, Product>(a);
#endif
}

template <class Pass, class S, class Product>
cudaError_t launch_cta(const Run& run) {
  using Phase = OnlyPhase<Pass>;
  const Recurrence& r = run.recurrence;
  constexpr Operand operand = Pass::kOperands[0];
  const PhaseSize sizes{Phase::kColumns, r.units[Phase::kUnits], operand.parts * r.units[operand.units]};
  const auto shape = Product::shape_for(sizes);
  CtaArguments<typename Product::Shape> a{r, run.computed, shape};
  a.recurrence.counts = run.counts, a.recurrence.offsets = run.offsets;
  const dim3 blocks(static_cast<unsigned>(ceil_div(r.B, int64_t{Product::kRows})),
                    static_cast<unsigned>(r.G));
  return launch(cta_kernel<Pass, S, Product>, blocks, shape.threads, shape.shared, run.stream, a);
}

}  // namespace rnnfast::cuda
