// The cells' formulas in double precision, step by step, for one row of the batch after the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numeric>
#include <vector>

#include "arrays.h"
#include "cells/cell.h"
#include "plan.h"

namespace rnnfast::driver {

// Of a layer and its adjoint; null where absent.
struct LayerArrays {
  // W_ih x, or x and W_ih.
  Array *gates = nullptr, *input = nullptr, *w_ih = nullptr;
  Array *w_hh = nullptr, *w_hr = nullptr, *bias = nullptr, *h0 = nullptr, *c0 = nullptr;
  Array *y = nullptr, *h_n = nullptr, *c_n = nullptr;
  Array *activations = nullptr, *c = nullptr, *inner = nullptr;
  Array *dy = nullptr, *dc = nullptr, *dh_n = nullptr, *dc_n = nullptr;
  Array *dgates = nullptr, *dinner = nullptr, *dh = nullptr, *dh0 = nullptr, *dc0 = nullptr;
  Array* norms = nullptr;
};

using Values = std::vector<double>;

// Of an array's row; the rows of a matrix count as b.
struct Place {
  int64_t g, t, b;
};

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

inline Values read(const Array* a, const Place& at, int64_t width) {
  if (!a) return Values(width);
  const double* row = a->row(at.g, at.t, at.b);
  return Values(row, row + width);
}

// Returns the values as stored.
inline Values expect(Array* a, const Place& at, Values values) {
  for (size_t j = 0; a && j < values.size(); ++j) values[j] = a->expect(at.g, at.t, at.b, j, values[j]);
  return values;
}

inline Values sum(Values a, const Values& b) {
  for (size_t j = 0; j < a.size(); ++j) a[j] += b[j];
  return a;
}

inline Values product(const Array& w, int64_t g, const Values& x, int64_t rows) {
  Values out(rows);
  for (int64_t i = 0; i < rows; ++i) {
    const double* row = w.row(g, 0, i);
    for (size_t k = 0; k < x.size(); ++k) out[i] += row[k] * x[k];
  }
  return out;
}

inline Values transposed_product(const Array& w, int64_t g, const Values& x, int64_t columns) {
  Values out(columns);
  for (size_t i = 0; i < x.size(); ++i) {
    const double* row = w.row(g, 0, i);
    for (int64_t k = 0; k < columns; ++k) out[k] += row[k] * x[i];
  }
  return out;
}

// Fills in what the arrays of a layer must hold after a pass, from what is in those that the pass reads.
class Oracle {
 public:
  Oracle(const Recurrence& r, Cell cell, const LayerArrays& arrays)
      : r_(r), cell_(cell), a_(arrays), H_(r.units[0]), P_(a_.w_hr ? r.units[1] : H_), K_(gates(cell) * H_) {}

  void forward() const {
    each_row([&](const Place& row, const std::vector<int64_t>& steps) {
      Values h = read(a_.h0, row, P_), c = read(a_.c0, row, H_);
      for (const int64_t t : steps) {
        const Place at{row.g, t, row.b};
        h = expect(a_.y, at, next_state(at, h, c));
      }
      expect(a_.h_n, row, h), expect(a_.c_n, row, c);
    });
  }

  void adjoint() const {
    each_row([&](const Place& row, const std::vector<int64_t>& steps) {
      Flow flow{read(a_.dh_n, row, P_), read(a_.dc_n, row, H_), Values(H_)};
      for (size_t i = steps.size(); i-- > 0;) {
        const Place at{row.g, steps[i], row.b};
        const auto before = [&](const Array* all, const Array* initial) {
          return i > 0 ? read(all, {row.g, steps[i - 1], row.b}, H_) : read(initial, row, H_);
        };
        flow.dh = sum(flow.dh, read(a_.dy, at, P_));
        expect(a_.norms, at, {norm(flow.dh)});
        for (double& v : flow.dh) v = clipped(v);
        if (cell_ == Cell::lstm) {
          lstm_adjoint(at, before(a_.c, a_.c0), flow);
        } else if (cell_ == Cell::gru) {
          gru_adjoint(at, before(a_.y, a_.h0), flow);
        } else {
          elman_adjoint(at, flow);
        }
      }
      expect(a_.dh0, row, flow.direct), expect(a_.dc0, row, flow.dc);
    });
  }

 private:
  // What reaches the states before a step: in all, and of dh what does not come through W_hh.
  struct Flow {
    Values dh, dc, direct;
  };

  // Calls visit(place, steps) for each group and row of the batch, with its steps in the order in which a
  // forward pass takes them; the place is that of its ends.
  template <class Visit>
  void each_row(const Visit& visit) const {
    for (int64_t g = 0; g < r_.G; ++g) {
      for (int64_t b = 0; b < r_.B; ++b) {
        std::vector<int64_t> steps;
        for (int64_t t = 0; t < r_.T && b < r_.active(t); ++t) steps.push_back(t);
        if (r_.reversed(g)) std::reverse(steps.begin(), steps.end());
        visit(Place{g, 0, b}, steps);
      }
    }
  }

  double clipped(double v) const { return std::clamp(v, -r_.clip, r_.clip); }

  static double norm(const Values& v) {
    return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.));
  }

  // A unit's values in the order of its gates.
  void set(Values& all, int64_t unit, std::initializer_list<double> values) const {
    int64_t gate = 0;
    for (const double v : values) all[gate++ * H_ + unit] = v;
  }

  // h, not rounded yet.
  Values next_state(const Place& at, const Values& h, Values& c) const {
    Values x =
        a_.input ? product(*a_.w_ih, at.g, read(a_.input, at, input_size()), K_) : read(a_.gates, at, K_);
    x = sum(x, read(a_.bias, {at.g, 0, 0}, K_));
    const Values hh = product(*a_.w_hh, at.g, h, K_);
    if (cell_ == Cell::lstm) return lstm(at, sum(x, hh), c);
    if (cell_ == Cell::gru) return gru(at, x, hh, h);
    x = sum(x, hh);
    for (double& v : x) v = cell_ == Cell::elman_relu ? std::max(v, 0.) : std::tanh(v);
    return x;
  }

  int64_t input_size() const { return r_.matrices[ForwardPlaces::kWih].columns; }

  Values lstm(const Place& at, const Values& x, Values& c) const {
    Values m(H_), activations(K_);
    for (int64_t j = 0; j < H_; ++j) {
      const double i = sigmoid(x[j]), f = sigmoid(x[H_ + j]), g = std::tanh(x[2 * H_ + j]),
                   o = sigmoid(x[3 * H_ + j]);
      c[j] = f * c[j] + i * g;
      m[j] = o * std::tanh(c[j]);
      set(activations, j, {i, f, g, o});
    }
    expect(a_.activations, at, activations), expect(a_.c, at, c);
    if (!a_.w_hr) return m;
    for (double& v : m) v = a_.y->rounded(v);  // as kernels keep it for W_hr, saved or not
    expect(a_.inner, at, m);
    return product(*a_.w_hr, at.g, m, P_);
  }

  // x: with the bias of r, z and n.
  Values gru(const Place& at, const Values& x, const Values& hh, const Values& before) const {
    const Values bias = read(a_.bias, {at.g, 0, 0}, K_ + H_);
    Values h(H_), q(H_), activations(K_);
    for (int64_t j = 0; j < H_; ++j) {
      const double r = sigmoid(x[j] + hh[j]), z = sigmoid(x[H_ + j] + hh[H_ + j]);
      q[j] = hh[2 * H_ + j] + bias[3 * H_ + j];
      const double n = std::tanh(x[2 * H_ + j] + r * q[j]);
      h[j] = (1 - z) * n + z * before[j];
      set(activations, j, {r, z, n});
    }
    expect(a_.activations, at, activations), expect(a_.inner, at, q);
    return h;
  }

  void elman_adjoint(const Place& at, Flow& flow) const {
    const Values y = read(a_.y, at, H_);
    Values d = flow.dh;
    for (int64_t j = 0; j < H_; ++j) d[j] *= cell_ == Cell::elman_tanh ? 1 - y[j] * y[j] : y[j] > 0 ? 1 : 0;
    expect(a_.dgates, at, d);
    flow.dh = transposed_product(*a_.w_hh, at.g, d, P_);
  }

  void lstm_adjoint(const Place& at, const Values& before, Flow& flow) const {
    Values dm = flow.dh;
    if (a_.w_hr) {
      for (double& v : dm) v = a_.y->rounded(v);
      expect(a_.dh, at, dm);
      dm = transposed_product(*a_.w_hr, at.g, dm, H_);
    }
    const Values saved = read(a_.activations, at, K_), c = read(a_.c, at, H_), from_c = read(a_.dc, at, H_);
    Values d(K_);
    for (int64_t j = 0; j < H_; ++j) {
      const double i = saved[j], f = saved[H_ + j], g = saved[2 * H_ + j], o = saved[3 * H_ + j];
      const double tanh_c = std::tanh(c[j]);
      const double dc = clipped(flow.dc[j] + from_c[j] + dm[j] * o * (1 - tanh_c * tanh_c));
      set(d, j,
          {dc * g * i * (1 - i), dc * before[j] * f * (1 - f), dc * i * (1 - g * g),
           dm[j] * tanh_c * o * (1 - o)});
      flow.dc[j] = dc * f;
    }
    expect(a_.dgates, at, d);
    flow.dh = transposed_product(*a_.w_hh, at.g, d, P_);
  }

  void gru_adjoint(const Place& at, const Values& before, Flow& flow) const {
    const Values saved = read(a_.activations, at, K_), q = read(a_.inner, at, H_);
    Values d(K_), dinner(H_), for_hh(K_);
    for (int64_t j = 0; j < H_; ++j) {
      const double r = saved[j], z = saved[H_ + j], n = saved[2 * H_ + j], dh = flow.dh[j];
      const double dn = dh * (1 - z) * (1 - n * n), dz = dh * (before[j] - n) * z * (1 - z),
                   dr = dn * q[j] * r * (1 - r);
      dinner[j] = dn * r;
      set(d, j, {dr, dz, dn}), set(for_hh, j, {dr, dz, dinner[j]});
      flow.direct[j] = dh * z;
    }
    expect(a_.dgates, at, d), expect(a_.dinner, at, dinner);
    flow.dh = sum(transposed_product(*a_.w_hh, at.g, for_hh, P_), flow.direct);
  }

  const Recurrence& r_;
  const Cell cell_;
  const LayerArrays a_;
  const int64_t H_, P_, K_;
};

}  // namespace rnnfast::driver
