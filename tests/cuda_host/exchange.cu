// An Elman RNN by crews of blocks, compared with plain loops: `exchange cluster|grid SEED` prints what came
// of it. Tests compile it with kernels that they break.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "cells/elman.h"
#include "cuda/cluster.cuh"
#include "cuda/grid.cuh"

using namespace rnnfast;

namespace {

constexpr int kT = 7, kB = 3, kH = 21, kCrew = 4, kRows = 2;
using Forward = Elman<Tanh>::Forward;
template <CudaSchedule kSchedule>
using Product = CrewFma<cuda::OnlyPhase<Forward>, float, kSchedule>;

std::vector<float> random_values(size_t size, std::mt19937& random) {
  std::vector<float> values(size);
  for (float& v : values) v = std::uniform_real_distribution<float>(-0.5f, 0.5f)(random);
  return values;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const bool grid = !std::strcmp(argv[1], "grid");
  std::mt19937 random(static_cast<unsigned>(std::atoi(argv[2])));
  cuda_host::set_seed(random());
  auto x = random_values(kT * kB * kH, random), w = random_values(kH * kH, random);
  std::vector<float> y(x.size()), expected(x.size());
  for (int t = 0; t < kT; ++t)
    for (int i = 0; i < kB * kH; ++i) {
      double sum = x[static_cast<size_t>(t * kB * kH + i)];
      for (int k = 0; t > 0 && k < kH; ++k)
        sum += w[static_cast<size_t>(i % kH * kH + k)] *
               expected[static_cast<size_t>(((t - 1) * kB + i / kH) * kH + k)];
      expected[static_cast<size_t>(t * kB * kH + i)] = static_cast<float>(std::tanh(sum));
    }

  cuda::Run run;
  Recurrence& r = run.recurrence;
  r.T = kT, r.B = kB, r.units[0] = kH;
  r.streams[Forward::kGates] = {x.data(), kH, kB * kH, kH};
  r.streams[Forward::kY] = {y.data(), kH, kB * kH, kH};
  r.matrices[Forward::kWhh] = {w.data(), kH * kH, kH, kH, kH};
  CudaPlan plan;
  plan.schedule = grid ? CudaSchedule::grid : CudaSchedule::cluster, plan.rows = kRows, plan.crew = kCrew;
  std::vector<Vector16> operands(1 << 12);
  run.exchange = {reinterpret_cast<unsigned char*>(operands.data())};
  const cudaError_t error =
      grid ? cuda::launch_grid<Forward, float, Product<CudaSchedule::grid>>(run, plan)
           : cuda::launch_cluster<Forward, float, Product<CudaSchedule::cluster>>(run, plan);
  if (error != cudaSuccess) {
    std::printf("%s\n", cuda_host::last_error());
    return 1;
  }
  for (size_t i = 0; i < y.size(); ++i)
    if (!(std::fabs(y[i] - expected[i]) < 1e-5f)) {
      std::printf("wrong result\n");
      return 1;
    }
  std::printf("fine\n");
  return 0;
}
