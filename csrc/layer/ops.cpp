// The operators: check, lay out, run. Compiled for each device, with its backend.
#include "ops.h"

#include "forward.h"
#include "gradients.h"

namespace rnnfast {
namespace {

backend::OnGpu on_gpu(const std::optional<Text>& precision, int64_t beside) {
  require(!precision || *precision == "ieee" || *precision == "tf32", "precision: got '",
          precision.value_or(""), "', expected 'ieee' or 'tf32'");
  return {precision ? std::optional(*precision == "tf32") : std::nullopt, beside};
}

}  // namespace

std::vector<Tensor> recurrence(const Tensor& input, const OptionalTensor& w_ih, const Tensor& w_hh,
                               const OptionalTensor& w_hr, const OptionalTensor& b_ih,
                               const OptionalTensor& b_hh, const OptionalTensor& h0, const OptionalTensor& c0,
                               const Text& cell, int64_t direction, bool batch_first,
                               const OptionalTensor& batch_sizes, bool saves, const OptionalTensor& stretches,
                               const OptionalTensor& seed, const std::optional<std::vector<double>>& noise,
                               const std::optional<double>& /*clip*/, const std::optional<Text>& precision,
                               int64_t beside) {
  const LayerWeights w(cell, w_hh, w_hr);
  const OptionalTensor bias = w.vector(b_ih, b_hh);
  const Input from(stretches ? dense(input) : input, w_ih, w);
  const Layout layout(from.rows, "input", direction, batch_first, batch_sizes, stretches);

  const bool lstm = has_c(w.cell), gru = w.cell == Cell::gru, normalised = w.cell == Cell::layer_norm_lstm;
  const auto array = [&](int64_t width) { return empty_contiguous(layout.shape(width), input); };
  const auto state = [&](int64_t width) { return empty_contiguous({layout.G, layout.B, width}, input); };
  const auto optional = [](bool wanted, const auto& make, int64_t width) {
    return wanted ? OptionalTensor(make(width)) : std::nullopt;
  };
  Tensor y = empty_contiguous(w_ih ? layout.joined_shape(w.P) : layout.shape(w.P), input);
  States to{y, state(w.P), optional(lstm, state, w.H)};
  const Noise noisy = noise_of(noise, seed, input);
  to.activations = optional(saves && (lstm || gru || noisy.any()), array, w.K);
  to.c = optional(saves && lstm, array, w.H);
  to.inner = optional(saves && (gru || w.w_hr || normalised), array, w.H);
  to.normal = optional(saves && normalised, array, w.K);
  to.scales = optional(saves && normalised, array, 2);
  w.check_for(layout, from.rows);
  run_forward(layout, w, from.with(w.matrices()), from.rows, bias, h0, c0, to, on_gpu(precision, beside),
              noisy);

  std::vector<Tensor> results;
  results.reserve(8);
  results.push_back(std::move(y));
  for (OptionalTensor* t : {&to.h_n, &to.c_n, &to.activations, &to.c, &to.inner, &to.normal, &to.scales})
    if (*t) results.push_back(std::move(**t));
  return results;
}

std::vector<Tensor> cell(const Tensor& input, const Tensor& w_ih, const Tensor& w_hh,
                         const OptionalTensor& b_ih, const OptionalTensor& b_hh, const Tensor& h,
                         const OptionalTensor& c, const Text& cell) {
  require(input.dim() == 2 && h.dim() == 2, "input, h: got ", input.dim(), " and ", h.dim(),
          " dimensions, expected 2 and 2");
  const LayerWeights w(cell, w_hh, std::nullopt);
  const OptionalTensor bias = joint_bias(b_ih, b_hh, w.cell, 1, w.H);
  const Input from(with_leading_axis(input), w_ih, w);
  const Layout layout(from.rows, "input", 0, false, std::nullopt);
  const bool lstm = w.cell == Cell::lstm;
  States to{empty_contiguous(layout.shape(w.H), input)};
  if (lstm) to.c_n = empty_contiguous({1, layout.B, w.H}, input);
  w.check_for(layout, from.rows);
  run_forward(layout, w, from.with(w.matrices()), from.rows, bias, with_groups(h), with_groups_if_given(c),
              to);
  std::vector<Tensor> results{reshaped(to.y, {layout.B, w.H})};
  if (lstm) results.push_back(reshaped(*to.c_n, {layout.B, w.H}));
  return results;
}

namespace {

// What recurrence saved, by name.
struct Saved {
  Saved(const std::vector<Tensor>& saved, const Layout& layout, const LayerWeights& w, const Tensor& like,
        bool noisy) {
    const bool lstm = has_c(w.cell), gru = w.cell == Cell::gru, normalised = w.cell == Cell::layer_norm_lstm;
    const size_t expected = normalised ? 5 : lstm ? 2 + w.w_hr.has_value() : gru ? 2 : noisy;
    require(saved.size() == expected, "saved: got ", saved.size(), " tensors, expected ", expected);
    const auto take = [&](size_t i, int64_t width) {
      check("saved", saved[i], layout.shape(width), like);
      return with_dense_rows(saved[i]);
    };
    if (expected > 0) activations = take(0, w.K);
    if (lstm) c = take(1, w.H);
    if (normalised) {
      inner = take(2, w.H), normal = take(3, w.K), scales = take(4, 2);
    } else if (gru || w.w_hr) {
      inner = take(saved.size() - 1, w.H);
    }
  }

  OptionalTensor activations, c, inner, normal, scales;
};

// Room for norms of what lies like y, of the dtype that its values are computed in.
Tensor empty_norms(const Layout& layout, const Tensor& y) {
  Shape shape = layout.shape(1);
  shape.pop_back();
  const bool f64 = dtype_of(y, "y") == Dtype::f64;
  return empty_contiguous(shape, y, f64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
}

}  // namespace

std::vector<Tensor> recurrence_bptt(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
    const OptionalTensor& dc, const OptionalTensor& input, const OptionalTensor& w_ih, const Tensor& w_hh,
    const OptionalTensor& w_hr, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
    const OptionalTensor& h0, const OptionalTensor& c0, const Tensor& y_given,
    const std::vector<Tensor>& saved_given, const Text& cell, int64_t direction, bool batch_first,
    const OptionalTensor& batch_sizes, int64_t needs, const OptionalTensor& stretches,
    const OptionalTensor& seed, const std::optional<std::vector<double>>& noise,
    const std::optional<double>& clip, const std::optional<Text>& precision, int64_t beside) {
  using Places = AdjointPlaces;
  using Gradients = LayerGradients;
  const LayerWeights w(cell, w_hh, w_hr);
  require(input.has_value() || !w_ih, "input: got none, expected one to go with w_ih");
  if (w_ih) {
    check_projection(*input, *w_ih, w.G * w.K);
    Shape rows = shape_of(*input);
    rows.back() = w.G * w.P;
    check("y", y_given, rows, *input);
  }
  const auto by_groups = [&](const Tensor& t) { return w_ih ? groups_split(t, w.G) : t; };
  // Rows in stretches are counted through all steps, which then have to lie without gaps.
  const auto in_memory = [&](const Tensor& t) { return stretches ? dense(t) : with_dense_rows(t); };
  const Tensor y = by_groups(in_memory(y_given));
  const Layout layout(y, "y", direction, batch_first, batch_sizes, stretches);
  w.check_for(layout, y);
  check("y", y, layout.shape(w.P), y);
  if (layout.T == 0) {  // states are handed on as they are
    const auto zeros = [&](int of, const Shape& shape) {
      Tensor t = empty_contiguous(needs & of ? shape : Shape{0}, y);
      torch::stable::zero_(t);
      return t;
    };
    const auto like = [&](int of, const OptionalTensor& t) { return zeros(of, t ? shape_of(*t) : Shape{0}); };
    const auto state = [&](int of, const OptionalTensor& d, int64_t width) {
      return needs & of && d ? torch::stable::clone(*d) : zeros(of, {layout.G, layout.B, width});
    };
    const int64_t width = w.K + (w.cell == Cell::layer_norm_lstm ? 2 * w.H : 0);
    const Shape bias = w.G == 1 ? Shape{width} : Shape{w.G, width};
    const Tensor d_c0 = has_c(w.cell) ? state(Gradients::kC0, dc_n, w.H) : zeros(0, {});
    const Tensor d_inner = zeros(w.cell == Cell::gru ? Gradients::kInner : 0, layout.shape(w.H));
    Shape norms = layout.shape(1);
    norms.pop_back();
    return {w_ih ? like(Gradients::kInput, input) : zeros(Gradients::kInput, layout.shape(w.K)),
            like(Gradients::kWih, w_ih),
            zeros(Gradients::kWhh, shape_of(w_hh)),
            like(Gradients::kWhr, w_hr),
            zeros(Gradients::kBias_ih, bias),
            zeros(Gradients::kBias_hh, bias),
            state(Gradients::kH0, dh_n, w.P),
            d_c0,
            zeros(Gradients::kGates, layout.shape(w.K)),
            d_inner,
            zeros(Gradients::kNorms, norms)};
  }
  const Noise noisy = noise_of(noise, seed, y);
  const Saved saved(saved_given, layout, w, y, noisy.any());
  const Shape h_shape{layout.G, layout.B, w.P}, c_shape{layout.G, layout.B, w.H};
  const OptionalTensor d_split = dy ? OptionalTensor(by_groups(in_memory(*dy))) : std::nullopt,
                       dc_in_memory = dc ? OptionalTensor(in_memory(*dc)) : std::nullopt;
  const OptionalTensor d = checked("dy", d_split, layout.shape(w.P), y),
                       d_c = checked("dc", dc_in_memory, layout.shape(w.H), y),
                       d_h_n = checked("dh_n", dh_n, h_shape, y), d_c_n = checked("dc_n", dc_n, c_shape, y),
                       h = checked("h0", h0, h_shape, y), c = checked("c0", c0, c_shape, y);

  const auto array = [&](bool wanted, const Shape& shape) {
    return wanted ? OptionalTensor(empty_contiguous(shape, y)) : std::nullopt;
  };
  const bool gru = w.cell == Cell::gru, lstm = has_c(w.cell), normalised = w.cell == Cell::layer_norm_lstm;
  const BpttResult result{empty_contiguous(layout.shape(w.K), y),
                          array(gru || normalised, layout.shape(normalised ? w.K : w.H)),
                          array(w.w_hr.has_value() || normalised, layout.shape(w.P)),
                          array((gru || noisy.any()) && needs & Gradients::kH0, h_shape),
                          array(lstm && needs & Gradients::kC0, c_shape)};
  Arrays arrays(layout, w, w.matrices());
  arrays.stream(Places::kDy, d);
  arrays.stream(Places::kY, y);
  arrays.stream(Places::kDGates, result.dgates);
  arrays.stream(Places::kActivations, saved.activations);
  arrays.stream(Places::kC, saved.c);
  arrays.stream(Places::kInner, saved.inner);
  arrays.stream(Places::kDc, d_c);
  arrays.stream(Places::kDInner, result.dinner);
  arrays.stream(Places::kDh, result.dh);
  arrays.stream(Places::kNormal, saved.normal);
  arrays.stream(Places::kScales, saved.scales);
  // Biases have no part in BPTT, gains do.
  const OptionalTensor gains = normalised ? w.vector(b_ih, b_hh) : std::nullopt;
  arrays.vector(Places::kBias, gains);
  arrays.end(Places::kDhN, d_h_n);
  arrays.end(Places::kDcN, d_c_n);
  arrays.end(Places::kH0, h);
  arrays.end(Places::kC0, c);
  arrays.end(Places::kDh0, result.dh0);
  arrays.end(Places::kDc0, result.dc0);
  if (clip) arrays.clip(*clip);
  arrays.noise(noisy);
  const OptionalTensor norms =
      needs & Gradients::kNorms ? OptionalTensor(empty_norms(layout, y)) : std::nullopt;
  if (norms) arrays.norms(*norms);
  const backend::OnGpu how = on_gpu(precision, beside);
  backend::plan_and_run(arrays.recurrence(), w.cell, Pass::bptt, dtype_of(y, "y"), y, how);

  const Gradients of(layout, result, needs, how);
  const auto [db_ih, db_hh] =
      normalised ? std::pair(of.none(), of.gains(*saved.normal, *saved.inner)) : of.biases();
  return {of.input(input, w_ih),
          of.w_ih(input),
          of.w_hh(y, h, w_hh),
          of.w_hr(saved.inner, w_hr),
          db_ih,
          db_hh,
          of.h0(w.w_hh),
          of.c0(),
          of.gates(),
          of.inner(),
          norms.value_or(of.none())};
}

}  // namespace rnnfast
