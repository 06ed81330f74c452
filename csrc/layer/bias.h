// torch's layers have two biases, of G K values each, which act as their sum.
#pragma once

#include "backend.h"
#include "views.h"

namespace rnnfast {

// (G, K); a GRU's last gate sees b_hh within the reset product: (G, 4 H), as cells/gru.h has it.
inline std::optional<Tensor> joint_bias(const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
                                        Cell cell, int64_t G, int64_t H) {
  if (!b_ih && !b_hh) return std::nullopt;
  const int64_t K = gates(cell) * H;
  // As they are where they are rows already: a view takes as long as a small step.
  const auto is_row = [](const std::optional<Tensor>& b) {
    return !b || (b->dim() == 1 && b->is_contiguous());
  };
  const bool rows = G == 1 && is_row(b_ih) && is_row(b_hh);
  const auto of_groups = [&](const char* name, const std::optional<Tensor>& b) {
    if (!b) return std::optional<Tensor>();
    if (b->numel() != G * K || b->dim() > 2)
      require(false, name, ": got shape ", shape_of(*b), ", expected ", Shape{G * K});
    return std::optional(rows ? *b : reshaped(dense(*b), {G, K}));
  };
  const auto ih = of_groups("b_ih", b_ih), hh = of_groups("b_hh", b_hh);
  const bool apart = cell == Cell::gru;
  if (!apart && !(ih && hh)) return reshaped(ih ? *ih : *hh, {G, K});
  if (ih && hh) check("b_hh", *hh, shape_of(*ih), *ih);
  const int64_t joint = apart ? K - H : K, width = apart ? K + H : K;
  Tensor out = empty_contiguous({G, width}, ih ? *ih : *hh);
  const backend::Columns none, of_ih{ih ? &*ih : nullptr}, of_hh{hh ? &*hh : nullptr};
  backend::add_columns(of_ih, of_hh, out, 0, joint);
  if (apart) {
    backend::add_columns({of_ih.of, joint}, none, out, joint, H);
    backend::add_columns(none, {of_hh.of, joint}, out, K, H);
  }
  return out;
}

}  // namespace rnnfast
