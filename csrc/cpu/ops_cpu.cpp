// The operators on the CPU: check, plan, run.
#if defined(__linux__)
#include <sched.h>
#endif

#include <thread>

#include "../cells/elman.h"
#include "../plan.h"
#include "kernels.h"
#include "tensors.h"
#include "vec.h"

namespace rnnfast {
namespace {

thread_local std::optional<Plan> last_plan_run;
thread_local Wishes wishes;

Cell cell_of(const std::string& nonlinearity) {
  require(nonlinearity == "tanh" || nonlinearity == "relu", "nonlinearity: got '", nonlinearity,
          "', expected 'tanh' or 'relu'");
  return nonlinearity == "relu" ? Cell::elman_relu : Cell::elman_tanh;
}

template <class... Option>
void refuse(const char* names, const Option&... options) {
  require(!(options.has_value() || ...), names, ": reserved, not supported by this version");
}

// Processors that this process may run on.
int processors() {
  static const int count = [] {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }();
  return count;
}

void plan_and_run(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, bool initial) {
  Problem problem;
  problem.cell = cell, problem.pass = pass, problem.dtype = dtype, problem.isa = kIsa;
  problem.T = r.T, problem.B = r.B, problem.H = r.units[0], problem.G = r.G, problem.initial = initial;
  problem.threads = static_cast<int>(torch::stable::get_num_threads());
  problem.processors = processors();
  problem.wishes = wishes;
  last_plan_run = run_elman(r, cell, pass, dtype, plan(problem));
}

// What a sequence without steps ends with: what it began with.
void keep_initial(const std::optional<Tensor>& initial, Tensor& last) {
  if (initial) {
    torch::stable::copy_(last, *initial);
  } else {
    torch::stable::zero_(last);
  }
}

std::tuple<Tensor, Tensor> elman(const Tensor& gates, const Tensor& w_hh, const std::optional<Tensor>& bias,
                                 const std::optional<Tensor>& h0, const std::string& nonlinearity,
                                 int64_t direction, bool batch_first,
                                 const std::optional<Tensor>& batch_sizes, const std::optional<Tensor>& reset,
                                 const std::optional<int64_t>& seed,
                                 const std::optional<std::string>& precision) {
  using Places = Elman<Tanh>::Forward;
  refuse("reset, seed, precision", reset, seed, precision);
  const Cell cell = cell_of(nonlinearity);
  const Layout layout(gates, "gates", direction, batch_first, batch_sizes);
  const int64_t H = gates.size(gates.dim() - 1);
  const Dtype dtype = dtype_of(gates, "gates");
  check("w_hh", w_hh, {layout.G, H, H}, gates);
  if (bias) check("bias", *bias, {layout.G, H}, gates);
  if (h0) check("h0", *h0, {layout.G, layout.B, H}, gates);

  const Tensor x = with_dense_rows(gates), w = with_dense_rows(w_hh);
  std::optional<Tensor> b, h;
  if (bias) b = with_dense_rows(*bias);
  if (h0) h = with_dense_rows(*h0);
  Tensor y = empty_contiguous(layout.shape(H), gates);
  Tensor h_n = empty_contiguous({layout.G, layout.B, H}, gates);

  Recurrence r = layout.recurrence(H);
  r.streams[Places::kGates] = layout.stream(x);
  r.streams[Places::kY] = layout.stream(y);
  r.matrices[0] = matrix_of(w);
  if (b) r.vectors[Places::kBias] = {b->data_ptr(), b->stride(0)};
  if (h) r.ends[Places::kH0] = end_of(*h);
  r.ends[Places::kHN] = end_of(h_n);
  plan_and_run(r, cell, Pass::forward, dtype, h.has_value());
  if (r.T == 0) keep_initial(h, h_n);
  return {y, h_n};
}

Tensor elman_bptt(const std::optional<Tensor>& dy, const std::optional<Tensor>& dh_n, const Tensor& y,
                  const Tensor& w_hh, const std::string& nonlinearity, int64_t direction, bool batch_first,
                  const std::optional<Tensor>& batch_sizes, const std::optional<Tensor>& reset,
                  const std::optional<int64_t>& seed, const std::optional<double>& clip,
                  const std::optional<Tensor>& norms, const std::optional<std::string>& precision) {
  using Places = Elman<Tanh>::Adjoint;
  refuse("reset, seed, clip, norms, precision", reset, seed, clip, norms, precision);
  const Cell cell = cell_of(nonlinearity);
  const Layout layout(y, "y", direction, batch_first, batch_sizes);
  const int64_t H = y.size(y.dim() - 1);
  const Dtype dtype = dtype_of(y, "y");
  check("w_hh", w_hh, {layout.G, H, H}, y);
  if (dy) check("dy", *dy, layout.shape(H), y);
  if (dh_n) check("dh_n", *dh_n, {layout.G, layout.B, H}, y);

  const Tensor h = with_dense_rows(y), w = with_dense_rows(w_hh);
  std::optional<Tensor> d, d_n;
  if (dy) d = with_dense_rows(*dy);
  if (dh_n) d_n = with_dense_rows(*dh_n);
  Tensor dgates = empty_contiguous(layout.shape(H), y);

  Recurrence r = layout.recurrence(H);
  if (d) r.streams[Places::kDy] = layout.stream(*d);
  r.streams[Places::kY] = layout.stream(h);
  r.streams[Places::kDGates] = layout.stream(dgates);
  r.matrices[0] = matrix_of(w);
  if (d_n) r.ends[Places::kDhN] = end_of(*d_n);
  plan_and_run(r, cell, Pass::bptt, dtype, false);
  return dgates;
}

void wish_plan(const std::optional<std::string>& schedule, const std::optional<std::string>& weights,
               const std::optional<int64_t>& workers) {
  Wishes w;
  if (schedule) w.schedule = schedule_from_name(*schedule);
  if (weights) w.weights = weights_from_name(*weights);
  if (workers) {
    require(*workers > 0, "workers: got ", *workers, ", expected a positive number");
    w.workers = static_cast<int>(std::min<int64_t>(*workers, 1 << 16));
  }
  wishes = w;
}

std::string last_plan() { return last_plan_run ? describe(*last_plan_run) : ""; }

}  // namespace
}  // namespace rnnfast

STABLE_TORCH_LIBRARY_IMPL(rnnfast, CPU, m) {
  m.impl("elman", TORCH_BOX(&rnnfast::elman));
  m.impl("elman_bptt", TORCH_BOX(&rnnfast::elman_bptt));
}

STABLE_TORCH_LIBRARY_IMPL(rnnfast, CompositeExplicitAutograd, m) {
  m.impl("last_plan", TORCH_BOX(&rnnfast::last_plan));
  m.impl("wish_plan", TORCH_BOX(&rnnfast::wish_plan));
}
