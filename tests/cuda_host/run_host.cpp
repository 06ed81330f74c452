// The CUDA kernels in place of the CPU's, for the driver of tests/sanitizers: plain arrays, no torch. Plans
// that split units ask for the stepwise schedule, others for one launch: by their workers for cta, for a
// cluster, which scatters or does not, or for a grid, of clusters or without.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cells/cell.h"
#include "cpu/kernels.h"
#include "cuda/kernels.h"
#include "cuda/values.cuh"

namespace rnnfast {
namespace {

// Calls f with a value of the type that stores the dtype.
template <class F>
void with_type(Dtype dtype, F&& f) {
  if (dtype == Dtype::f32) return f(float{});
  if (dtype == Dtype::f64) return f(double{});
  if (dtype == Dtype::bf16) return f(__nv_bfloat16{});
  f(__half{});
}

// A heap block, exactly as long as it must be, whose bytes are those of NaN.
class Memory {
 public:
  void* add(int64_t bytes) {
    blocks_.emplace_back(new unsigned char[bytes], std::default_delete<unsigned char[]>());
    std::memset(blocks_.back().get(), 0xff, bytes);
    return blocks_.back().get();
  }

 private:
  std::vector<std::unique_ptr<unsigned char[]>> blocks_;
};

class HostRun {
 public:
  HostRun(const Recurrence& r, Cell cell, Pass pass, Dtype dtype)
      : r_(r), info_(cuda::pass_info(cell, pass, r.units[1] > 0, r.noise.any())), dtype_(dtype) {
    run_.recurrence = r;
    run_.counts = r.counts, run_.offsets = r.offsets;
    if (pass == Pass::forward && r.matrices[ForwardPlaces::kWih].data &&
        !r.streams[ForwardPlaces::kGates].data)
      project();
    if (r.norms.data) make_room_for_squares();
    for (int i = 0; i < info_.operands; ++i)
      for (void*& buffer : run_.workspace.operands[i]) buffer = array(operand_width(i), storage_bytes(dtype));
    for (int i = 0; i < info_.phases; ++i)
      run_.workspace.results[i] = array(results_width(i), compute_bytes(dtype));
    for (int i = 0; i < info_.carries; ++i)
      run_.workspace.carries[i] = array(r.most_units(), compute_bytes(dtype));
    run_.multiply = [this](int phase, int buffer, int64_t rows) { multiply(phase, buffer, rows); };
  }

  const cuda::Run& run() const { return run_; }

  void make_room_for_exchange(const CudaPlan& plan) {
    if (plan.schedule != CudaSchedule::grid) return;
    run_.exchange = {static_cast<unsigned char*>(memory_.add(plan.exchange_bytes))};
    std::memset(run_.exchange.operands, 0, static_cast<size_t>(plan.exchange_bytes));
  }

  void take_norms() const {
    if (r_.norms.data && dtype_ == Dtype::f64) {
      take_norms_of<double>();
    } else if (r_.norms.data) {
      take_norms_of<float>();
    }
  }

 private:
  // Of what a phase that records has: h.
  int64_t recorded_width() const { return r_.units[1] > 0 ? r_.units[1] : r_.units[0]; }

  void make_room_for_squares() {
    const int64_t width = recorded_width();
    run_.computed = {memory_.add(r_.positions() * width * compute_bytes(dtype_)), r_.norms.group * width,
                     r_.norms.step * width, r_.norms.row * width};
  }

  template <class C>
  void take_norms_of() const {
    for (int64_t g = 0; g < r_.G; ++g)
      for (int64_t t = 0; t < r_.T; ++t)
        for (int64_t b = 0; b < r_.active(t); ++b) {
          const int64_t place = r_.position(r_.norms, g, t) + b * r_.norms.row;
          const C* squares = static_cast<const C*>(run_.computed.data) + place * recorded_width();
          C sum = 0;
          for (int64_t i = 0; i < recorded_width(); ++i) sum += squares[i];
          static_cast<C*>(r_.norms.data)[place] = std::sqrt(sum);
        }
  }

  int64_t operand_width(int i) const { return info_.operand[i].parts * r_.units[info_.operand[i].units]; }
  int64_t results_width(int phase) const {
    return info_.phase[phase].columns * r_.units[info_.phase[phase].units];
  }
  void* array(int64_t width, int bytes) { return memory_.add(r_.G * r_.B * width * bytes); }

  // W_ih x, (T, B, G, K).
  void project() {
    const Stream& x = r_.streams[ForwardPlaces::kInput];
    const Matrix& w = r_.matrices[ForwardPlaces::kWih];
    const int64_t row = r_.G * w.rows,
                  steps = r_.offsets ? r_.offsets[r_.T - 1] + r_.counts[r_.T - 1] : r_.T * r_.B;
    with_type(dtype_, [&](auto type) {
      using S = decltype(type);
      auto* out = static_cast<Compute<S>*>(memory_.add(steps * row * sizeof(Compute<S>)));
      run_.computed = {out, w.rows, r_.B * row, row};
      for (int64_t g = 0; g < r_.G; ++g)
        for (int64_t t = 0; t < r_.T; ++t)
          for (int64_t b = 0; b < r_.active(t); ++b) {
            const S* from = static_cast<const S*>(x.data) + r_.position(x, g, t) + b * x.row;
            for (int64_t i = 0; i < w.rows; ++i) {
              const S* weights = static_cast<const S*>(w.data) + g * w.group + i * w.row;
              double sum = 0;
              for (int64_t k = 0; k < w.columns; ++k) sum += widened(weights[k]) * widened(from[k]);
              out[r_.position(run_.computed, g, t) + b * row + i] = static_cast<Compute<S>>(sum);
            }
          }
    });
  }

  void multiply(int phase, int buffer, int64_t rows) {
    const cuda::PhaseInfo& p = info_.phase[phase];
    const Matrix& m = r_.matrices[p.matrix];
    const int64_t inner = operand_width(p.operand), width = results_width(phase);
    with_type(dtype_, [&](auto type) {
      using S = decltype(type);
      for (int64_t i = 0; i < r_.G * rows * width; ++i) {
        const int64_t column = i % width, row = i / width % rows, g = i / width / rows;
        const S* a =
            static_cast<const S*>(run_.workspace.operands[p.operand][buffer]) + (g * r_.B + row) * inner;
        const S* w = static_cast<const S*>(m.data) + g * m.group;
        double sum = 0;
        for (int64_t k = 0; k < inner; ++k)
          sum += widened(a[k]) * widened(p.transposed ? w[k * m.row + column] : w[column * m.row + k]);
        static_cast<Compute<S>*>(run_.workspace.results[phase])[(g * r_.B + row) * width + column] =
            static_cast<Compute<S>>(sum);
      }
    });
  }

  const Recurrence& r_;
  const cuda::PassInfo info_;
  const Dtype dtype_;
  Memory memory_;
  cuda::Run run_;
};

template <class RunCell>
Plan run_on_host(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, const Plan& plan,
                 const RunCell& run_cell) {
  CudaProblem problem;
  problem.cell = cell, problem.pass = pass, problem.dtype = dtype;
  problem.T = r.T, problem.B = r.B, problem.H = r.units[0], problem.P = r.units[1], problem.G = r.G;
  // No more blocks at a time than ThreadSanitizer has room for their threads.
  problem.limits = {90, 12, 232448, {6, 3, 1, 0}};
  problem.tf32 = false;
  const bool scatters = pass == Pass::bptt && (cell == Cell::lstm || cell == Cell::gru);
  problem.wish = plan.schedule == Schedule::unit_split ? CudaSchedule::stepwise
                 : plan.workers <= 2                   ? CudaSchedule::cta
                 : plan.workers == 4 && scatters       ? CudaSchedule::scatter
                 : plan.workers <= 4                   ? CudaSchedule::cluster
                                                       : CudaSchedule::grid;
  problem.wish_rows = plan.workers % 2 || (dtype == Dtype::f64 && plan.workers > 2) ? 4 : 8;
  if (plan.workers > 2) problem.wish_crew = plan.workers <= 4 ? 2 * plan.workers - 4 : plan.workers - 2;
  problem.wish_cluster = plan.workers == 6 ? 2 : 1;
  const CudaPlan chosen = plan_cuda(problem);
  HostRun host(r, cell, pass, dtype);
  host.make_room_for_exchange(chosen);
  const cudaError_t error = run_cell(host.run(), chosen);
  host.take_norms();
  if (error != cudaSuccess) {
    std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
    std::exit(1);
  }
  return plan;
}

}  // namespace

Plan run_elman(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, const Plan& plan) {
  return run_on_host(r, cell, pass, dtype, plan, [&](const cuda::Run& run, const CudaPlan& chosen) {
    return cuda::run_elman(run, cell, pass, dtype, chosen);
  });
}

Plan run_lstm(const Recurrence& r, Pass pass, Dtype dtype, const Plan& plan) {
  return run_on_host(r, Cell::lstm, pass, dtype, plan, [&](const cuda::Run& run, const CudaPlan& chosen) {
    return r.units[1] > 0 ? cuda::run_projected_lstm(run, pass, dtype, chosen)
                          : cuda::run_lstm(run, pass, dtype, chosen);
  });
}

Plan run_gru(const Recurrence& r, Pass pass, Dtype dtype, const Plan& plan) {
  return run_on_host(r, Cell::gru, pass, dtype, plan, [&](const cuda::Run& run, const CudaPlan& chosen) {
    return cuda::run_gru(run, pass, dtype, chosen);
  });
}

}  // namespace rnnfast
