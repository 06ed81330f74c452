// Small layers by crews of blocks, compared with plain loops: `exchange cluster|scatter|grid|clusters SEED`
// prints what came of it: an Elman RNN, or, where members scatter (`clusters`: of a grid), BPTT of an LSTM.
// Tests compile it with kernels that they break.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cells/elman.h"
#include "cells/lstm.h"
#include "cuda/cluster.cuh"
#include "cuda/crew_fma.cuh"
#include "cuda/grid_of_clusters.cuh"

using namespace rnnfast;

namespace {

constexpr int kT = 7, kB = 3, kH = 21, kCrew = 4, kRows = 2, kGates = 4;
using Forward = Elman<Tanh>::Forward;
using Adjoint = Lstm::Adjoint;
template <class Pass, CudaSchedule kSchedule, class How>
cudaError_t launch(const cuda::Run& run, const CudaPlan& plan) {
  return cuda::launch_crew<Pass, float, CrewFma<cuda::OnlyPhase<Pass>, float, kSchedule>, How>(run, plan);
}
using Values = std::vector<float>;

Values random_values(int size, std::mt19937& random) {
  Values values(static_cast<size_t>(size));
  for (float& v : values) v = std::uniform_real_distribution<float>(-0.5f, 0.5f)(random);
  return values;
}

Stream stream_of(Values& values, int of_unit = 1) {
  return {values.data(), of_unit * kH, kB * of_unit * kH, of_unit * kH};
}

// Arrays are [step][row][gate][unit].
float& at(Values& values, int t, int row, int i, int width) {
  return values[static_cast<size_t>((t * kB + row) * width + i)];
}

struct Layer {
  cuda::Run run;
  CudaPlan plan;
  Values y, expected;
  std::vector<Vector16> operands;

  Layer(CudaSchedule schedule, int cluster) : operands(1 << 12) {
    plan.schedule = schedule, plan.rows = kRows, plan.crew = kCrew, plan.cluster = cluster;
    run.recurrence.T = kT, run.recurrence.B = kB, run.recurrence.units[0] = kH;
    run.exchange = {reinterpret_cast<unsigned char*>(operands.data())};
  }
  bool is_right() const {
    for (size_t i = 0; i < y.size(); ++i)
      if (!(std::fabs(y[i] - expected[i]) < 1e-5f)) return false;
    return true;
  }
};

cudaError_t run_elman(Layer& p, std::mt19937& random) {
  Values x = random_values(kT * kB * kH, random), w = random_values(kH * kH, random);
  p.y.resize(x.size()), p.expected.resize(x.size());
  for (int t = 0; t < kT; ++t)
    for (int row = 0; row < kB; ++row)
      for (int i = 0; i < kH; ++i) {
        double sum = at(x, t, row, i, kH);
        for (int k = 0; t > 0 && k < kH; ++k)
          sum += w[static_cast<size_t>(i * kH + k)] * at(p.expected, t - 1, row, k, kH);
        at(p.expected, t, row, i, kH) = static_cast<float>(std::tanh(sum));
      }
  Recurrence& r = p.run.recurrence;
  r.streams[Forward::kGates] = stream_of(x), r.streams[Forward::kY] = stream_of(p.y);
  r.matrices[Forward::kWhh] = {w.data(), kH * kH, kH, kH, kH};
  return p.plan.schedule == CudaSchedule::grid
             ? launch<Forward, CudaSchedule::grid, cuda::InGrid>(p.run, p.plan)
             : launch<Forward, CudaSchedule::cluster, cuda::InCluster>(p.run, p.plan);
}

cudaError_t run_lstm_adjoint(Layer& p, std::mt19937& random) {
  const int width = kGates * kH;
  Values dy = random_values(kT * kB * kH, random), c = random_values(kT * kB * kH, random),
         gates = random_values(kT * kB * width, random), w = random_values(width * kH, random);
  p.y.resize(gates.size()), p.expected.resize(gates.size());
  for (int row = 0; row < kB; ++row) {
    Values carry(kH);
    for (int t = kT - 1; t >= 0; --t)
      for (int unit = 0; unit < kH; ++unit) {
        const auto gate = [&](int i) { return at(gates, t, row, i * kH + unit, width); };
        double dm = at(dy, t, row, unit, kH);
        for (int k = 0; t + 1 < kT && k < width; ++k)
          dm += w[static_cast<size_t>(k * kH + unit)] * at(p.expected, t + 1, row, k, width);
        const float i = gate(0), f = gate(1), g = gate(2), o = gate(3),
                    tanh_c = std::tanh(at(c, t, row, unit, kH)),
                    before = t > 0 ? at(c, t - 1, row, unit, kH) : 0, d = static_cast<float>(dm),
                    dc = carry[static_cast<size_t>(unit)] + d * o * (1 - tanh_c * tanh_c);
        const float found[] = {dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g),
                               d * tanh_c * o * (1 - o)};
        for (int n = 0; n < kGates; ++n) at(p.expected, t, row, n * kH + unit, width) = found[n];
        carry[static_cast<size_t>(unit)] = dc * f;
      }
  }
  Recurrence& r = p.run.recurrence;
  r.streams[Adjoint::kDy] = stream_of(dy), r.streams[Adjoint::kC] = stream_of(c);
  r.streams[Adjoint::kActivations] = stream_of(gates, kGates);
  r.streams[Adjoint::kDGates] = stream_of(p.y, kGates);
  r.matrices[Adjoint::kWhh] = {w.data(), width * kH, kH, width, kH};
  return p.plan.schedule == CudaSchedule::grid
             ? launch<Adjoint, CudaSchedule::grid, cuda::InGridOfClusters>(p.run, p.plan)
             : launch<Adjoint, CudaSchedule::scatter, cuda::Scattering>(p.run, p.plan);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::string name = argv[1];
  std::mt19937 random(static_cast<unsigned>(std::atoi(argv[2])));
  cuda_host::set_seed(random());
  const bool clusters = name == "clusters", scatters = clusters || name == "scatter";
  const CudaSchedule schedule = name == "grid" || clusters ? CudaSchedule::grid
                                : scatters                 ? CudaSchedule::scatter
                                                           : CudaSchedule::cluster;
  Layer p(schedule, name == "grid" ? 1 : clusters ? kCrew / 2 : kCrew);
  const cudaError_t error = scatters ? run_lstm_adjoint(p, random) : run_elman(p, random);
  const bool fine = error == cudaSuccess && p.is_right();
  std::printf("%s\n", error != cudaSuccess ? cuda_host::last_error() : fine ? "fine" : "wrong result");
  return fine ? 0 : 1;
}
