// The CPU's part of a layer, besides its recurrence (running.cpp).
#include "../layer/backend.h"

#include <cstring>

#include "gemm.h"
#include "vec.h"

namespace rnnfast::backend {
namespace {

// Values of rows that lie `stride` apart, and products of such.
template <class S>
struct Summands {
  const S* data;
  int64_t stride;

  double operator()(int64_t row, int64_t column) const { return to_float(data[row * stride + column]); }
  void prefetch(int64_t row, int64_t column, int64_t columns) const {
    prefetch_values<3>(data + row * stride + column, columns);
  }
};
template <class S>
struct Products {
  Summands<S> a, b;

  double operator()(int64_t row, int64_t column) const { return a(row, column) * b(row, column); }
  void prefetch(int64_t row, int64_t column, int64_t columns) const {
    a.prefetch(row, column, columns), b.prefetch(row, column, columns);
  }
};

// Sums by columns, in double, since a plain sum of many rows is less exact than torch's.
template <class S, class Value>
void sum_columns(const Value& value, int64_t rows, int64_t width, S* sum) {
  constexpr int64_t kBlock = 64;  // columns
  constexpr int64_t kAhead = 16;  // rows: pieces of them lie farther apart than the processor foresees
  const auto sum_block = [&](int64_t first) {
    const int64_t columns = std::min(kBlock, width - first);
    double sums[kBlock] = {};
    for (int64_t i = 0; i < rows; ++i) {
      value.prefetch(std::min(rows - 1, i + kAhead), first, columns);
      if (columns == kBlock) {
        for (int j = 0; j < kBlock; ++j) sums[j] += value(i, first + j);
      } else {
        for (int64_t j = 0; j < columns; ++j) sums[j] += value(i, first + j);
      }
    }
    for (int64_t j = 0; j < columns; ++j)
      store(sum + first + j, broadcast<S>(static_cast<Compute<S>>(sums[j])), 1);
  };
  const auto some = [&](int workers) {
    Crew crew(workers);
    parallel(workers, [&](int worker) {
      crew.run(worker, 1, [&](int64_t, int share) {
        const int64_t blocks = ceil_div(width, kBlock);
        for (int64_t i = part(blocks, share, workers); i < part(blocks, share + 1, workers); ++i)
          sum_block(i * kBlock);
      });
    });
  };
  const double seconds = static_cast<double>(rows * width) / 4e9;
  seconds < 5e-5 ? some(1) : with_workers(5e-6 + seconds, some);
}

template <class S>
Summands<S> summands(const Tensor& rows, int64_t first) {
  return {static_cast<const S*>(rows.data_ptr()) + first, rows.stride(0)};
}

}  // namespace

void product_to(Tensor& to, const Tensor& a, const Tensor& b, const OnGpu&) { rnnfast::product_to(to, a, b); }
void add_product(Tensor& to, const Tensor& a, const Tensor& b, const OnGpu&) {
  rnnfast::add_product(to, a, b);
}

void sum_rows(const Tensor& rows, int64_t first, Tensor& to) {
  with_storage_type(dtype_of(to, "sums"), [&](auto type) {
    using S = decltype(type);
    sum_columns(summands<S>(rows, first), rows.size(0), to.size(0), static_cast<S*>(to.data_ptr()));
  });
}

void sum_products(const Tensor& rows, int64_t first, const Tensor& others, int64_t others_first, Tensor& to) {
  with_storage_type(dtype_of(to, "sums"), [&](auto type) {
    using S = decltype(type);
    const Products<S> products{summands<S>(rows, first), summands<S>(others, others_first)};
    sum_columns(products, rows.size(0), to.size(0), static_cast<S*>(to.data_ptr()));
  });
}

void add_columns(const Columns& a, const Columns& b, Tensor& to, int64_t first, int64_t width) {
  with_storage_type(dtype_of(to, "columns"), [&](auto type) {
    using S = decltype(type);
    const auto at = [](const Columns& c, int64_t row) {
      return c.of ? static_cast<const S*>(c.of->data_ptr()) + row * c.of->stride(0) + c.first : nullptr;
    };
    for (int64_t row = 0; row < to.size(0); ++row) {
      const S *x = at(a, row), *y = at(b, row);
      S* sum = static_cast<S*>(to.data_ptr()) + row * to.stride(0) + first;
      if (x && y) {
        add_rounded<S>(x, y, sum, width);
      } else if (x || y) {
        std::memcpy(sum, x ? x : y, width * sizeof(S));
      } else {
        std::memset(sum, 0, width * sizeof(S));
      }
    }
  });
}

void copy_rows(const Tensor& from, const Layout::Runs& runs, int64_t first, Tensor& to,
               const Layout::Runs& to_runs) {
  const size_t size = from.element_size(), width = to.size(1) * size, stride = from.size(1) * size;
  const char* source = static_cast<const char*>(from.data_ptr()) + first * size;
  char* target = static_cast<char*>(to.data_ptr());
  auto run = to_runs.begin();
  int64_t done = 0;  // of the run
  for (const auto& [begin, count] : runs) {
    for (int64_t row = begin; row < begin + count; ++row, ++done) {
      while (done == run->second) ++run, done = 0;
      std::memcpy(target + (run->first + done) * width, source + row * stride, width);
    }
  }
}

void zero_rows(Tensor& to, const Layout::Runs& runs) {
  const size_t width = to.size(1) * to.element_size();
  for (const auto& [first, count] : runs)
    std::memset(static_cast<char*>(to.data_ptr()) + first * width, 0, count * width);
}

}  // namespace rnnfast::backend
