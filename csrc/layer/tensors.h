// torch's tensors: checked, viewed, allocated, and as the plain structs of recurrence.h.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../recurrence.h"
#include "large_pages.h"

namespace rnnfast {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Shape = std::vector<int64_t>;

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << "(";
  for (size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  return out << (shape.size() == 1 ? ",)" : ")");
}

// Throws one clear line, which torch hands on as a RuntimeError.
template <class... Part>
void require(bool holds, const Part&... parts) {
  if (holds) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline Shape shape_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return Shape(sizes.begin(), sizes.end());
}

inline Dtype dtype_of(const Tensor& t, const char* name) {
  using torch::headeronly::ScalarType;
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Dtype::f32;
    case ScalarType::Double:
      return Dtype::f64;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    case ScalarType::Half:
      return Dtype::f16;
    default:
      break;
  }
  require(false, name, ": got a dtype without kernel, expected float32, float64, bfloat16 or float16");
  return Dtype::f32;
}

inline int32_t device_type_of(const Tensor& t) {
  int32_t type = 0;
  require(aoti_torch_get_device_type(t.get(), &type) == AOTI_TORCH_SUCCESS, "a tensor without a device");
  return type;
}

inline int32_t device_index_of(const Tensor& t) {
  int32_t index = 0;
  require(aoti_torch_get_device_index(t.get(), &index) == AOTI_TORCH_SUCCESS, "a tensor without a device");
  return index;
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return device_type_of(a) == device_type_of(b) && device_index_of(a) == device_index_of(b);
}

// Checks an argument against the shape, the dtype and the device of `like`.
inline void check(const char* name, const Tensor& t, const Shape& expected, const Tensor& like) {
  bool same = t.dim() == static_cast<int64_t>(expected.size());
  for (size_t i = 0; same && i < expected.size(); ++i) same = t.size(static_cast<int64_t>(i)) == expected[i];
  if (!same) require(false, name, ": got shape ", shape_of(t), ", expected ", expected);
  require(same_device(t, like), name,
          ": got a tensor on another device than the first argument's, expected the same");
  require(t.scalar_type() == like.scalar_type(), name,
          ": got a dtype that differs from the first argument's, expected the same");
}

// The same values with the units of a row one behind the other.
inline Tensor with_dense_rows(const Tensor& t) {
  const int64_t last = t.dim() - 1;
  return t.size(last) <= 1 || t.stride(last) == 1 ? t : torch::stable::contiguous(t);
}

// The elements of `t` that lie at these strides, from so many after its first.
inline Tensor view_of(const Tensor& t, const Shape& sizes, const Shape& strides, int64_t offset = 0) {
  AtenTensorHandle handle = nullptr;
  const bool done = aoti_torch__reinterpret_tensor(t.get(), static_cast<int64_t>(sizes.size()), sizes.data(),
                                                   strides.data(), offset, &handle) == AOTI_TORCH_SUCCESS;
  require(done, "cannot view a tensor as ", sizes);
  return Tensor(handle);
}

inline Shape contiguous_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) strides[i] = stride, stride *= shape[i] > 0 ? shape[i] : 1;
  return strides;
}

// dtype: as aoti_torch_dtype_float32() and its like have it.
inline Tensor empty_contiguous(const Shape& shape, const Tensor& like, int32_t dtype) {
  const Shape strides = contiguous_strides(shape);
  AtenTensorHandle handle = nullptr;
  const bool done =
      aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(), dtype,
                               device_type_of(like), device_index_of(like), &handle) == AOTI_TORCH_SUCCESS;
  require(done, "cannot allocate a tensor of shape ", shape, "; is there not enough memory?");
  Tensor t(handle);
  const int64_t count = shape.empty() ? 1 : shape[0] * strides[0];
  if (count >= kFewestOfLarge && t.is_cpu())
    prefer_large_pages(t.data_ptr(), static_cast<size_t>(count) * t.element_size());
  return t;
}

inline Tensor empty_contiguous(const Shape& shape, const Tensor& like) {
  int32_t dtype = 0;
  require(aoti_torch_get_dtype(like.get(), &dtype) == AOTI_TORCH_SUCCESS, "a tensor without a dtype");
  return empty_contiguous(shape, like, dtype);
}

inline End end_of(const Tensor& t) { return {t.data_ptr(), t.stride(0), t.stride(1)}; }

inline Matrix matrix_of(const Tensor& w) {
  return {w.data_ptr(), w.stride(0), w.stride(1), w.size(1), w.size(2)};
}

inline Tensor transposed(const Tensor& t) {
  return view_of(t, {t.size(1), t.size(0)}, {t.stride(1), t.stride(0)});
}

}  // namespace rnnfast
