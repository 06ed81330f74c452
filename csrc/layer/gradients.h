// From what BPTT leaves, the gradients of all that a layer has. Shapes: N (step, row of the batch) pairs, G
// groups, K = gates * H.
#pragma once

#include "backend.h"
#include "views.h"

namespace rnnfast {

// What BPTT leaves: the gradients of the loss for the gates, those of W_hh h where they differ (GRU), for all
// states (with projection), and for initial states but what comes through W_hh.
struct BpttResult {
  Tensor dgates;
  std::optional<Tensor> dinner, dh, dh0, dc0;
};

class LayerGradients {
 public:
  // Of the gradients, those in the sum are needed.
  enum Needs {
    kInput = 1,
    kWih = 2,
    kWhh = 4,
    kWhr = 8,
    kBias_ih = 16,
    kBias_hh = 32,
    kH0 = 64,
    kC0 = 128,
    kGates = 256,
    kInner = 512,
    kNorms = 1024
  };

  LayerGradients(const Layout& layout, const BpttResult& bptt, int64_t needs, const backend::OnGpu& on_gpu)
      : layout_(layout),
        G_(layout.G),
        K_(bptt.dgates.size(bptt.dgates.dim() - 1)),
        bptt_(bptt),
        rows_(flat(bptt.dgates)),
        needs_(needs),
        on_gpu_(on_gpu) {
    if (!bptt.dinner) {
      of_w_hh_ = {{rows_, K_, K_}};
    } else {
      const int64_t H = bptt.dinner->size(bptt.dinner->dim() - 1);
      of_w_hh_ = {{flat(*bptt.dinner), H, H}};
      if (H < K_) of_w_hh_.insert(of_w_hh_.begin(), {rows_, K_, K_ - H});
    }
  }

  // dx = dgates W_ih, or dgates where they are the input.
  Tensor input(const std::optional<Tensor>& input, const std::optional<Tensor>& w_ih) const {
    if (!(needs_ & kInput)) return none();
    if (!w_ih) return bptt_.dgates;
    return reshaped(product(rows_, *w_ih), shape_of(*input));
  }

  // dW_ih = dgates^T x.
  Tensor w_ih(const std::optional<Tensor>& input) const {
    return needs_ & kWih && input ? product(transposed(rows_), as_rows(*input)) : none();
  }

  // Of both biases, each a tensor of its own: gradients that come later are added in place.
  std::pair<Tensor, Tensor> biases() const {
    const bool ih = needs_ & kBias_ih, hh = needs_ & kBias_hh;
    if (!ih && !hh) return {none(), none()};
    const Tensor sums = sums_of({{rows_, K_, K_}});
    if (!hh) return {sums, none()};
    if (bptt_.dinner) return {ih ? sums : none(), sums_of(of_w_hh_)};
    return {ih ? torch::stable::clone(sums) : none(), sums};
  }

  // Of a layer-normalised cell's gains and biases, given what was normalised: by gates, and c.
  Tensor gains(const Tensor& by_gates, const Tensor& c) const {
    if (!(needs_ & kBias_hh)) return none();
    const int64_t H = c.size(c.dim() - 1), width = K_ + 2 * H;
    const Tensor normal = flat(dense(by_gates)), normal_c = flat(dense(c)), dh = flat(*bptt_.dh);
    Tensor sums = empty_contiguous(G_ == 1 ? Shape{width} : Shape{G_, width}, rows_);
    for (int64_t g = 0; g < G_; ++g) {
      const auto of = [&](int64_t first, int64_t count) {
        return view_of(sums, {count}, {1}, g * width + first);
      };
      Tensor gain = of(0, K_), gain_c = of(K_, H), bias_c = of(K_ + H, H);
      backend::sum_products(rows_, g * K_, normal, g * K_, gain);
      backend::sum_products(dh, g * H, normal_c, g * H, gain_c);
      backend::sum_rows(dh, g * H, bias_c);
    }
    return sums;
  }

  // dW_hh = sum over t of dgates_t h_{t-1}^T: a product for each group, and one for its initial state.
  Tensor w_hh(const Tensor& states, const std::optional<Tensor>& h0, const Tensor& given) const {
    if (!(needs_ & kWhh)) return none();
    const int64_t P = states.size(states.dim() - 1);
    const Tensor y = flat(dense(states));
    Tensor dw = empty_contiguous({G_, K_, P}, rows_);
    for (int64_t g = 0; g < G_; ++g) {
      const Layout::Runs going_on = layout_.reversed(g) ? layout_.earlier() : layout_.later();
      const Layout::Runs before = layout_.reversed(g) ? layout_.later() : layout_.earlier();
      // Where the gradients to multiply do not lie together, all are multiplied, with as many states.
      const bool all = going_on.size() != 1 || layout_.stretched();
      const Tensor state = all ? states_before(y, h0, g, going_on, before) : part(y, before, g * P, P);
      int64_t row = g * K_;
      for (const Columns& columns : of_w_hh_) {
        Tensor own = view_of(dw, {columns.width, P}, {P, 1}, row * P);
        const Tensor d = columns_of(columns, g, all ? Layout::Runs{{0, rows_.size(0)}} : going_on);
        backend::product_to(own, transposed(d), state, on_gpu_);
        if (h0 && !all)
          backend::add_product(own, transposed(columns_of(columns, g, entering(g))), group(*h0, g), on_gpu_);
        row += columns.width;
      }
    }
    return reshaped(dw, shape_of(given));
  }

  // dW_hr = sum over t of dh_t m_t^T.
  Tensor w_hr(const std::optional<Tensor>& inner, const std::optional<Tensor>& given) const {
    if (!(needs_ & kWhr && given)) return none();
    const int64_t H = inner->size(inner->dim() - 1), P = bptt_.dh->size(bptt_.dh->dim() - 1);
    const Tensor m = flat(dense(*inner)), dh = flat(*bptt_.dh);
    Tensor dw = empty_contiguous({G_, P, H}, rows_);
    for (int64_t g = 0; g < G_; ++g) {
      Tensor own = view_of(dw, {P, H}, {H, 1}, g * P * H);
      const Layout::Runs all{{0, rows_.size(0)}};
      backend::product_to(own, transposed(part(dh, all, g * P, P)), part(m, all, g * H, H), on_gpu_);
    }
    return reshaped(dw, shape_of(*given));
  }

  // dh_0 = W_hh^T dgates of each row's first step in order of processing, and what reaches it directly.
  Tensor h0(const Tensor& w_hh) const {
    if (!(needs_ & kH0)) return none();
    const int64_t P = w_hh.size(2), B = layout_.B;
    Tensor dh = bptt_.dh0 ? *bptt_.dh0 : empty_contiguous({G_, B, P}, rows_);
    bool adds = bptt_.dh0.has_value();
    for (int64_t g = 0; g < G_; ++g) {
      Tensor own = view_of(dh, {B, P}, {P, 1}, g * B * P);
      const Tensor w = group(w_hh, g);
      int64_t row = 0;
      for (const Columns& columns : of_w_hh_) {
        const Tensor d = columns_of(columns, g, entering(g));
        const Tensor w_rows = view_of(w, {columns.width, P}, {w.stride(0), w.stride(1)}, row * w.stride(0));
        adds ? backend::add_product(own, d, w_rows, on_gpu_) : backend::product_to(own, d, w_rows, on_gpu_);
        row += columns.width;
      }
    }
    return dh;
  }

  Tensor c0() const { return bptt_.dc0 ? *bptt_.dc0 : none(); }

  // Of what lies between, where it is known.
  Tensor gates() const { return needs_ & kGates ? bptt_.dgates : none(); }
  Tensor inner() const { return needs_ & kInner && bptt_.dinner ? *bptt_.dinner : none(); }

  Tensor none() const { return empty_contiguous({0}, rows_); }

 private:
  // The first `width` of each group's `of_group` columns, in (N, G of_group).
  struct Columns {
    Tensor all;
    int64_t of_group, width;
  };

  Tensor product(const Tensor& a, const Tensor& b) const {
    Tensor out = empty_contiguous({a.size(0), b.size(1)}, a);
    backend::product_to(out, a, b, on_gpu_);
    return out;
  }

  static Tensor flat(const Tensor& t) { return as_rows(groups_joined(t)); }

  // (K), or (G, K) if there are several groups.
  Tensor sums_of(const std::vector<Columns>& parts) const {
    Tensor sums = empty_contiguous(G_ == 1 ? Shape{K_} : Shape{G_, K_}, rows_);
    int64_t first = 0;
    for (int64_t g = 0; g < G_; ++g) {
      for (const auto& [all, of_group, width] : parts) {
        Tensor to = view_of(sums, {width}, {1}, first);
        backend::sum_rows(all, g * of_group, to);
        first += width;
      }
    }
    return sums;
  }

  // Where each row's first step in order of processing lies.
  Layout::Runs entering(int64_t g) const { return layout_.reversed(g) ? layout_.last() : layout_.first(); }

  static Tensor group(const Tensor& t, int64_t g) {
    return view_of(t, {t.size(1), t.size(2)}, {t.stride(1), t.stride(2)}, g * t.stride(0));
  }

  static Tensor columns_of(const Columns& columns, int64_t g, const Layout::Runs& runs) {
    return part(columns.all, runs, g * columns.of_group, columns.width);
  }

  // Some rows, and `width` columns from `first` on: a view if the rows lie together.
  static Tensor part(const Tensor& all, const Layout::Runs& runs, int64_t first, int64_t width) {
    const int64_t stride = all.size(1);
    if (runs.size() == 1)
      return view_of(all, {runs[0].second, width}, {stride, 1}, runs[0].first * stride + first);
    int64_t count = 0;
    for (const auto& run : runs) count += run.second;
    Tensor copy = empty_contiguous({count, width}, all);
    backend::copy_rows(all, runs, first, copy, {{0, count}});
    return copy;
  }

  // The state that each step of group g begins with, for all rows of y.
  Tensor states_before(const Tensor& y, const std::optional<Tensor>& h0, int64_t g,
                       const Layout::Runs& going_on, const Layout::Runs& before) const {
    const int64_t P = y.size(1) / G_;
    Tensor states = empty_contiguous({y.size(0), P}, y);
    backend::copy_rows(y, before, g * P, states, going_on);
    if (h0) {
      backend::copy_rows(dense(group(*h0, g)), {{0, layout_.B}}, 0, states, entering(g));
    } else {
      backend::zero_rows(states, entering(g));
    }
    return states;
  }

  const Layout& layout_;
  const int64_t G_, K_;
  const BpttResult& bptt_;
  const Tensor rows_;
  const int64_t needs_;
  const backend::OnGpu on_gpu_;
  std::vector<Columns> of_w_hh_;  // one below the other: the rows of dW_hh
};

}  // namespace rnnfast
