// A forward pass over torch's tensors: checked, put in their places, run.
#pragma once

#include <array>

#include "../cells/cell.h"
#include "bias.h"

namespace rnnfast {

inline Cell cell_named(const std::string& name) {
  try {
    return cell_from_name(name);
  } catch (const std::invalid_argument& error) {
    require(false, error.what());
    throw;
  }
}

inline OptionalTensor dense_if_given(const OptionalTensor& t) {
  return t ? OptionalTensor(with_dense_rows(*t)) : t;
}

// An argument that may be absent, checked, with dense rows.
inline OptionalTensor checked(const char* name, const OptionalTensor& t, const Shape& expected,
                              const Tensor& like) {
  if (t) check(name, *t, expected, like);
  return dense_if_given(t);
}

inline OptionalTensor with_groups_if_given(const OptionalTensor& t) {
  return t ? OptionalTensor(with_groups(*t)) : t;
}

// rates: as csrc/ops.cpp has them.
inline Noise noise_of(const std::optional<std::vector<double>>& rates, const OptionalTensor& seed,
                      const Tensor& like) {
  require(rates || !seed, "seed: got one without noise, expected both");
  if (!rates) return {};
  require(rates->size() == 3, "noise: got ", rates->size(), " values, expected 3");
  Noise noise{(*rates)[0], (*rates)[1], (*rates)[2]};
  require(noise.dropout >= 0 && noise.dropout < 1, "noise: got a dropout of ", noise.dropout,
          ", expected 0 <= p < 1");
  for (const double p : {noise.zoneout_h, noise.zoneout_c})
    require(p >= 0 && p <= 1, "noise: got a zoneout of ", p, ", expected 0 <= p <= 1");
  if (!seed) noise.dropout = 0;
  if (!seed) return noise;
  require(seed->scalar_type() == torch::headeronly::ScalarType::Long && seed->dim() == 1 &&
              seed->size(0) == 2 && seed->is_contiguous() && same_device(*seed, like),
          "seed: expected a dense int64 tensor (2,) on the device of the input");
  noise.seed = static_cast<const int64_t*>(seed->data_ptr());
  return noise;
}

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
    require(!w_hr || cell == Cell::lstm,
            "w_hr: only an LSTM has a projection, one without layer normalisation");
    if (w_hr) check("w_hr", *w_hr, {G, P, H}, w_hh);
  }

  // What units have besides weights: biases, (G, K), of a layer-normalised cell gains and biases, (G, K + 2
  // H).
  OptionalTensor vector(const OptionalTensor& b_ih, const OptionalTensor& b_hh) const {
    if (cell != Cell::layer_norm_lstm) return joint_bias(b_ih, b_hh, cell, G, H);
    require(!b_ih && b_hh && b_hh->numel() == G * (K + 2 * H), "b_ih, b_hh: a layer-normalised LSTM has ",
            G * (K + 2 * H), " gains and biases, which are b_hh");
    check("b_hh", *b_hh, shape_of(*b_hh), w_hh);
    return reshaped(dense(*b_hh), {G, K + 2 * H});
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
  void clip(double most) {
    require(most > 0, "clip: got ", most, ", expected a positive number");
    recurrence_.clip = most;
  }
  void noise(const Noise& noise) { recurrence_.noise = noise; }
  // norms: (T, B, G) and so on, of the dtype that values are computed in.
  void norms(const Tensor& norms) {
    Shape shape = shape_of(norms), strides(norms.strides().begin(), norms.strides().end());
    strides.push_back(1), shape.push_back(1);
    recurrence_.norms = layout_.stream(view_of(norms, shape, strides));
  }
  const Recurrence& recurrence() const { return recurrence_; }

 private:
  const Layout& layout_;
  Recurrence recurrence_;
};

// What a sequence without steps ends with: what it began with.
inline void keep_initial(const OptionalTensor& initial, Tensor& last) {
  if (initial) {
    torch::stable::copy_(last, *initial);
  } else {
    torch::stable::zero_(last);
  }
}

// What a forward pass writes; absent: not wanted.
struct States {
  Tensor y;  // may be the gates themselves where they are as wide
  OptionalTensor h_n = {}, c_n = {}, activations = {}, c = {}, inner = {}, normal = {}, scales = {};
};

// Input as a recurrence takes it: by groups, x with w_ih (G, K, I), or W_ih x.
struct Input {
  // w_ih: (G K, I).
  Input(const Tensor& input, const OptionalTensor& w_ih_given, const LayerWeights& w)
      : rows(with_dense_rows(input)) {
    if (!w_ih_given) return;
    require(w.cell != Cell::layer_norm_lstm, "w_ih: got one, expected none of a layer-normalised LSTM");
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
inline void run_forward(const Layout& layout, const Sizes& w, const Matrices& matrices, const Tensor& rows,
                        const OptionalTensor& bias, const OptionalTensor& h0, const OptionalTensor& c0,
                        States& to, const backend::OnGpu& on_gpu = {}, const Noise& noise = {}) {
  using Places = ForwardPlaces;
  const Dtype dtype = dtype_of(rows, "input");
  const bool projects = matrices[Places::kWih].data;
  if (!projects) check("input", rows, layout.shape(w.K), rows);
  if (bias) check("bias", *bias, shape_of(*bias), rows);  // its dtype: joint_bias gave it its shape
  const OptionalTensor h = checked("h0", h0, {layout.G, layout.B, w.P}, rows),
                       c = checked("c0", c0, {layout.G, layout.B, w.H}, rows);
  require(!c0 || has_c(w.cell), "c0: only an LSTM has a cell state");

  Arrays arrays(layout, w, matrices);
  arrays.stream(projects ? Places::kInput : Places::kGates, rows);
  arrays.stream(Places::kY, to.y);
  arrays.stream(Places::kActivations, to.activations);
  arrays.stream(Places::kC, to.c);
  arrays.stream(Places::kInner, to.inner);
  arrays.stream(Places::kNormal, to.normal);
  arrays.stream(Places::kScales, to.scales);
  arrays.vector(Places::kBias, bias);
  arrays.end(Places::kH0, h);
  arrays.end(Places::kHN, to.h_n);
  arrays.end(Places::kC0, c);
  arrays.end(Places::kCN, to.c_n);
  arrays.noise(noise);
  backend::plan_and_run(arrays.recurrence(), w.cell, Pass::forward, dtype, rows, on_gpu);
  if (layout.T == 0) {
    if (to.h_n) keep_initial(h, *to.h_n);
    if (to.c_n) keep_initial(c, *to.c_n);
  }
}

}  // namespace rnnfast
