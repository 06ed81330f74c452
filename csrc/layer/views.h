// A layer's tensors seen in other shapes.
#pragma once

#include <algorithm>

#include "tensors.h"

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

// `columns`: G K.
inline void check_projection(const Tensor& input, const Tensor& w_ih, int64_t columns) {
  require(input.dim() >= 2 && input.dim() <= 3, "input: got ", input.dim(), " dimensions, expected 2 or 3");
  check("w_ih", w_ih, {columns, input.size(input.dim() - 1)}, input);
}

// (..., I) as (..., G, I), the same for every group.
inline Tensor for_groups(const Tensor& input, int64_t G) {
  Shape sizes = shape_of(input), strides(input.strides().begin(), input.strides().end());
  sizes.insert(sizes.end() - 1, G), strides.insert(strides.end() - 1, 0);
  return view_of(input, sizes, strides);
}

// w_ih, (G K, I), by groups.
inline Tensor w_ih_by_groups(const Tensor& w_ih, int64_t G) {
  const Tensor w = with_dense_rows(w_ih);
  const int64_t K = w.size(0) / std::max<int64_t>(1, G);
  return view_of(w, {G, K, w.size(1)}, {K * w.stride(0), w.stride(0), 1});
}

}  // namespace rnnfast
