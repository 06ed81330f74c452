// What a cell's file instantiates.
#pragma once

#include "cluster.cuh"
#include "crew_fma.cuh"
#include "crew_mma.cuh"
#include "cta.cuh"
#include "grid_of_clusters.cuh"
#include "scatter.cuh"
#include "stepwise.cuh"

namespace rnnfast::cuda {

template <class Pass, class S, template <class, class, CudaSchedule> class Product>
cudaError_t run_crews(const Run& run, const CudaPlan& plan) {
  using Phase = OnlyPhase<Pass>;
  if (plan.schedule == CudaSchedule::cluster)
    return launch_crew<Pass, S, Product<Phase, S, CudaSchedule::cluster>, InCluster>(run, plan);
  if constexpr (Pass::kOperands[0].parts > 1)
    if (plan.schedule == CudaSchedule::scatter)
      return launch_crew<Pass, S, Product<Phase, S, CudaSchedule::scatter>, Scattering>(run, plan);
  if (plan.schedule == CudaSchedule::grid && plan.cluster > 1)
    return launch_crew<Pass, S, Product<Phase, S, CudaSchedule::grid>, InGridOfClusters>(run, plan);
  if (plan.schedule == CudaSchedule::grid)
    return launch_crew<Pass, S, Product<Phase, S, CudaSchedule::grid>, InGrid>(run, plan);
  return launch_crew<Pass, S, Product<Phase, S, CudaSchedule::cta>, Alone>(run, plan);
}

template <class Pass, class S>
cudaError_t run_with(const Run& run, const CudaPlan& plan) {
  constexpr bool kOnePhase = count_phases(typename Pass::Phases{}) == 1;
  if constexpr (kOnePhase) {
    if (plan.schedule != CudaSchedule::stepwise) {
      if constexpr (sizeof(S) == 2)
        if (plan.arithmetic == Arithmetic::fma)
          return launch_crew<Pass, S, CrewFma<OnlyPhase<Pass>, S, CudaSchedule::cta>, Alone>(run, plan);
      if constexpr (sizeof(S) != 8)
        if (plan.arithmetic == Arithmetic::mma) return run_crews<Pass, S, CrewMma>(run, plan);
      if constexpr (sizeof(S) != 2) return run_crews<Pass, S, CrewFma>(run, plan);
    }
  }
  return Stepwise<Pass, S>(run).go();
}

template <class Pass>
cudaError_t run_pass(const Run& run, Dtype dtype, const CudaPlan& plan) {
  switch (dtype) {
    case Dtype::f32:
      return run_with<Pass, float>(run, plan);
    case Dtype::f64:
      return run_with<Pass, double>(run, plan);
    case Dtype::bf16:
      return run_with<Pass, __nv_bfloat16>(run, plan);
    case Dtype::f16:
      break;
  }
  return run_with<Pass, __half>(run, plan);
}

template <class Cell>
cudaError_t run_cell(const Run& run, Pass pass, Dtype dtype, const CudaPlan& plan) {
  return pass == Pass::forward ? run_pass<typename Cell::Forward>(run, dtype, plan)
                               : run_pass<typename Cell::Adjoint>(run, dtype, plan);
}

}  // namespace rnnfast::cuda
