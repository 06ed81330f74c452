// Batches whose rows end at their lengths, or begin anew on the way: cut into stretches, which are packed.
#include <cstring>
#include <numeric>

#include "../layer/views.h"
#include "../library.h"
#include "kernels.h"
#include "running.h"
#include "team.h"

namespace rnnfast {
namespace {

struct Stretch {
  int64_t row, first, length;
  bool begins[2];  // as its row does, in time and against it
};

// Row by row, in time.
std::vector<Stretch> cut(const int64_t* lengths, const OptionalTensor& reset, int64_t T, int64_t B) {
  const bool* resets = reset ? static_cast<const bool*>(reset->data_ptr()) : nullptr;
  const int64_t step = reset ? reset->stride(0) : 0, row = reset ? reset->stride(1) : 0;
  std::vector<Stretch> all;
  for (int64_t b = 0; b < B; ++b) {
    const int64_t end = lengths ? lengths[b] : T;
    require(end >= 0 && end <= T, "lengths: got ", end, " in row ", b, ", expected 0 to ", T);
    for (int64_t first = 0, t = 1; t <= end; ++t) {
      if (t < end && !(resets && resets[t * step + b * row])) continue;
      all.push_back({b, first, t - first, {first == 0 && !(resets && resets[b * row]), t == end}});
      first = t;
    }
  }
  return all;
}

// The longest first; of the same length, as they were.
std::vector<Stretch> sorted(const std::vector<Stretch>& all, int64_t T) {
  std::vector<size_t> place(T + 2, 0);  // by how many steps less than T
  for (const Stretch& s : all) ++place[T - s.length + 1];
  std::partial_sum(place.begin(), place.end(), place.begin());
  std::vector<Stretch> result(all.size());
  for (const Stretch& s : all) result[place[T - s.length]++] = s;
  return result;
}

std::vector<Tensor> stretches(const OptionalTensor& lengths, const OptionalTensor& reset, int64_t T,
                              int64_t B, bool batch_first, bool packs) {
  using torch::headeronly::ScalarType;
  require(lengths || reset, "lengths, reset: got neither, expected one of them at least");
  if (lengths)
    require(lengths->is_cpu() && lengths->scalar_type() == ScalarType::Long && shape_of(*lengths) == Shape{B},
            "lengths: expected int64 of shape ", Shape{B}, " on the CPU");
  if (reset)
    require(reset->is_cpu() && reset->scalar_type() == ScalarType::Bool && shape_of(*reset) == Shape{T, B},
            "reset: expected bool of shape ", Shape{T, B}, " on the CPU");
  const Tensor like = lengths ? dense(*lengths) : *reset;
  const auto* of_rows = lengths ? static_cast<const int64_t*>(like.data_ptr()) : nullptr;
  const std::vector<Stretch> all = sorted(cut(of_rows, reset, T, B), T);
  const int64_t S = static_cast<int64_t>(all.size()), longest = S > 0 ? all[0].length : 0;

  const auto numbers = [&](const Shape& shape) {
    return empty_contiguous(shape, like, aoti_torch_dtype_int64());
  };
  const auto flags = [&](const Shape& shape) {
    return empty_contiguous(shape, like, aoti_torch_dtype_bool());
  };
  const auto of = [](const Tensor& t) { return static_cast<int64_t*>(t.data_ptr()); };
  const Tensor batch_sizes = numbers({packs ? longest : 0}), inverse = numbers({packs ? T * B : 0}),
               table = numbers({3, S}), ends = numbers({2, B}), begins = flags({2, S}), empty = flags({B});
  bool *begin = static_cast<bool*>(begins.data_ptr()), *is_empty = static_cast<bool*>(empty.data_ptr());
  std::fill_n(of(ends), 2 * B, 0);
  std::fill_n(is_empty, B, true);
  if (packs) std::fill_n(of(inverse), T * B, -1);
  int64_t N = 0;
  for (int64_t s = 0; s < S; ++s) {
    const Stretch& own = all[s];
    N += own.length;
    of(table)[s] = own.row, of(table)[S + s] = own.first, of(table)[2 * S + s] = own.length;
    is_empty[own.row] = false;
    for (int i = 0; i < 2; ++i) begin[i * S + s] = own.begins[i];
    if (own.begins[1]) of(ends)[own.row] = s;
    if (own.first == 0) of(ends)[B + own.row] = s;
  }
  const Tensor index = numbers({packs ? N : 0});
  int64_t place = 0;
  for (int64_t t = 0, active = S; packs && t < longest; ++t) {
    while (all[active - 1].length <= t) --active;
    of(batch_sizes)[t] = active;
    for (int64_t s = 0; s < active; ++s, ++place) {
      const int64_t step = all[s].first + t, to = batch_first ? all[s].row * T + step : step * B + all[s].row;
      of(index)[place] = to, of(inverse)[to] = place;
    }
  }
  return {batch_sizes, index, inverse, table, begins, ends, empty};
}

// Rows of an array, whatever its leading axes; where there is none, zero.
Tensor rows_at(const Tensor& rows, const Tensor& index, const Tensor& /*inverse*/, const Shape& lead) {
  using torch::headeronly::ScalarType;
  require(rows.dim() >= 2, "rows: got ", rows.dim(), " dimensions, expected 2 at least");
  require(index.is_cpu() && index.dim() == 1 && index.scalar_type() == ScalarType::Long,
          "index: expected a 1-D int64 tensor on the CPU");
  const Tensor from = as_rows(rows), places = dense(index);
  const int64_t N = from.size(0), M = places.size(0);
  int64_t count = 1;
  for (const int64_t size : lead) count *= size;
  require(count == M, "lead: got ", lead, ", expected a shape of ", M, " rows");
  Shape shape = lead;
  shape.push_back(from.size(1));
  const Tensor to = empty_contiguous(shape, from);
  const size_t bytes = from.size(1) * from.element_size();
  const auto* place = static_cast<const int64_t*>(places.data_ptr());
  for (int64_t i = 0; i < M; ++i)
    require(place[i] >= -1 && place[i] < N, "index: got ", place[i], ", expected -1 to ", N - 1);
  const char* source = static_cast<const char*>(from.data_ptr());
  char* target = static_cast<char*>(to.data_ptr());
  const auto copy = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (place[i] >= 0) {
        std::memcpy(target + i * bytes, source + place[i] * bytes, bytes);
      } else {
        std::memset(target + i * bytes, 0, bytes);
      }
    }
  };
  const double seconds = static_cast<double>(M) * (2e-9 + static_cast<double>(bytes) / 2e10);
  if (seconds < 2e-5) {
    copy(0, M);
    return to;
  }
  with_workers(5e-6 + seconds, [&](int workers) {
    Crew crew(workers);
    parallel(workers, [&](int worker) {
      crew.run(worker, 1,
               [&](int64_t, int share) { copy(part(M, share, workers), part(M, share + 1, workers)); });
    });
  });
  return to;
}

}  // namespace
}  // namespace rnnfast

RNNFAST_IMPLEMENT(CPU, m) {
  m.impl("stretches", TORCH_BOX(&rnnfast::stretches));
  m.impl("rows_at", TORCH_BOX(&rnnfast::rows_at));
}
