// A GPU's part of a layer, besides its recurrence: products by cuBLAS, sums by torch's operators.
#include "../layer/backend.h"

#include "dispatch.h"
#include "indices.h"
#include "products.h"

namespace rnnfast::backend {
namespace {

Tensor columns_of(const Tensor& t, int64_t first, int64_t width) {
  if (t.dim() == 1) return view_of(t, {1, width}, {width, 1}, first);
  return view_of(t, {t.size(0), width}, {t.stride(0), t.stride(1)}, first);
}

// The stable ABI takes no operator with a Scalar by name, such as aten::add; it has this one.
Tensor sum_of(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b, -1); }

// Runs of the same length at the same distance from each other, as those of batch-first arrays are.
struct EvenRuns {
  int64_t first, runs, count, distance;
};

std::optional<EvenRuns> even(const Layout::Runs& runs) {
  EvenRuns e{runs[0].first, static_cast<int64_t>(runs.size()), runs[0].second, runs[0].second};
  if (e.runs > 1) e.distance = runs[1].first - runs[0].first;
  if (e.distance < e.count) return std::nullopt;  // strides are not negative
  for (int64_t i = 0; i < e.runs; ++i)
    if (runs[i] != std::pair(e.first + i * e.distance, e.count)) return std::nullopt;
  return e;
}

// A single run falls into `parts`.
Tensor rows_of(const Tensor& t, EvenRuns e, int64_t parts) {
  if (e.runs == 1 && parts > 1) e.runs = parts, e.count /= parts, e.distance = e.count;
  const int64_t row = t.stride(0);
  return view_of(t, {e.runs, e.count, t.size(1)}, {e.distance * row, row, t.stride(1)}, e.first * row);
}

// The rows of all runs, one after the other, as a tensor of indices on the GPU.
Tensor row_numbers(const Layout::Runs& runs, const Tensor& like) {
  std::vector<int64_t> numbers;
  for (const auto& [first, count] : runs)
    for (int64_t i = 0; i < count; ++i) numbers.push_back(first + i);
  return cuda::indices(numbers, like);
}

}  // namespace

void product_to(Tensor& to, const Tensor& a, const Tensor& b, const OnGpu& on_gpu) {
  const cuda::OnDevice on_device(device_index_of(to));
  cuda::multiply(to, a, b, on_gpu.tf32);
}

void add_product(Tensor& to, const Tensor& a, const Tensor& b, const OnGpu& on_gpu) {
  Tensor more = empty_contiguous({a.size(0), b.size(1)}, a);
  product_to(more, a, b, on_gpu);
  torch::stable::copy_(to, sum_of(to, more));
}

void sum_rows(const Tensor& rows, int64_t first, Tensor& to) {
  torch::stable::sum_out(to, columns_of(rows, first, to.size(0)), std::vector<int64_t>{0});
}

void sum_products(const Tensor& rows, int64_t first, const Tensor& others, int64_t others_first, Tensor& to) {
  const int64_t width = to.size(0);
  const Tensor products = empty_contiguous({rows.size(0), width}, rows);
  cuda::call("aten::mul", "out", columns_of(rows, first, width), columns_of(others, others_first, width),
             products);
  torch::stable::sum_out(to, products, std::vector<int64_t>{0});
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
  if (runs.empty() || to_runs.empty()) return;
  const Tensor columns = columns_of(from, first, to.size(1));
  const auto source = even(runs), target = even(to_runs);
  if (source && target && (source->runs == target->runs || source->runs == 1 || target->runs == 1)) {
    Tensor out = rows_of(to, *target, source->runs);
    torch::stable::copy_(out, rows_of(columns, *source, target->runs));
    return;
  }
  const Tensor numbers = row_numbers(runs, from);
  Tensor rows = empty_contiguous({numbers.size(0), to.size(1)}, from);
  cuda::call("aten::index_select", "out", columns, int64_t{0}, numbers, rows);
  cuda::call("aten::index_copy_", "", to, int64_t{0}, row_numbers(to_runs, from), rows);
}

void zero_rows(Tensor& to, const Layout::Runs& runs) {
  if (runs.empty()) return;
  if (const auto target = even(runs)) {
    Tensor out = rows_of(to, *target, 1);
    torch::stable::zero_(out);
  } else {
    const Tensor numbers = row_numbers(runs, to);
    Tensor zeros = empty_contiguous({numbers.size(0), to.size(1)}, to);
    torch::stable::zero_(zeros);
    cuda::call("aten::index_copy_", "", to, int64_t{0}, numbers, zeros);
  }
}

}  // namespace rnnfast::backend
