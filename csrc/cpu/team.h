// Running the same work on several workers.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace rnnfast {

// Calls work(worker) once for each worker, side by side, and returns when all have finished. `work` must not
// throw. One worker runs in the caller without touching OpenMP, so a child of fork() with one thread is safe;
// inside another parallel region the workers take turns.
template <class Work>
void parallel(int workers, const Work& work) {
#if defined(_OPENMP)
  if (workers > 1 && !omp_in_parallel()) {
// Always a team of torch's size, as in ATen/ParallelOpenMP.h: libgomp ends and starts threads when the size
// changes (num_threads). The team may be larger or smaller than the number of workers.
#pragma omp parallel
    for (int worker = omp_get_thread_num(); worker < workers; worker += omp_get_num_threads()) work(worker);
    return;
  }
#endif
  for (int worker = 0; worker < workers; ++worker) work(worker);
}

}  // namespace rnnfast
