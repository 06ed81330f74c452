// What a layer does besides its recurrence: the projection of its input, and from dgates the gradients of all
// else. Shapes: N (step, row of the batch) pairs, G groups, K = gates * H.
#pragma once

#include "gemm.h"
#include "layout.h"
#include "vec.h"

namespace rnnfast {

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// A contiguous tensor with another shape.
inline Tensor reshaped(const Tensor& t, const Shape& shape) {
  return view_of(t, shape, contiguous_strides(shape));
}

// All leading axes in one.
inline Tensor as_rows(const Tensor& t) {
  const int64_t width = t.size(t.dim() - 1);
  int64_t rows = 1;
  for (int64_t i = 0; i < t.dim() - 1; ++i) rows *= t.size(i);
  return reshaped(dense(t), {rows, width});
}

// (K, H) is (1, K, H): another axis in front.
inline Tensor with_leading_axis(const Tensor& t) {
  Shape sizes = shape_of(t), strides(t.strides().begin(), t.strides().end());
  sizes.insert(sizes.begin(), 1), strides.insert(strides.begin(), 0);
  return view_of(t, sizes, strides);
}

inline Tensor with_groups(const Tensor& w) { return w.dim() == 2 ? with_leading_axis(w) : w; }

// (..., G W) as (..., G, W), and back; units lie one behind the other.
inline Tensor groups_split(const Tensor& t, int64_t G) {
  Shape sizes = shape_of(t), strides(t.strides().begin(), t.strides().end());
  const int64_t width = G > 0 ? sizes.back() / G : 0;
  sizes.back() = G, strides.back() = width;
  sizes.push_back(width), strides.push_back(1);
  return view_of(t, sizes, strides);
}

inline Tensor groups_joined(const Tensor& t) {
  Shape sizes = shape_of(t);
  const int64_t width = sizes.back();
  sizes.pop_back();
  sizes.back() *= width;
  return reshaped(t, sizes);
}

template <class S>
void add_rounded(const void* a, const void* b, void* sum, int64_t size) {
  const S *x = static_cast<const S*>(a), *y = static_cast<const S*>(b);
  S* to = static_cast<S*>(sum);
  int64_t i = 0;
  for (; i + kLanes<S> <= size; i += kLanes<S>) store(to + i, load(x + i) + load(y + i));
  if (i < size) {
    const int rest = static_cast<int>(size - i);
    store(to + i, load(x + i, rest) + load(y + i, rest), rest);
  }
}

// Sums of the columns of (rows, width). Here and not in other threads as torch's, since it takes less time
// than the products beside it; and in double, since a plain sum of many rows is less exact than torch's.
template <class S>
void sum_rows(const void* data, int64_t rows, int64_t width, void* sum) {
  constexpr int64_t kBlock = 64;
  for (int64_t first = 0; first < width; first += kBlock) {
    const int64_t columns = std::min(kBlock, width - first);
    const S* row = static_cast<const S*>(data) + first;
    double sums[kBlock] = {};
    for (int64_t i = 0; i < rows; ++i, row += width) {
      if (columns == kBlock) {
        for (int j = 0; j < kBlock; ++j) sums[j] += row[j];
      } else {
        for (int64_t j = 0; j < columns; ++j) sums[j] += row[j];
      }
    }
    std::copy_n(sums, columns, static_cast<S*>(sum) + first);
  }
}

// torch's layers have two biases, which act as their sum, (G, K).
inline std::optional<Tensor> joint_bias(const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
                                        int64_t G, int64_t K) {
  const auto of_groups = [&](const char* name, const Tensor& b) {
    if (b.numel() != G * K || b.dim() > 2)
      require(false, name, ": got shape ", shape_of(b), ", expected ", Shape{G * K});
    return reshaped(dense(b), {G, K});
  };
  if (!b_ih && !b_hh) return std::nullopt;
  if (!b_hh) return of_groups("b_ih", *b_ih);
  if (!b_ih) return of_groups("b_hh", *b_hh);
  const Tensor a = of_groups("b_ih", *b_ih), b = of_groups("b_hh", *b_hh);
  check("b_hh", b, {G, K}, a);
  Tensor sum = empty_contiguous({G, K}, a);
  with_storage_type(dtype_of(a, "b_ih"), [&](auto type) {
    add_rounded<decltype(type)>(a.data_ptr(), b.data_ptr(), sum.data_ptr(), G * K);
  });
  return sum;
}

inline void check_projection(const Tensor& input, const Tensor& w_ih, int64_t G) {
  require(input.dim() >= 2 && input.dim() <= 3, "input: got ", input.dim(), " dimensions, expected 2 or 3");
  if (w_ih.dim() != 2 || G == 0 || w_ih.size(0) % G != 0)
    require(false, "w_ih: got shape ", shape_of(w_ih), ", expected (G K, I)");
  check("w_ih", w_ih, {w_ih.size(0), input.size(input.dim() - 1)}, input);
}

// W_ih x, (..., G, K), for input (..., I) and w_ih (G K, I).
inline Tensor project(const Tensor& input, const Tensor& w_ih, int64_t G, bool onednn) {
  check_projection(input, w_ih, G);
  const int64_t K = w_ih.size(0) / G;
  const Tensor gates = many_rows_product(as_rows(input), transposed(w_ih), onednn);
  Shape shape = shape_of(input);
  shape.back() = G, shape.push_back(K);
  return reshaped(gates, shape);
}

class LayerGradients {
 public:
  // Of the gradients, those in the sum are needed.
  enum Needs { kInput = 1, kWih = 2, kWhh = 4, kBias_ih = 8, kBias_hh = 16, kH0 = 32 };

  LayerGradients(const Layout& layout, const Tensor& dgates, int64_t needs)
      : layout_(layout),
        G_(layout.G),
        K_(dgates.size(dgates.dim() - 1)),
        rows_(as_rows(groups_joined(dgates))),
        needs_(needs) {}

  // dx = dgates W_ih.
  Tensor input(const Tensor& input, const Tensor& w_ih, bool onednn) const {
    if (!(needs_ & kInput)) return none();
    return reshaped(many_rows_product(rows_, w_ih, onednn), shape_of(input));
  }

  // dW_ih = dgates^T x.
  Tensor w_ih(const Tensor& input) const {
    return needs_ & kWih ? product(transposed(rows_), as_rows(input)) : none();
  }

  // Of both biases, each a tensor of its own: gradients that come later are added in place.
  std::pair<Tensor, Tensor> biases() const {
    if (!(needs_ & (kBias_ih | kBias_hh))) return {none(), none()};
    const Tensor sums = sum_of_rows();
    if (!(needs_ & kBias_hh)) return {sums, none()};
    return {needs_ & kBias_ih ? torch::stable::clone(sums) : none(), sums};
  }

  // dW_hh = sum over t of dgates_t h_{t-1}^T: one product for each group, and one for its initial state.
  Tensor w_hh(const Tensor& states, const std::optional<Tensor>& h0, const Tensor& given) const {
    if (!(needs_ & kWhh)) return none();
    const int64_t H = states.size(states.dim() - 1);
    const Tensor y = as_rows(groups_joined(dense(states)));
    Tensor dw = empty_contiguous({G_, K_, H}, rows_);
    for (int64_t g = 0; g < G_; ++g) {
      const bool reversed = layout_.reversed(g);
      Tensor own = view_of(dw, {K_, H}, {H, 1}, g * K_ * H);
      const Tensor d = part(rows_, reversed ? layout_.earlier() : layout_.later(), g, K_);
      product_to(own, transposed(d), part(y, reversed ? layout_.later() : layout_.earlier(), g, H));
      if (h0) add_product(own, transposed(entering(g)), group(*h0, g));
    }
    return reshaped(dw, shape_of(given));
  }

  // dh_0 = W_hh^T dgates of each row's first step in order of processing.
  Tensor h0(const Tensor& w_hh) const {
    if (!(needs_ & kH0)) return none();
    const int64_t H = w_hh.size(2), B = layout_.B;
    Tensor dh = empty_contiguous({G_, B, H}, rows_);
    for (int64_t g = 0; g < G_; ++g) {
      Tensor own = view_of(dh, {B, H}, {H, 1}, g * B * H);
      product_to(own, entering(g), group(w_hh, g));
    }
    return dh;
  }

 private:
  Tensor none() const { return empty_contiguous({0}, rows_); }

  // (K), or (G, K) if there are several groups.
  Tensor sum_of_rows() const {
    const Shape shape = G_ == 1 ? Shape{K_} : Shape{G_, K_};
    const Dtype dtype = dtype_of(rows_, "dgates");
    if (dtype != Dtype::f32 && dtype != Dtype::f64) return reshaped(torch::stable::sum(rows_, {{0}}), shape);
    Tensor sum = empty_contiguous(shape, rows_);
    const int64_t rows = rows_.size(0), width = rows_.size(1);
    dtype == Dtype::f32 ? sum_rows<float>(rows_.data_ptr(), rows, width, sum.data_ptr())
                        : sum_rows<double>(rows_.data_ptr(), rows, width, sum.data_ptr());
    return sum;
  }

  // dgates of each row's first step in order of processing, (B, K).
  Tensor entering(int64_t g) const {
    return part(rows_, layout_.reversed(g) ? layout_.last() : layout_.first(), g, K_);
  }

  static Tensor group(const Tensor& t, int64_t g) {
    return view_of(t, {t.size(1), t.size(2)}, {t.stride(1), t.stride(2)}, g * t.stride(0));
  }

  // Group g of some rows of (N, G W): a view if they lie together.
  Tensor part(const Tensor& all, const Layout::Runs& runs, int64_t g, int64_t width) const {
    const int64_t stride = all.size(1);
    if (runs.size() == 1) {
      return view_of(all, {runs[0].second, width}, {stride, 1}, runs[0].first * stride + g * width);
    }
    int64_t count = 0;
    for (const auto& run : runs) count += run.second;
    Tensor copy = empty_contiguous({count, width}, all);
    const size_t size = all.element_size();
    const char* from = static_cast<const char*>(all.data_ptr()) + g * width * size;
    char* to = static_cast<char*>(copy.data_ptr());
    for (const auto& [first, rows] : runs) {
      if (width == stride) {
        std::memcpy(to, from + first * stride * size, rows * width * size);
        to += rows * width * size;
        continue;
      }
      for (int64_t row = first; row < first + rows; ++row, to += width * size)
        std::memcpy(to, from + row * stride * size, width * size);
    }
    return copy;
  }

  const Layout& layout_;
  const int64_t G_, K_;
  const Tensor rows_;
  const int64_t needs_;
};

}  // namespace rnnfast
