// The operators on the CPU: check, lay out, run.
#include <array>

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

// Weights of 8 bits with their scales, float32, as int8.h has them.
struct Int8 {
  // A matrix of G (gates * units) rows and K columns.
  Int8(const char* name, const Tensor& q, const Tensor& s, int64_t G, int64_t gates, int64_t units, int64_t K)
      : weights(dense(q)), scales(dense(s)) {
    using torch::headeronly::ScalarType;
    const int64_t blocks = ceil_div(units, int8::kBlock);
    const Shape shape{G, blocks, ceil_div(K, 2), gates, int8::kBlock, 2},
        of_scales{G, blocks, gates, int8::kBlock};
    require(q.is_cpu() && s.is_cpu() && q.scalar_type() == ScalarType::Char &&
                s.scalar_type() == ScalarType::Float,
            name, ": expected int8 weights and float32 scales on the CPU");
    if (shape_of(q) != shape || shape_of(s) != of_scales)
      require(false, name, ": got shapes ", shape_of(q), " and ", shape_of(s), ", expected ", shape, " and ",
              of_scales);
    matrix.data = weights.data_ptr();
    matrix.rows = gates * units, matrix.columns = K;
    matrix.scales = static_cast<const float*>(scales.data_ptr());
  }

  Tensor weights, scales;
  Matrix matrix;
};

// A cell and its sizes; P is H without a projection.
struct Sizes {
  explicit Sizes(const std::string& cell_name) : cell(cell_named(cell_name)) {}
  Cell cell;
  int64_t G = 0, K = 0, H = 0, P = 0;
  bool projected = false;
};

// The matrices of a forward pass in their places.
using Matrices = std::array<Matrix, kMaxMatrices>;

// A cell, its weights by groups and the sizes that follow from them.
struct LayerWeights : Sizes {
  LayerWeights(const std::string& cell_name, const Tensor& w_hh_given, const OptionalTensor& w_hr_given)
      : Sizes(cell_name),
        w_hh(with_dense_rows(with_groups(w_hh_given))),
        w_hr(dense_if_given(with_groups_if_given(w_hr_given))) {
    if (w_hh.dim() != 3 || w_hh.size(1) % gates(cell) != 0)
      require(false, "w_hh: got shape ", shape_of(w_hh_given), ", expected (G, K, P), K a multiple of ",
              gates(cell));
    G = w_hh.size(0), K = w_hh.size(1), H = K / gates(cell);
    projected = w_hr.has_value(), P = projected ? w_hh.size(2) : H;
    require(!w_hr || cell == Cell::lstm, "w_hr: only an LSTM has a projection");
    if (w_hr) check("w_hr", *w_hr, {G, P, H}, w_hh);
  }

  // Whether there is one w_hh for each group of an array, of its dtype.
  void check_for(const Layout& layout, const Tensor& like) const {
    dtype_of(like, "input");
    check("w_hh", w_hh, {layout.G, K, P}, like);
  }

  Matrices matrices() const { return {matrix_of(w_hh), w_hr ? matrix_of(*w_hr) : Matrix{}}; }

  Tensor w_hh;
  OptionalTensor w_hr;
};

// Arrays in their places: streams, ends and matrices of a recurrence.
class Arrays {
 public:
  Arrays(const Layout& layout, const Sizes& sizes, const Matrices& matrices)
      : layout_(layout), recurrence_(layout.recurrence(sizes.H, sizes.projected ? sizes.P : 0)) {
    std::copy(matrices.begin(), matrices.end(), recurrence_.matrices);
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

// Input as a recurrence takes it: by groups, x with w_ih (G, K, I), or W_ih x.
struct Input {
  // w_ih: (G K, I).
  Input(const Tensor& input, const OptionalTensor& w_ih_given, const LayerWeights& w)
      : rows(with_dense_rows(input)) {
    if (!w_ih_given) return;
    check_projection(input, *w_ih_given, w.G * w.K);
    rows = for_groups(rows, w.G);
    w_ih = w_ih_by_groups(*w_ih_given, w.G);
  }

  Matrices with(Matrices others) const {
    if (w_ih) others[ForwardPlaces::kWih] = matrix_of(*w_ih);
    return others;
  }

  Tensor rows;
  OptionalTensor w_ih;
};

// The tensors that are read are checked here.
void run_forward(const Layout& layout, const Sizes& w, const Matrices& matrices, const Tensor& rows,
                 const OptionalTensor& bias, const OptionalTensor& h0, const OptionalTensor& c0, States& to) {
  using Places = ForwardPlaces;
  const Dtype dtype = dtype_of(rows, "input");
  const bool projects = matrices[Places::kWih].data;
  if (!projects) check("input", rows, layout.shape(w.K), rows);
  if (bias) check("bias", *bias, shape_of(*bias), rows);  // its dtype: joint_bias gave it its shape
  const OptionalTensor h = checked("h0", h0, {layout.G, layout.B, w.P}, rows),
                       c = checked("c0", c0, {layout.G, layout.B, w.H}, rows);
  require(!c0 || w.cell == Cell::lstm, "c0: only an LSTM has a cell state");

  Arrays arrays(layout, w, matrices);
  arrays.stream(projects ? Places::kInput : Places::kGates, rows);
  arrays.stream(Places::kY, to.y);
  arrays.stream(Places::kActivations, to.activations);
  arrays.stream(Places::kC, to.c);
  arrays.stream(Places::kInner, to.inner);
  arrays.vector(Places::kBias, bias);
  arrays.end(Places::kH0, h);
  arrays.end(Places::kHN, to.h_n);
  arrays.end(Places::kC0, c);
  arrays.end(Places::kCN, to.c_n);
  plan_and_run(arrays.recurrence(), w.cell, Pass::forward, dtype);
  if (layout.T == 0) {
    if (to.h_n) keep_initial(h, *to.h_n);
    if (to.c_n) keep_initial(c, *to.c_n);
  }
}

std::vector<Tensor> recurrence(const Tensor& input, const OptionalTensor& w_ih, const Tensor& w_hh,
                               const OptionalTensor& w_hr, const OptionalTensor& b_ih,
                               const OptionalTensor& b_hh, const OptionalTensor& h0, const OptionalTensor& c0,
                               const std::string& cell, int64_t direction, bool batch_first,
                               const OptionalTensor& batch_sizes, bool saves, const OptionalTensor& reset,
                               const std::optional<int64_t>& seed,
                               const std::optional<std::string>& precision) {
  refuse("reset, seed, precision", reset, seed, precision);
  const LayerWeights w(cell, w_hh, w_hr);
  const OptionalTensor bias = joint_bias(b_ih, b_hh, w.cell, w.G, w.H);
  const Input from(input, w_ih, w);
  const Layout layout(from.rows, "input", direction, batch_first, batch_sizes);

  const bool lstm = w.cell == Cell::lstm, gru = w.cell == Cell::gru;
  const auto array = [&](int64_t width) { return empty_contiguous(layout.shape(width), input); };
  const auto state = [&](int64_t width) { return empty_contiguous({layout.G, layout.B, width}, input); };
  const auto optional = [](bool wanted, const auto& make, int64_t width) {
    return wanted ? OptionalTensor(make(width)) : std::nullopt;
  };
  States to{array(w.P), state(w.P), optional(lstm, state, w.H)};
  to.activations = optional(saves && (lstm || gru), array, w.K);
  to.c = optional(saves && lstm, array, w.H);
  to.inner = optional(saves && (gru || w.w_hr), array, w.H);
  w.check_for(layout, from.rows);
  run_forward(layout, w, from.with(w.matrices()), from.rows, bias, h0, c0, to);

  std::vector<Tensor> results{w_ih ? groups_joined(to.y) : to.y, *to.h_n};
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

// A layer for inference, its weights of 8 bits.
std::vector<Tensor> recurrence_int8(const Tensor& input, const std::vector<Tensor>& w_ih,
                                    const std::vector<Tensor>& w_hh, const std::vector<Tensor>& w_hr,
                                    const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                                    const OptionalTensor& h0, const OptionalTensor& c0,
                                    const std::string& cell, int64_t H, int64_t P, int64_t direction,
                                    bool batch_first, const OptionalTensor& batch_sizes) {
  using Places = ForwardPlaces;
  require(w_ih.size() == 2 && w_hh.size() == 2 && (w_hr.empty() || w_hr.size() == 2),
          "w_ih, w_hh, w_hr: expected weights and scales of each");
  require(input.dim() >= 2 && input.dim() <= 3, "input: got ", input.dim(), " dimensions, expected 2 or 3");
  require(input.scalar_type() == torch::headeronly::ScalarType::Float, "input: expected float32");
  Sizes sizes(cell);
  sizes.G = w_hh[0].size(0), sizes.H = H, sizes.K = gates(sizes.cell) * H;
  sizes.projected = !w_hr.empty(), sizes.P = P;
  require(sizes.projected ? sizes.cell == Cell::lstm : P == H, "P: got ", P, ", expected H without w_hr");
  const int64_t G = sizes.G, n = gates(sizes.cell);
  const Int8 ih("w_ih", w_ih[0], w_ih[1], G, n, H, input.size(input.dim() - 1)),
      hh("w_hh", w_hh[0], w_hh[1], G, n, H, P);
  Matrices matrices;
  matrices[Places::kWih] = ih.matrix, matrices[Places::kWhh] = hh.matrix;
  std::optional<Int8> hr;
  if (sizes.projected) matrices[Places::kWhr] = hr.emplace("w_hr", w_hr[0], w_hr[1], G, 1, P, H).matrix;
  const OptionalTensor bias = joint_bias(b_ih, b_hh, sizes.cell, G, H);
  const Tensor rows = for_groups(with_dense_rows(input), G);
  const Layout layout(rows, "input", direction, batch_first, batch_sizes);

  const bool lstm = sizes.cell == Cell::lstm;
  States to{empty_contiguous(layout.shape(P), input), empty_contiguous({G, layout.B, P}, input)};
  if (lstm) to.c_n = empty_contiguous({G, layout.B, H}, input);
  run_forward(layout, sizes, matrices, rows, bias, h0, c0, to);
  std::vector<Tensor> results{groups_joined(to.y), *to.h_n};
  if (lstm) results.push_back(*to.c_n);
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
    const OptionalTensor& batch_sizes, int64_t needs, const OptionalTensor& reset,
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
  arrays.end(Places::kDhN, d_h_n);
  arrays.end(Places::kDcN, d_c_n);
  arrays.end(Places::kH0, h);
  arrays.end(Places::kC0, c);
  arrays.end(Places::kDh0, result.dh0);
  arrays.end(Places::kDc0, result.dc0);
  plan_and_run(arrays.recurrence(), w.cell, Pass::bptt, dtype_of(y, "y"));

  const Gradients of(layout, result, needs);
  const auto [b_ih, b_hh] = of.biases();
  return {of.input(input, w_ih), of.w_ih(input), of.w_hh(y, h, w_hh), of.w_hr(saved.inner, w_hr), b_ih, b_hh,
          of.h0(w.w_hh),         of.c0()};
}

}  // namespace
}  // namespace rnnfast

STABLE_TORCH_LIBRARY_IMPL(rnnfast, CPU, m) {
  m.impl("recurrence", TORCH_BOX(&rnnfast::recurrence));
  m.impl("recurrence_bptt", TORCH_BOX(&rnnfast::recurrence_bptt));
  m.impl("cell", TORCH_BOX(&rnnfast::cell));
  m.impl("recurrence_int8", TORCH_BOX(&rnnfast::recurrence_int8));
}
