// The operators on the CPU: check, lay out, run.
#include "../cells/cell.h"
#include "layer.h"
#include "running.h"

namespace rnnfast {
namespace {

using OptionalTensor = std::optional<Tensor>;

template <class... Option>
void refuse(const char* names, const Option&... options) {
  require(!(options.has_value() || ...), names, ": reserved, not supported by this version");
}

Cell cell_named(const std::string& name) {
  try {
    return cell_from_name(name);
  } catch (const std::invalid_argument& error) {
    require(false, error.what());
    throw;
  }
}

OptionalTensor dense_if_given(const OptionalTensor& t) { return t ? OptionalTensor(with_dense_rows(*t)) : t; }

// An argument that may be absent, checked, with dense rows.
OptionalTensor checked(const char* name, const OptionalTensor& t, const Shape& expected, const Tensor& like) {
  if (t) check(name, *t, expected, like);
  return dense_if_given(t);
}

OptionalTensor with_groups_if_given(const OptionalTensor& t) {
  return t ? OptionalTensor(with_groups(*t)) : t;
}

// A cell, its weights by groups and the sizes that follow from them.
struct LayerWeights {
  LayerWeights(const std::string& cell_name, const Tensor& w_hh_given, const OptionalTensor& w_hr_given)
      : cell(cell_named(cell_name)),
        w_hh(with_dense_rows(with_groups(w_hh_given))),
        w_hr(dense_if_given(with_groups_if_given(w_hr_given))) {
    if (w_hh.dim() != 3 || w_hh.size(1) % gates(cell) != 0)
      require(false, "w_hh: got shape ", shape_of(w_hh_given), ", expected (G, K, P), K a multiple of ",
              gates(cell));
    G = w_hh.size(0), K = w_hh.size(1), H = K / gates(cell);
    P = w_hr ? w_hh.size(2) : H;
    require(!w_hr || cell == Cell::lstm, "w_hr: only an LSTM has a projection");
    if (w_hr) check("w_hr", *w_hr, {G, P, H}, w_hh);
  }

  // Whether there is one w_hh for each group of an array, of its dtype.
  void check_for(const Layout& layout, const Tensor& like) const {
    check("w_hh", w_hh, {layout.G, K, P}, like);
  }

  Cell cell;
  Tensor w_hh;
  OptionalTensor w_hr;
  int64_t G, K, H, P;
};

// Arrays in their places: streams, ends and matrices of a recurrence.
class Arrays {
 public:
  Arrays(const Layout& layout, const LayerWeights& w)
      : layout_(layout), recurrence_(layout.recurrence(w.H, w.w_hr ? w.P : 0)) {
    recurrence_.matrices[0] = matrix_of(w.w_hh);
    if (w.w_hr) recurrence_.matrices[1] = matrix_of(*w.w_hr);
  }

  void stream(int place, const OptionalTensor& t) {
    if (t) recurrence_.streams[place] = layout_.stream(*t);
  }
  void end(int place, const OptionalTensor& t) {
    if (t) recurrence_.ends[place] = end_of(*t);
  }
  void vector(int place, const OptionalTensor& t) {
    if (t) recurrence_.vectors[place] = {t->data_ptr(), t->stride(0)};
  }
  const Recurrence& recurrence() const { return recurrence_; }

 private:
  const Layout& layout_;
  Recurrence recurrence_;
};

// What a sequence without steps ends with: what it began with.
void keep_initial(const OptionalTensor& initial, Tensor& last) {
  if (initial) {
    torch::stable::copy_(last, *initial);
  } else {
    torch::stable::zero_(last);
  }
}

// What a forward pass writes; absent: not wanted.
struct States {
  Tensor y;  // may be the gates themselves where they are as wide
  OptionalTensor h_n = {}, c_n = {}, activations = {}, c = {}, inner = {};
};

// The tensors that are read are checked here.
void run_forward(const Layout& layout, const LayerWeights& w, const Tensor& gates, const OptionalTensor& bias,
                 const OptionalTensor& h0, const OptionalTensor& c0, States& to) {
  using Places = ForwardPlaces;
  const Dtype dtype = dtype_of(gates, "input");
  w.check_for(layout, gates);
  if (bias) check("bias", *bias, shape_of(*bias), gates);  // its dtype: joint_bias gave it its shape
  const OptionalTensor h = checked("h0", h0, {layout.G, layout.B, w.P}, gates),
                       c = checked("c0", c0, {layout.G, layout.B, w.H}, gates);
  require(!c0 || w.cell == Cell::lstm, "c0: only an LSTM has a cell state");

  Arrays arrays(layout, w);
  arrays.stream(Places::kGates, gates);
  arrays.stream(Places::kY, to.y);
  arrays.stream(Places::kActivations, to.activations);
  arrays.stream(Places::kC, to.c);
  arrays.stream(Places::kInner, to.inner);
  arrays.vector(Places::kBias, bias);
  arrays.end(Places::kH0, h);
  arrays.end(Places::kHN, to.h_n);
  arrays.end(Places::kC0, c);
  arrays.end(Places::kCN, to.c_n);
  plan_and_run(arrays.recurrence(), w.cell, Pass::forward, dtype, h.has_value());
  if (layout.T == 0) {
    if (to.h_n) keep_initial(h, *to.h_n);
    if (to.c_n) keep_initial(c, *to.c_n);
  }
}

std::vector<Tensor> recurrence(const Tensor& input, const OptionalTensor& w_ih, const Tensor& w_hh,
                               const OptionalTensor& w_hr, const OptionalTensor& b_ih,
                               const OptionalTensor& b_hh, const OptionalTensor& h0, const OptionalTensor& c0,
                               const std::string& cell, int64_t direction, bool batch_first,
                               const OptionalTensor& batch_sizes, bool saves, bool onednn,
                               const OptionalTensor& reset, const std::optional<int64_t>& seed,
                               const std::optional<std::string>& precision) {
  refuse("reset, seed, precision", reset, seed, precision);
  const LayerWeights w(cell, w_hh, w_hr);
  const OptionalTensor bias = joint_bias(b_ih, b_hh, w.cell, w.G, w.H);
  if (w_ih) check_projection(input, *w_ih, w.G * w.K);
  const Tensor gates = w_ih ? project(input, *w_ih, w.G, onednn) : with_dense_rows(input);
  const Layout layout(gates, "input", direction, batch_first, batch_sizes);
  if (!w_ih) check("input", gates, layout.shape(w.K), gates);

  // Gates that are our own are used once: what is saved of them, or the states, take their place.
  const bool own = w_ih.has_value(), lstm = w.cell == Cell::lstm, gru = w.cell == Cell::gru;
  const auto array = [&](int64_t width) { return empty_contiguous(layout.shape(width), gates); };
  const auto state = [&](int64_t width) { return empty_contiguous({layout.G, layout.B, width}, gates); };
  const auto optional = [](bool wanted, const auto& make, int64_t width) {
    return wanted ? OptionalTensor(make(width)) : std::nullopt;
  };
  States to{own && !lstm && !gru ? gates : array(w.P), state(w.P), optional(lstm, state, w.H)};
  if (saves && (lstm || gru)) to.activations = own ? gates : array(w.K);
  to.c = optional(saves && lstm, array, w.H);
  to.inner = optional(saves && (gru || w.w_hr), array, w.H);
  run_forward(layout, w, gates, bias, h0, c0, to);

  std::vector<Tensor> results{own ? groups_joined(to.y) : to.y, *to.h_n};
  for (const OptionalTensor* t : {&to.c_n, &to.activations, &to.c, &to.inner})
    if (*t) results.push_back(**t);
  return results;
}

std::vector<Tensor> cell(const Tensor& input, const Tensor& w_ih, const Tensor& w_hh,
                         const OptionalTensor& b_ih, const OptionalTensor& b_hh, const Tensor& h,
                         const OptionalTensor& c, const std::string& cell) {
  require(input.dim() == 2 && h.dim() == 2, "input, h: got ", input.dim(), " and ", h.dim(),
          " dimensions, expected 2 and 2");
  const LayerWeights w(cell, w_hh, std::nullopt);
  check_projection(input, w_ih, w.K);
  const OptionalTensor bias = joint_bias(b_ih, b_hh, w.cell, 1, w.H);
  const Tensor gates = with_leading_axis(project(input, w_ih, 1, false));
  const Layout layout(gates, "input", 0, false, std::nullopt);
  const bool lstm = w.cell == Cell::lstm;
  States to{w.H == w.K ? gates : empty_contiguous(layout.shape(w.H), gates)};
  if (lstm) to.c_n = empty_contiguous({1, layout.B, w.H}, gates);
  run_forward(layout, w, gates, bias, with_groups(h), with_groups_if_given(c), to);
  std::vector<Tensor> results{reshaped(to.y, {layout.B, w.H})};
  if (lstm) results.push_back(reshaped(*to.c_n, {layout.B, w.H}));
  return results;
}

// What recurrence saved, by name.
struct Saved {
  Saved(const std::vector<Tensor>& saved, const Layout& layout, const LayerWeights& w, const Tensor& like) {
    const bool lstm = w.cell == Cell::lstm, gru = w.cell == Cell::gru;
    const size_t expected = lstm ? 2 + w.w_hr.has_value() : gru ? 2 : 0;
    require(saved.size() == expected, "saved: got ", saved.size(), " tensors, expected ", expected);
    const auto take = [&](size_t i, int64_t width) {
      check("saved", saved[i], layout.shape(width), like);
      return with_dense_rows(saved[i]);
    };
    if (lstm || gru) activations = take(0, w.K);
    if (lstm) c = take(1, w.H);
    if (gru || w.w_hr) inner = take(saved.size() - 1, w.H);
  }

  OptionalTensor activations, c, inner;
};

std::vector<Tensor> recurrence_bptt(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
    const OptionalTensor& dc, const OptionalTensor& input, const OptionalTensor& w_ih, const Tensor& w_hh,
    const OptionalTensor& w_hr, const OptionalTensor& h0, const OptionalTensor& c0, const Tensor& y_given,
    const std::vector<Tensor>& saved_given, const std::string& cell, int64_t direction, bool batch_first,
    const OptionalTensor& batch_sizes, int64_t needs, bool onednn, const OptionalTensor& reset,
    const std::optional<int64_t>& seed, const std::optional<double>& clip, const OptionalTensor& norms,
    const std::optional<std::string>& precision) {
  using Places = AdjointPlaces;
  using Gradients = LayerGradients;
  refuse("reset, seed, clip, norms, precision", reset, seed, clip, norms, precision);
  const LayerWeights w(cell, w_hh, w_hr);
  require(input.has_value() || !w_ih, "input: got none, expected one to go with w_ih");
  if (w_ih) {
    check_projection(*input, *w_ih, w.G * w.K);
    Shape rows = shape_of(*input);
    rows.back() = w.G * w.P;
    check("y", y_given, rows, *input);
  }
  const auto by_groups = [&](const Tensor& t) { return w_ih ? groups_split(t, w.G) : t; };
  const Tensor y = by_groups(with_dense_rows(y_given));
  const Layout layout(y, "y", direction, batch_first, batch_sizes);
  w.check_for(layout, y);
  check("y", y, layout.shape(w.P), y);
  require(layout.T > 0 || needs <= Gradients::kInput, "y: got a sequence of 0 steps, expected at least 1");
  const Saved saved(saved_given, layout, w, y);
  const Shape h_shape{layout.G, layout.B, w.P}, c_shape{layout.G, layout.B, w.H};
  const OptionalTensor d_split = dy ? OptionalTensor(by_groups(with_dense_rows(*dy))) : std::nullopt;
  const OptionalTensor d = checked("dy", d_split, layout.shape(w.P), y),
                       d_c = checked("dc", dc, layout.shape(w.H), y),
                       d_h_n = checked("dh_n", dh_n, h_shape, y), d_c_n = checked("dc_n", dc_n, c_shape, y),
                       h = checked("h0", h0, h_shape, y), c = checked("c0", c0, c_shape, y);

  const auto array = [&](bool wanted, const Shape& shape) {
    return wanted ? OptionalTensor(empty_contiguous(shape, y)) : std::nullopt;
  };
  const bool gru = w.cell == Cell::gru, lstm = w.cell == Cell::lstm;
  const BpttResult result{empty_contiguous(layout.shape(w.K), y), array(gru, layout.shape(w.H)),
                          array(w.w_hr.has_value(), layout.shape(w.P)),
                          array(gru && needs & Gradients::kH0, h_shape),
                          array(lstm && needs & Gradients::kC0, c_shape)};
  Arrays arrays(layout, w);
  arrays.stream(Places::kDy, d);
  arrays.stream(Places::kY, y);
  arrays.stream(Places::kDGates, result.dgates);
  arrays.stream(Places::kActivations, saved.activations);
  arrays.stream(Places::kC, saved.c);
  arrays.stream(Places::kInner, saved.inner);
  arrays.stream(Places::kDc, d_c);
  arrays.stream(Places::kDInner, result.dinner);
  arrays.stream(Places::kDh, result.dh);
  arrays.end(Places::kDhN, d_h_n);
  arrays.end(Places::kDcN, d_c_n);
  arrays.end(Places::kH0, h);
  arrays.end(Places::kC0, c);
  arrays.end(Places::kDh0, result.dh0);
  arrays.end(Places::kDc0, result.dc0);
  plan_and_run(arrays.recurrence(), w.cell, Pass::bptt, dtype_of(y, "y"), false);

  const Gradients of(layout, result, needs);
  const auto [b_ih, b_hh] = of.biases();
  return {of.input(input, w_ih, onednn),
          of.w_ih(input),
          of.w_hh(y, h, w_hh),
          of.w_hr(saved.inner, w_hr),
          b_ih,
          b_hh,
          of.h0(w.w_hh),
          of.c0()};
}

}  // namespace
}  // namespace rnnfast

STABLE_TORCH_LIBRARY_IMPL(rnnfast, CPU, m) {
  m.impl("recurrence", TORCH_BOX(&rnnfast::recurrence));
  m.impl("recurrence_bptt", TORCH_BOX(&rnnfast::recurrence_bptt));
  m.impl("cell", TORCH_BOX(&rnnfast::cell));
}
