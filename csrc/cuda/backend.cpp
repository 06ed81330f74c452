// A GPU's part of a layer, besides its recurrence: products and sums by torch's operators.
#include "../layer/backend.h"

#include "device.h"
#include "dispatch.h"
#include "indices.h"

namespace rnnfast::backend {
namespace {

Tensor columns_of(const Tensor& t, int64_t first, int64_t width) {
  return view_of(t, {t.size(0), width}, {t.stride(0), t.stride(1)}, first);
}

Tensor rows_of(const Tensor& t, const std::pair<int64_t, int64_t>& run) {
  return view_of(t, {run.second, t.size(1)}, {t.stride(0), t.stride(1)}, run.first * t.stride(0));
}

// The stable ABI takes no operator with a Scalar by name, such as aten::add; it has this one.
Tensor sum_of(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b, -1); }

// The rows of all runs, one after the other, as a tensor of indices on the GPU.
Tensor row_numbers(const Layout::Runs& runs, const Tensor& like) {
  std::vector<int64_t> numbers;
  for (const auto& [first, count] : runs)
    for (int64_t i = 0; i < count; ++i) numbers.push_back(first + i);
  return cuda::indices(numbers, like);
}

}  // namespace

void product_to(Tensor& to, const Tensor& a, const Tensor& b) { cuda::multiply(to, a, b); }

void add_product(Tensor& to, const Tensor& a, const Tensor& b) {
  Tensor more = empty_contiguous({a.size(0), b.size(1)}, a);
  cuda::multiply(more, a, b);
  torch::stable::copy_(to, sum_of(to, more));
}

void sum_rows(const Tensor& rows, int64_t first, Tensor& to) {
  torch::stable::sum_out(to, columns_of(rows, first, to.size(0)), std::vector<int64_t>{0});
}

void add_columns(const Columns& a, const Columns& b, Tensor& to, int64_t first, int64_t width) {
  Tensor out = columns_of(to, first, width);
  if (a.of && b.of) {
    torch::stable::copy_(out, sum_of(columns_of(*a.of, a.first, width), columns_of(*b.of, b.first, width)));
  } else if (a.of || b.of) {
    const Columns& given = a.of ? a : b;
    torch::stable::copy_(out, columns_of(*given.of, given.first, width));
  } else {
    torch::stable::zero_(out);
  }
}

void copy_rows(const Tensor& from, const Layout::Runs& runs, int64_t first, Tensor& to,
               const Layout::Runs& to_runs) {
  const Tensor columns = columns_of(from, first, to.size(1));
  Tensor rows = columns;
  if (runs.size() == 1) {
    rows = rows_of(columns, runs[0]);
  } else {
    const Tensor numbers = row_numbers(runs, from);
    rows = empty_contiguous({numbers.size(0), to.size(1)}, from);
    cuda::call("aten::index_select", "out", columns, int64_t{0}, numbers, rows);
  }
  if (to_runs.size() == 1) {
    Tensor out = rows_of(to, to_runs[0]);
    torch::stable::copy_(out, rows);
  } else {
    cuda::call("aten::index_copy_", "", to, int64_t{0}, row_numbers(to_runs, from), rows);
  }
}

void zero_rows(Tensor& to, const Layout::Runs& runs) {
  if (runs.size() == 1) {
    Tensor out = rows_of(to, runs[0]);
    torch::stable::zero_(out);
  } else {
    const Tensor numbers = row_numbers(runs, to);
    Tensor zeros = empty_contiguous({numbers.size(0), to.size(1)}, to);
    torch::stable::zero_(zeros);
    cuda::call("aten::index_copy_", "", to, int64_t{0}, numbers, zeros);
  }
}

}  // namespace rnnfast::backend
