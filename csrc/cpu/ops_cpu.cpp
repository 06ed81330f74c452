// The operators on the CPU: check, lay out, run.
#include "../cells/elman.h"
#include "layer.h"
#include "running.h"

namespace rnnfast {
namespace {

using OptionalTensor = std::optional<Tensor>;

Cell cell_of(const std::string& nonlinearity) {
  require(nonlinearity == "tanh" || nonlinearity == "relu", "nonlinearity: got '", nonlinearity,
          "', expected 'tanh' or 'relu'");
  return nonlinearity == "relu" ? Cell::elman_relu : Cell::elman_tanh;
}

template <class... Option>
void refuse(const char* names, const Option&... options) {
  require(!(options.has_value() || ...), names, ": reserved, not supported by this version");
}

OptionalTensor dense_if_given(const OptionalTensor& t) { return t ? OptionalTensor(with_dense_rows(*t)) : t; }

// What a sequence without steps ends with: what it began with.
void keep_initial(const OptionalTensor& initial, Tensor& last) {
  if (initial) {
    torch::stable::copy_(last, *initial);
  } else {
    torch::stable::zero_(last);
  }
}

// Writes all states to y, which may be `gates` itself, and the last ones to h_n, if given. The other tensors
// are checked here.
void run_forward(const Layout& layout, const Tensor& gates, const Tensor& y, Tensor* h_n, const Tensor& w_hh,
                 const OptionalTensor& bias, const OptionalTensor& h0, Cell cell) {
  using Places = Elman<Tanh>::Forward;
  const int64_t H = gates.size(gates.dim() - 1);
  const Dtype dtype = dtype_of(gates, "gates");
  check("w_hh", w_hh, {layout.G, H, H}, gates);
  if (bias) check("bias", *bias, {layout.G, H}, gates);
  if (h0) check("h0", *h0, {layout.G, layout.B, H}, gates);
  const Tensor w = with_dense_rows(w_hh);
  const OptionalTensor b = dense_if_given(bias), h = dense_if_given(h0);

  Recurrence r = layout.recurrence(H);
  r.streams[Places::kGates] = layout.stream(gates);
  r.streams[Places::kY] = layout.stream(y);
  r.matrices[0] = matrix_of(w);
  if (b) r.vectors[Places::kBias] = {b->data_ptr(), b->stride(0)};
  if (h) r.ends[Places::kH0] = end_of(*h);
  if (h_n) r.ends[Places::kHN] = end_of(*h_n);
  plan_and_run(r, cell, Pass::forward, dtype, h.has_value());
  if (h_n && r.T == 0) keep_initial(h, *h_n);
}

Tensor empty_state(const Layout& layout, const Tensor& gates) {
  return empty_contiguous({layout.G, layout.B, gates.size(gates.dim() - 1)}, gates);
}

// Returns dgates. All tensors are checked here.
Tensor run_bptt(const Layout& layout, const OptionalTensor& dy, const OptionalTensor& dh_n, const Tensor& y,
                const Tensor& w_hh, Cell cell) {
  using Places = Elman<Tanh>::Adjoint;
  const int64_t H = y.size(y.dim() - 1);
  const Dtype dtype = dtype_of(y, "y");
  check("w_hh", w_hh, {layout.G, H, H}, y);
  if (dy) check("dy", *dy, layout.shape(H), y);
  if (dh_n) check("dh_n", *dh_n, {layout.G, layout.B, H}, y);
  const Tensor h = with_dense_rows(y), w = with_dense_rows(w_hh);
  const OptionalTensor d = dense_if_given(dy), d_n = dense_if_given(dh_n);
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

std::tuple<Tensor, Tensor> elman(const Tensor& gates, const Tensor& w_hh, const OptionalTensor& bias,
                                 const OptionalTensor& h0, const std::string& nonlinearity, int64_t direction,
                                 bool batch_first, const OptionalTensor& batch_sizes,
                                 const OptionalTensor& reset, const std::optional<int64_t>& seed,
                                 const std::optional<std::string>& precision) {
  refuse("reset, seed, precision", reset, seed, precision);
  const Layout layout(gates, "gates", direction, batch_first, batch_sizes);
  Tensor y = empty_contiguous(layout.shape(gates.size(gates.dim() - 1)), gates);
  Tensor h_n = empty_state(layout, gates);
  run_forward(layout, with_dense_rows(gates), y, &h_n, w_hh, bias, h0, cell_of(nonlinearity));
  return {y, h_n};
}

Tensor elman_bptt(const OptionalTensor& dy, const OptionalTensor& dh_n, const Tensor& y, const Tensor& w_hh,
                  const std::string& nonlinearity, int64_t direction, bool batch_first,
                  const OptionalTensor& batch_sizes, const OptionalTensor& reset,
                  const std::optional<int64_t>& seed, const std::optional<double>& clip,
                  const OptionalTensor& norms, const std::optional<std::string>& precision) {
  refuse("reset, seed, clip, norms, precision", reset, seed, clip, norms, precision);
  const Layout layout(y, "y", direction, batch_first, batch_sizes);
  return run_bptt(layout, dy, dh_n, y, w_hh, cell_of(nonlinearity));
}

std::tuple<Tensor, Tensor> elman_layer(const Tensor& input, const Tensor& w_ih, const Tensor& w_hh_given,
                                       const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                                       const OptionalTensor& h0, const std::string& nonlinearity,
                                       int64_t direction, bool batch_first, const OptionalTensor& batch_sizes,
                                       bool onednn) {
  const Tensor w_hh = with_groups(w_hh_given);
  const int64_t G = w_hh.size(0), H = w_hh.size(1);
  const OptionalTensor bias = joint_bias(b_ih, b_hh, G, H);
  const Tensor gates = project(input, w_ih, G, onednn);
  const Layout layout(gates, "input", direction, batch_first, batch_sizes);
  // The gates are used once: the states take their place.
  Tensor h_n = empty_state(layout, gates);
  run_forward(layout, gates, gates, &h_n, w_hh, bias, h0, cell_of(nonlinearity));
  return {groups_joined(gates), h_n};
}

Tensor elman_cell(const Tensor& input, const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& b_ih,
                  const OptionalTensor& b_hh, const Tensor& h, const std::string& nonlinearity) {
  require(input.dim() == 2 && h.dim() == 2, "input, h: got ", input.dim(), " and ", h.dim(),
          " dimensions, expected 2 and 2");
  const OptionalTensor bias = joint_bias(b_ih, b_hh, 1, w_hh.size(0));
  const Tensor gates = with_leading_axis(project(input, w_ih, 1, false));
  const Layout layout(gates, "input", 0, false, std::nullopt);
  run_forward(layout, gates, gates, nullptr, with_groups(w_hh), bias, with_groups(h), cell_of(nonlinearity));
  return reshaped(gates, {gates.size(1), gates.size(3)});
}

// Gradients that are not needed are empty.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> elman_layer_bptt(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const Tensor& input, const Tensor& w_ih,
    const Tensor& w_hh_given, const OptionalTensor& h0, const Tensor& y, const std::string& nonlinearity,
    int64_t direction, bool batch_first, const OptionalTensor& batch_sizes, int64_t needs, bool onednn) {
  const Tensor w_hh = with_groups(w_hh_given);
  const int64_t G = w_hh.size(0), H = w_hh.size(2);
  check_projection(input, w_ih, G);
  check("w_ih", w_ih, {G * H, w_ih.size(1)}, input);
  Shape rows = shape_of(input);
  rows.back() = G * H;
  check("y", y, rows, input);
  const Tensor states = groups_split(y, G);
  const OptionalTensor d = dy ? OptionalTensor(groups_split(with_dense_rows(*dy), G)) : std::nullopt;
  const Layout layout(states, "y", direction, batch_first, batch_sizes);
  if (h0) check("h0", *h0, {G, layout.B, H}, input);
  const Tensor dgates = run_bptt(layout, d, dh_n, states, w_hh, cell_of(nonlinearity));
  const LayerGradients of(layout, dgates, needs);
  const auto [b_ih, b_hh] = of.biases();
  return {of.input(input, w_ih, onednn),
          of.w_ih(input),
          of.w_hh(states, h0, w_hh_given),
          b_ih,
          b_hh,
          of.h0(w_hh)};
}

}  // namespace
}  // namespace rnnfast

STABLE_TORCH_LIBRARY_IMPL(rnnfast, CPU, m) {
  m.impl("elman", TORCH_BOX(&rnnfast::elman));
  m.impl("elman_bptt", TORCH_BOX(&rnnfast::elman_bptt));
  m.impl("elman_cell", TORCH_BOX(&rnnfast::elman_cell));
  m.impl("elman_layer", TORCH_BOX(&rnnfast::elman_layer));
  m.impl("elman_layer_bptt", TORCH_BOX(&rnnfast::elman_layer_bptt));
}
