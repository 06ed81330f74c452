// Products by torch's operators; of float32 by the cuBLAS that these call, for they have no precision of
// their own: torch keeps one setting for products, and another, which layers follow, for cuDNN's RNNs.
#include "products.h"

#include <algorithm>

#include "device.h"
#include "dispatch.h"

namespace rnnfast::cuda {
namespace {

void multiply_as_set(Tensor& to, const Tensor& a, const Tensor& b) {
  const char* name = a.dim() == 2 ? "aten::mm" : "aten::bmm";
  if (to.scalar_type() == a.scalar_type()) {
    call(name, "out", a, b, to);
  } else {
    call(name, "dtype_out", a, b, to.scalar_type(), to);
  }
}

// A matrix, or each one of a batch. What lies by rows is to cuBLAS the transpose, by columns.
struct Operand {
  Tensor tensor;
  Blas::Operation operation;
  int64_t apart, next;  // rows or columns, and matrices

  explicit Operand(const Tensor& t) : tensor(t) {
    if (!fits()) {
      tensor = torch::stable::contiguous(t);
      fits();
    }
    next = t.dim() == 3 ? tensor.stride(0) : 0;
  }

  const float* data() const { return static_cast<const float*>(tensor.data_ptr()); }

 private:
  // Whether rows, or columns, are contiguous and do not overlap, as those of expanded tensors do.
  bool fits() {
    const int64_t first = tensor.dim() - 2, rows = tensor.size(first), columns = tensor.size(first + 1),
                  row = tensor.stride(first), column = tensor.stride(first + 1);
    const auto lies = [&](int64_t lines, int64_t line, int64_t values, int64_t value) {
      apart = std::max(lines > 1 ? line : values, int64_t{1});
      return (values <= 1 || value == 1) && apart >= values;
    };
    operation = Blas::as_it_is;
    if (lies(rows, row, columns, column)) return true;
    operation = Blas::transposed;
    return lies(columns, column, rows, row);
  }
};

// to^T = b^T a^T.
void multiply_with(const Blas& blas, Tensor& to, const Tensor& a, const Tensor& b, bool tf32) {
  const bool batched = to.dim() == 3;
  const int64_t rows = to.size(batched), columns = to.size(batched + 1), terms = a.size(batched + 1);
  if (rows == 0 || columns == 0 || (batched && to.size(0) == 0)) return;
  if (terms == 0) {
    torch::stable::zero_(to);
    return;
  }
  const Operand left(b), right(a), result(to);
  require(result.operation == Blas::as_it_is && result.tensor.data_ptr() == to.data_ptr(),
          "multiply: expected a result with contiguous rows");
  float* const data = static_cast<float*>(to.data_ptr());
  const float one = 1, zero = 0;
  int failed = blas.set_math(blas.handle, tf32 ? Blas::tf32 : Blas::in_full);
  if (!failed && batched) {
    failed = blas.gemm_batched(blas.handle, left.operation, right.operation, columns, rows, terms, &one,
                               left.data(), left.apart, left.next, right.data(), right.apart, right.next,
                               &zero, data, result.apart, result.next, to.size(0));
  } else if (!failed) {
    failed = blas.gemm(blas.handle, left.operation, right.operation, columns, rows, terms, &one, left.data(),
                       left.apart, right.data(), right.apart, &zero, data, result.apart);
  }
  require(!failed, "cuBLAS: a product of ", shape_of(a), " and ", shape_of(b), " failed with status ",
          failed);
}

}  // namespace

void multiply(Tensor& to, const Tensor& a, const Tensor& b, std::optional<bool> tf32) {
  const bool in_float32 = a.scalar_type() == torch::headeronly::ScalarType::Float;
  if (const auto found = tf32 && in_float32 ? blas() : std::nullopt) {
    multiply_with(*found, to, a, b, *tf32);
  } else {
    multiply_as_set(to, a, b);
  }
}

}  // namespace rnnfast::cuda
