// Products of matrices around a recurrence, and of its steps.
#pragma once

#include <optional>

#include "../layer/tensors.h"
#include "device.h"

namespace rnnfast::cuda {

// to = a b, as often as it is run: for matrices or batches of them, where `to` has contiguous rows; of 16-bit
// values also to float32. On the present device and in torch's stream, neither of which may become another
// one until it is run. tf32: whether float32 may be rounded to TF32; absent: as torch's own products are set.
//
// By the cuBLAS that torch has loaded, not by torch's operators: these have one setting for all products,
// where layers follow that of cuDNN's RNNs; and a product for each step waits for the host, of which an
// operator takes a few microseconds more.
class Product {
 public:
  Product(const Tensor& to, const Tensor& a, const Tensor& b, std::optional<bool> tf32);

  void run() const { run(to_.size(to_.dim() - 2)); }
  // The first rows alone, of each matrix.
  void run(int64_t rows) const;

 private:
  // A matrix, or each one of a batch. What lies by rows is to cuBLAS the transpose, by columns.
  struct Operand {
    explicit Operand(Tensor& t);

    Blas::Operation operation;
    int64_t apart, next;  // rows or columns, and matrices
  };

  void run_by_torch(int64_t rows) const;

  Tensor to_, a_, b_;
  const std::optional<Blas> blas_;
  const Blas::Math math_;
  const Operand left_, right_, result_;
};

inline void multiply(const Tensor& to, const Tensor& a, const Tensor& b, std::optional<bool> tf32) {
  Product(to, a, b, tf32).run();
}

}  // namespace rnnfast::cuda
