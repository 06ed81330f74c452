#include "products.h"

#include <algorithm>

#include "dispatch.h"

namespace rnnfast::cuda {
namespace {

using torch::headeronly::ScalarType;

// Whether rows, or columns, are contiguous and do not overlap, as those of expanded tensors do.
bool lies(int64_t lines, int64_t apart, int64_t values, int64_t stride) {
  return (values <= 1 || stride == 1) && (lines <= 1 || apart >= std::max(values, int64_t{1}));
}

cudaDataType type_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double:
      return CUDA_R_64F;
    case ScalarType::BFloat16:
      return CUDA_R_16BF;
    case ScalarType::Half:
      return CUDA_R_16F;
    default:
      return CUDA_R_32F;
  }
}

Tensor first_rows(const Tensor& t, int64_t rows) {
  Shape sizes = shape_of(t), strides(t.strides().begin(), t.strides().end());
  sizes[sizes.size() - 2] = rows;
  return view_of(t, sizes, strides);
}

}  // namespace

Product::Operand::Operand(Tensor& t) {
  const int64_t first = t.dim() - 2, rows = t.size(first), columns = t.size(first + 1);
  const bool by_rows = lies(rows, t.stride(first), columns, t.stride(first + 1));
  const bool by_columns = !by_rows && lies(columns, t.stride(first + 1), rows, t.stride(first));
  if (!by_rows && !by_columns) t = torch::stable::contiguous(t);
  operation = by_columns ? Blas::transposed : Blas::as_it_is;
  const int64_t lines = by_columns ? columns : rows, values = by_columns ? rows : columns;
  apart = lines > 1 ? t.stride(first + by_columns) : std::max(values, int64_t{1});
  next = first == 1 ? t.stride(0) : 0;
}

Product::Product(const Tensor& to, const Tensor& a, const Tensor& b, std::optional<bool> tf32)
    : to_(to),
      a_(a),
      b_(b),
      blas_(tf32 || a.scalar_type() != ScalarType::Float ? blas() : std::nullopt),
      math_(tf32.value_or(false) && a.scalar_type() == ScalarType::Float ? Blas::tf32 : Blas::in_full),
      left_(b_),
      right_(a_),
      result_(to_) {
  require(result_.operation == Blas::as_it_is && to_.data_ptr() == to.data_ptr(),
          "Product: expected a result with contiguous rows");
}

void Product::run(int64_t rows) const {
  const bool batched = to_.dim() == 3;
  const int64_t columns = to_.size(batched + 1), terms = a_.size(batched + 1);
  if (rows == 0 || columns == 0 || (batched && to_.size(0) == 0)) return;
  if (!blas_ || terms == 0) return run_by_torch(rows);
  const cudaDataType type = type_of(a_);
  const double one64 = 1, zero64 = 0;
  const float one32 = 1, zero32 = 0;
  const bool wide = type == CUDA_R_64F;
  const void *const one = wide ? static_cast<const void*>(&one64) : &one32,
                    *const zero = wide ? static_cast<const void*>(&zero64) : &zero32;
  const Blas::Compute compute = wide ? Blas::in_64_bits : Blas::in_32_bits;
  // to^T = b^T a^T.
  int failed = blas_->set_math(blas_->handle, math_);
  if (!failed && batched) {
    failed = blas_->gemm_batched(blas_->handle, left_.operation, right_.operation, columns, rows, terms, one,
                                 b_.data_ptr(), type, left_.apart, left_.next, a_.data_ptr(), type,
                                 right_.apart, right_.next, zero, to_.data_ptr(), type_of(to_), result_.apart,
                                 result_.next, to_.size(0), compute, Blas::by_default);
  } else if (!failed) {
    failed = blas_->gemm(blas_->handle, left_.operation, right_.operation, columns, rows, terms, one,
                         b_.data_ptr(), type, left_.apart, a_.data_ptr(), type, right_.apart, zero,
                         to_.data_ptr(), type_of(to_), result_.apart, compute, Blas::by_default);
  }
  if (failed)
    require(false, "cuBLAS: a product of ", shape_of(a_), " and ", shape_of(b_), " failed with status ",
            failed);
}

void Product::run_by_torch(int64_t rows) const {
  const char* name = to_.dim() == 2 ? "aten::mm" : "aten::bmm";
  const bool all = rows == to_.size(to_.dim() - 2);
  const Tensor to = all ? to_ : first_rows(to_, rows), a = all ? a_ : first_rows(a_, rows);
  if (to.scalar_type() == a.scalar_type()) {
    call(name, "out", a, b_, to);
  } else {
    call(name, "dtype_out", a, b_, to.scalar_type(), to);
  }
}

}  // namespace rnnfast::cuda
