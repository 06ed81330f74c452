// What a layer does besides its recurrence: the projection of its input, and from dgates the gradients of all
// else. Shapes: N (step, row of the batch) pairs, G groups, K = gates * H.
#pragma once

#include "gemm.h"
#include "layout.h"
#include "vec.h"

namespace rnnfast {

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// A contiguous tensor with another shape.
inline Tensor reshaped(const Tensor& t, const Shape& shape) {
  return view_of(t, shape, contiguous_strides(shape));
}

// All leading axes in one.
inline Tensor as_rows(const Tensor& t) {
  const int64_t width = t.size(t.dim() - 1);
  int64_t rows = 1;
  for (int64_t i = 0; i < t.dim() - 1; ++i) rows *= t.size(i);
  return reshaped(dense(t), {rows, width});
}

// (K, H) is (1, K, H): another axis in front.
inline Tensor with_leading_axis(const Tensor& t) {
  Shape sizes = shape_of(t), strides(t.strides().begin(), t.strides().end());
  sizes.insert(sizes.begin(), 1), strides.insert(strides.begin(), 0);
  return view_of(t, sizes, strides);
}

inline Tensor with_groups(const Tensor& w) { return w.dim() == 2 ? with_leading_axis(w) : w; }

// (..., G W) as (..., G, W), and back; units lie one behind the other.
inline Tensor groups_split(const Tensor& t, int64_t G) {
  Shape sizes = shape_of(t), strides(t.strides().begin(), t.strides().end());
  const int64_t width = G > 0 ? sizes.back() / G : 0;
  sizes.back() = G, strides.back() = width;
  sizes.push_back(width), strides.push_back(1);
  return view_of(t, sizes, strides);
}

inline Tensor groups_joined(const Tensor& t) {
  Shape sizes = shape_of(t);
  const int64_t width = sizes.back();
  sizes.pop_back();
  sizes.back() *= width;
  return reshaped(t, sizes);
}

// Sums of `width` columns of rows that lie `stride` apart, in double, since a plain sum of many rows is less
// exact than torch's.
template <class S>
void sum_rows(const S* data, int64_t rows, int64_t stride, int64_t width, S* sum) {
  constexpr int64_t kBlock = 64;
  const auto sum_block = [&](int64_t first) {
    const int64_t columns = std::min(kBlock, width - first);
    const S* row = data + first;
    double sums[kBlock] = {};
    for (int64_t i = 0; i < rows; ++i, row += stride) {
      if (columns == kBlock) {
        for (int j = 0; j < kBlock; ++j) sums[j] += to_float(row[j]);
      } else {
        for (int64_t j = 0; j < columns; ++j) sums[j] += to_float(row[j]);
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

// torch's layers have two biases, of G K values each, which act as their sum, (G, K); a GRU's last gate sees
// b_hh within the reset product: (G, 4 H), as cells/gru.h has it.
inline std::optional<Tensor> joint_bias(const std::optional<Tensor>& b_ih, const std::optional<Tensor>& b_hh,
                                        Cell cell, int64_t G, int64_t H) {
  if (!b_ih && !b_hh) return std::nullopt;
  const int64_t K = gates(cell) * H;
  const auto of_groups = [&](const char* name, const std::optional<Tensor>& b) {
    if (!b) return std::optional<Tensor>();
    if (b->numel() != G * K || b->dim() > 2)
      require(false, name, ": got shape ", shape_of(*b), ", expected ", Shape{G * K});
    return std::optional(reshaped(dense(*b), {G, K}));
  };
  const auto ih = of_groups("b_ih", b_ih), hh = of_groups("b_hh", b_hh);
  const bool apart = cell == Cell::gru;
  if (!apart && !(ih && hh)) return ih ? ih : hh;
  if (ih && hh) check("b_hh", *hh, {G, K}, *ih);
  const int64_t joint = apart ? K - H : K, width = apart ? K + H : K;
  Tensor out = empty_contiguous({G, width}, ih ? *ih : *hh);
  with_storage_type(dtype_of(out, "bias"), [&](auto type) {
    using S = decltype(type);
    const auto copy = [](const S* from, int64_t count, S* to) {
      from ? std::memcpy(to, from, count * sizeof(S)) : std::memset(to, 0, count * sizeof(S));
    };
    for (int64_t g = 0; g < G; ++g) {
      const S* i = ih ? static_cast<const S*>(ih->data_ptr()) + g * K : nullptr;
      const S* h = hh ? static_cast<const S*>(hh->data_ptr()) + g * K : nullptr;
      S* to = static_cast<S*>(out.data_ptr()) + g * width;
      i&& h ? add_rounded<S>(i, h, to, joint) : copy(i ? i : h, joint, to);
      copy(i ? i + joint : nullptr, K - joint, to + joint);
      copy(h ? h + joint : nullptr, width - K, to + K);
    }
  });
  return out;
}

// `columns`: G K.
inline void check_projection(const Tensor& input, const Tensor& w_ih, int64_t columns) {
  require(input.dim() >= 2 && input.dim() <= 3, "input: got ", input.dim(), " dimensions, expected 2 or 3");
  check("w_ih", w_ih, {columns, input.size(input.dim() - 1)}, input);
}

// (..., I) as (..., G, I), the same for every group.
inline Tensor for_groups(const Tensor& input, int64_t G) {
  Shape sizes = shape_of(input), strides(input.strides().begin(), input.strides().end());
  sizes.insert(sizes.end() - 1, G), strides.insert(strides.end() - 1, 0);
  return view_of(input, sizes, strides);
}

// w_ih, (G K, I), by groups.
inline Tensor w_ih_by_groups(const Tensor& w_ih, int64_t G) {
  const Tensor w = with_dense_rows(w_ih);
  const int64_t K = w.size(0) / std::max<int64_t>(1, G);
  return view_of(w, {G, K, w.size(1)}, {K * w.stride(0), w.stride(0), 1});
}

// What BPTT leaves: the gradients of the loss for the gates, those of W_hh h where they differ (GRU), for all
// states (with projection), and for initial states but what comes through W_hh.
struct BpttResult {
  Tensor dgates;
  std::optional<Tensor> dinner, dh, dh0, dc0;
};

class LayerGradients {
 public:
  // Of the gradients, those in the sum are needed.
  enum Needs { kInput = 1, kWih = 2, kWhh = 4, kWhr = 8, kBias_ih = 16, kBias_hh = 32, kH0 = 64, kC0 = 128 };

  LayerGradients(const Layout& layout, const BpttResult& bptt, int64_t needs)
      : layout_(layout),
        G_(layout.G),
        K_(bptt.dgates.size(bptt.dgates.dim() - 1)),
        bptt_(bptt),
        rows_(flat(bptt.dgates)),
        needs_(needs) {
    if (!bptt.dinner) {
      of_w_hh_ = {{rows_, K_, K_}};
    } else {
      const int64_t H = bptt.dinner->size(bptt.dinner->dim() - 1);
      of_w_hh_ = {{rows_, K_, K_ - H}, {flat(*bptt.dinner), H, H}};
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
      const bool all = going_on.size() != 1;
      const Tensor state = all ? states_before(y, h0, g, going_on, before) : part(y, before, g * P, P);
      int64_t row = g * K_;
      for (const Columns& columns : of_w_hh_) {
        Tensor own = view_of(dw, {columns.width, P}, {P, 1}, row * P);
        const Tensor d = columns_of(columns, g, all ? Layout::Runs{{0, rows_.size(0)}} : going_on);
        product_to(own, transposed(d), state);
        if (h0 && !all) add_product(own, transposed(columns_of(columns, g, entering(g))), group(*h0, g));
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
      product_to(own, transposed(part(dh, all, g * P, P)), part(m, all, g * H, H));
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
        adds ? add_product(own, d, w_rows) : product_to(own, d, w_rows);
        row += columns.width;
      }
    }
    return dh;
  }

  Tensor c0() const { return bptt_.dc0 ? *bptt_.dc0 : none(); }

 private:
  // The first `width` of each group's `of_group` columns, in (N, G of_group).
  struct Columns {
    Tensor all;
    int64_t of_group, width;
  };

  static Tensor flat(const Tensor& t) { return as_rows(groups_joined(t)); }

  Tensor none() const { return empty_contiguous({0}, rows_); }

  // (K), or (G, K) if there are several groups.
  Tensor sums_of(const std::vector<Columns>& parts) const {
    Tensor sums = empty_contiguous(G_ == 1 ? Shape{K_} : Shape{G_, K_}, rows_);
    with_storage_type(dtype_of(rows_, "dgates"), [&](auto type) {
      using S = decltype(type);
      S* to = static_cast<S*>(sums.data_ptr());
      for (int64_t g = 0; g < G_; ++g) {
        for (const auto& [all, of_group, width] : parts) {
          sum_rows<S>(static_cast<const S*>(all.data_ptr()) + g * of_group, all.size(0), all.size(1), width,
                      to);
          to += width;
        }
      }
    });
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
    copy_rows(all, runs, first, copy, {{0, count}});
    return copy;
  }

  // Copies as many columns as `to` has, from `first` on, of some rows to others in the same order.
  static void copy_rows(const Tensor& from, const Layout::Runs& runs, int64_t first, Tensor& to,
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

  // The state that each step of group g begins with, for all rows of y.
  Tensor states_before(const Tensor& y, const std::optional<Tensor>& h0, int64_t g,
                       const Layout::Runs& going_on, const Layout::Runs& before) const {
    const int64_t P = y.size(1) / G_;
    Tensor states = empty_contiguous({y.size(0), P}, y);
    copy_rows(y, before, g * P, states, going_on);
    if (h0) {
      copy_rows(dense(group(*h0, g)), {{0, layout_.B}}, 0, states, entering(g));
    } else {
      for (const auto& [first, count] : entering(g))
        std::memset(static_cast<char*>(states.data_ptr()) + first * P * y.element_size(), 0,
                    count * P * y.element_size());
    }
    return states;
  }

  const Layout& layout_;
  const int64_t G_, K_;
  const BpttResult& bptt_;
  const Tensor rows_;
  const int64_t needs_;
  std::vector<Columns> of_w_hh_;  // one below the other: the rows of dW_hh
};

}  // namespace rnnfast
