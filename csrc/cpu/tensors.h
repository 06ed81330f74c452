// From torch's tensors to the plain structs of recurrence.h, checked.
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

namespace rnnfast {

// Throws one clear line, which torch hands on as a RuntimeError.
template <class... Part>
void require(bool holds, const Part&... parts) {
  if (holds) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

inline std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
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

// Checks an argument against the shape and against the dtype of `like`.
inline void check(const char* name, const Tensor& t, const Shape& expected, const Tensor& like) {
  require(shape_of(t) == expected, name, ": got shape ", to_string(shape_of(t)), ", expected ",
          to_string(expected));
  require(t.is_cpu(), name, ": got a tensor on another device, expected one on the CPU");
  require(t.scalar_type() == like.scalar_type(), name,
          ": got a dtype that differs from the first argument's, expected the same");
}

// The same values with the units of a row one behind the other.
inline Tensor with_dense_rows(const Tensor& t) {
  const int64_t last = t.dim() - 1;
  return t.size(last) <= 1 || t.stride(last) == 1 ? t : torch::stable::contiguous(t);
}

inline Tensor empty_contiguous(const Shape& shape, const Tensor& like) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) strides[i] = stride, stride *= shape[i] > 0 ? shape[i] : 1;
  int32_t dtype = 0;
  AtenTensorHandle handle = nullptr;
  const bool done =
      aoti_torch_get_dtype(like.get(), &dtype) == AOTI_TORCH_SUCCESS &&
      aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(), dtype,
                               aoti_torch_device_type_cpu(), 0, &handle) == AOTI_TORCH_SUCCESS;
  require(done, "cannot allocate a tensor of shape ", to_string(shape));
  return Tensor(handle);
}

// How the rows of a sequence batch lie in memory, read off one array of it.
class Layout {
 public:
  Layout(const Tensor& rows, const char* name, int64_t direction, bool batch_first,
         const std::optional<Tensor>& batch_sizes)
      : packed_(batch_sizes.has_value()), batch_first_(batch_first) {
    require(direction >= 0 && direction <= 2, "direction: got ", direction,
            ", expected 0 (forward), 1 (reverse) or 2 (odd groups reverse)");
    direction_ = static_cast<Direction>(direction);
    const int64_t dims = packed_ ? 3 : 4;
    require(rows.dim() == dims, name, ": got ", rows.dim(), " dimensions, expected ", dims,
            packed_       ? " (N, G, K)"
            : batch_first ? " (B, T, G, K)"
                          : " (T, B, G, K)");
    require(rows.is_cpu(), name, ": got a tensor on another device, expected one on the CPU");
    G = rows.size(dims - 2);
    if (packed_) {
      read_batch_sizes(*batch_sizes, rows.size(0));
    } else {
      T = rows.size(batch_first ? 1 : 0), B = rows.size(batch_first ? 0 : 1);
    }
  }

  Shape shape(int64_t width) const {
    if (packed_) return {rows_, G, width};
    return batch_first_ ? Shape{B, T, G, width} : Shape{T, B, G, width};
  }

  Stream stream(const Tensor& t) const {
    Stream s;
    s.data = t.data_ptr();
    s.group = t.stride(packed_ ? 1 : 2);
    s.row = t.stride(packed_ || batch_first_ ? 0 : 1);
    s.step = packed_ ? 0 : t.stride(batch_first_ ? 1 : 0);
    return s;
  }

  // A recurrence over these rows that has no arrays yet. It points into this object.
  Recurrence recurrence(int64_t H) const {
    Recurrence r;
    r.T = T, r.B = B, r.G = G, r.units[0] = H, r.direction = direction_;
    if (packed_) r.counts = counts_.data(), r.offsets = offsets_.data();
    return r;
  }

  int64_t T = 0, B = 0, G = 0;

 private:
  void read_batch_sizes(const Tensor& batch_sizes, int64_t rows) {
    require(batch_sizes.dim() == 1 && batch_sizes.is_cpu() &&
                batch_sizes.scalar_type() == torch::headeronly::ScalarType::Long,
            "batch_sizes: expected a 1-D int64 tensor on the CPU");
    const Tensor dense = with_dense_rows(batch_sizes);
    const int64_t* sizes = static_cast<const int64_t*>(dense.data_ptr());
    T = dense.size(0);
    counts_.assign(sizes, sizes + T);
    offsets_.resize(T);
    for (int64_t t = 0; t < T; ++t) {
      require(counts_[t] > 0 && (t == 0 || counts_[t] <= counts_[t - 1]), "batch_sizes: got ", counts_[t],
              " at step ", t, ", expected positive numbers that do not grow");
      offsets_[t] = rows_;
      rows_ += counts_[t];
    }
    require(rows_ == rows, "batch_sizes: got a sum of ", rows_, ", expected the number of packed rows, ",
            rows);
    B = T > 0 ? counts_[0] : 0;
  }

  bool packed_, batch_first_;
  Direction direction_ = Direction::forward;
  int64_t rows_ = 0;
  std::vector<int64_t> counts_, offsets_;
};

inline End end_of(const Tensor& t) { return {t.data_ptr(), t.stride(0), t.stride(1)}; }

inline Matrix matrix_of(const Tensor& w) {
  return {w.data_ptr(), w.stride(0), w.stride(1), w.size(1), w.size(2)};
}

}  // namespace rnnfast
