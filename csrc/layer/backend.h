// What a layer asks of the device that its tensors are on. Each library defines it for its own device.
#pragma once

#include "../plan.h"
#include "layout.h"

namespace rnnfast::backend {

// How a GPU is to run a pass and the products around it: whether float32 may be rounded to TF32 where it is
// multiplied (absent: in kernels not, in products as torch's own are set), and how many other passes are to
// run at the same time.
struct OnGpu {
  std::optional<bool> tf32 = {};
  int64_t beside = 0;
};

// Plans a pass over tensors that are where `like` is, and runs it.
void plan_and_run(const Recurrence& r, Cell cell, Pass pass, Dtype dtype, const Tensor& like,
                  const OnGpu& on_gpu);

// to = a b and to += a b, for 2-D arrays with contiguous rows or columns; the rows of `to` are contiguous.
void product_to(Tensor& to, const Tensor& a, const Tensor& b, const OnGpu& on_gpu);
void add_product(Tensor& to, const Tensor& a, const Tensor& b, const OnGpu& on_gpu);

// The sums over all rows of as many columns as the 1-D `to` has, from `first` on.
void sum_rows(const Tensor& rows, int64_t first, Tensor& to);

// The same of the products with as many columns of others, from others_first on.
void sum_products(const Tensor& rows, int64_t first, const Tensor& others, int64_t others_first, Tensor& to);

// Columns first .. of a 2-D array with contiguous rows, or of a 1-D one, a row of its own.
struct Columns {
  const Tensor* of = nullptr;
  int64_t first = 0;
};

// `width` columns of `to` become a + b; an array that is absent is zero.
void add_columns(const Columns& a, const Columns& b, Tensor& to, int64_t first, int64_t width);

// Copies as many columns as `to` has, from `first` on, of some rows to others in the same order.
void copy_rows(const Tensor& from, const Layout::Runs& runs, int64_t first, Tensor& to,
               const Layout::Runs& to_runs);
void zero_rows(Tensor& to, const Layout::Runs& runs);

}  // namespace rnnfast::backend
