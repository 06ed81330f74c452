// The operators on the CPU.
#include "../layer/forward.h"
#include "../layer/ops.h"
#include "../library.h"
#include "int8.h"

namespace rnnfast {
namespace {

// Weights of 8 bits with their scales, float32, as int8.h has them.
struct Int8 {
  // A matrix of G (gates * units) rows and K columns.
  Int8(const char* name, const Tensor& q, const Tensor& s, int64_t G, int64_t gates, int64_t units, int64_t K)
      : weights(dense(q)), scales(dense(s)) {
    using torch::headeronly::ScalarType;
    const int64_t blocks = ceil_div(units, int8::kBlock);
    const Shape shape{G, blocks, ceil_div(K, 2), gates, int8::kBlock, 2},
        of_scales{G, blocks, gates, int8::kBlock};
    require(q.is_cpu() && s.is_cpu() && q.scalar_type() == ScalarType::Char &&
                s.scalar_type() == ScalarType::Float,
            name, ": expected int8 weights and float32 scales on the CPU");
    if (shape_of(q) != shape || shape_of(s) != of_scales)
      require(false, name, ": got shapes ", shape_of(q), " and ", shape_of(s), ", expected ", shape, " and ",
              of_scales);
    matrix.data = weights.data_ptr();
    matrix.rows = gates * units, matrix.columns = K;
    matrix.scales = static_cast<const float*>(scales.data_ptr());
  }

  Tensor weights, scales;
  Matrix matrix;
};

// A layer for inference, its weights of 8 bits.
std::vector<Tensor> recurrence_int8(const Tensor& input, const std::vector<Tensor>& w_ih,
                                    const std::vector<Tensor>& w_hh, const std::vector<Tensor>& w_hr,
                                    const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                                    const OptionalTensor& h0, const OptionalTensor& c0, const Text& cell,
                                    int64_t H, int64_t P, int64_t direction, bool batch_first,
                                    const OptionalTensor& batch_sizes) {
  using Places = ForwardPlaces;
  require(w_ih.size() == 2 && w_hh.size() == 2 && (w_hr.empty() || w_hr.size() == 2),
          "w_ih, w_hh, w_hr: expected weights and scales of each");
  require(input.dim() >= 2 && input.dim() <= 3, "input: got ", input.dim(), " dimensions, expected 2 or 3");
  require(input.scalar_type() == torch::headeronly::ScalarType::Float, "input: expected float32");
  Sizes sizes(cell);
  sizes.G = w_hh[0].size(0), sizes.H = H, sizes.K = gates(sizes.cell) * H;
  sizes.projected = !w_hr.empty(), sizes.P = P;
  require(sizes.projected ? sizes.cell == Cell::lstm : P == H, "P: got ", P, ", expected H without w_hr");
  const int64_t G = sizes.G, n = gates(sizes.cell);
  const Int8 ih("w_ih", w_ih[0], w_ih[1], G, n, H, input.size(input.dim() - 1)),
      hh("w_hh", w_hh[0], w_hh[1], G, n, H, P);
  Matrices matrices;
  matrices[Places::kWih] = ih.matrix, matrices[Places::kWhh] = hh.matrix;
  std::optional<Int8> hr;
  if (sizes.projected) matrices[Places::kWhr] = hr.emplace("w_hr", w_hr[0], w_hr[1], G, 1, P, H).matrix;
  const OptionalTensor bias = joint_bias(b_ih, b_hh, sizes.cell, G, H);
  const Tensor rows = for_groups(with_dense_rows(input), G);
  const Layout layout(rows, "input", direction, batch_first, batch_sizes);

  const bool lstm = sizes.cell == Cell::lstm;
  States to{empty_contiguous(layout.joined_shape(P), input), empty_contiguous({G, layout.B, P}, input)};
  if (lstm) to.c_n = empty_contiguous({G, layout.B, H}, input);
  run_forward(layout, sizes, matrices, rows, bias, h0, c0, to);
  std::vector<Tensor> results{to.y, *to.h_n};
  if (lstm) results.push_back(*to.c_n);
  return results;
}

}  // namespace
}  // namespace rnnfast

RNNFAST_IMPLEMENT(CPU, m) {
  m.impl("recurrence", TORCH_BOX(&rnnfast::recurrence));
  m.impl("recurrence_bptt", TORCH_BOX(&rnnfast::recurrence_bptt));
  m.impl("cell", TORCH_BOX(&rnnfast::cell));
  m.impl("recurrence_int8", TORCH_BOX(&rnnfast::recurrence_int8));
}
