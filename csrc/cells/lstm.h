// LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), in torch's form:
//   i, f, o = sigmoid(W_ih x_t + W_hh h_{t-1} + b),  g = tanh(likewise),  in the order i f g o
//   c_t = f c_{t-1} + i g,   m_t = o tanh(c_t),
//   h_t = m_t, or W_hr m_t with projection (Sak et al. 2014).
// c is carried in the dtype that values are computed in, and rounded to that of the arrays only to be saved.
#pragma once

#include "cell.h"

namespace rnnfast {

struct Lstm {
  enum Gates { kI, kF, kG, kO };

  // The arithmetic of a step, returns m_t.
  template <class At>
  static RNNFAST_INLINE auto step(At& at) {
    using P = ForwardPlaces;
    const auto pre = [&](int gate) {
      return at.matrix(gate) + at.load(P::kGates, gate) + at.vector(P::kBias, gate);
    };
    const auto i = at.sigmoid(pre(kI)), f = at.sigmoid(pre(kF)), g = at.tanh(pre(kG)),
               o = at.sigmoid(pre(kO));
    const auto c = f * (at.carry(0) + at.entry(P::kC0)) + i * g;
    at.keep(0, c);
    at.leave(P::kCN, c);
    at.store(P::kC, c);
    at.store(P::kActivations, i, kI);
    at.store(P::kActivations, f, kF);
    at.store(P::kActivations, g, kG);
    at.store(P::kActivations, o, kO);
    return o * at.tanh(c);
  }

  // Its adjoint: from dm_t to dgates_t, which are also put for W_hh.
  template <class At, class V>
  static RNNFAST_INLINE void adjoint(At& at, V dm) {
    using P = AdjointPlaces;
    const auto i = at.load(P::kActivations, kI), f = at.load(P::kActivations, kF),
               g = at.load(P::kActivations, kG), o = at.load(P::kActivations, kO);
    const auto before = at.following(P::kC) + at.exit(P::kC0), tanh_c = at.tanh(at.load(P::kC));
    const auto dc =
        at.clipped(at.carry(0) + at.entry(P::kDcN) + at.load(P::kDc) + dm * o * (1 - tanh_c * tanh_c));
    const auto emit = [&](int gate, V d) {
      at.store(P::kDGates, d, gate);
      at.put(0, d, gate);
    };
    emit(kI, dc * g * i * (1 - i));
    emit(kF, dc * before * f * (1 - f));
    emit(kG, dc * i * (1 - g * g));
    emit(kO, dm * tanh_c * o * (1 - o));
    at.keep(0, dc * f);
    at.leave(P::kDc0, dc * f);
  }

  struct Forward : ForwardPlaces {
    static constexpr bool kBackward = false;
    static constexpr Operand kOperands[] = {{0, 1, kH0}};
    static constexpr int kCarries = 1;

    struct Step : Phase {
      static constexpr int kColumns = 4;
      static constexpr bool kPairs = true;
      static constexpr Ahead kAhead = kProjection;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto h = at.store(kY, step(at));
        at.put(0, h);
        at.leave(kHN, h);
      }
    };
    using Phases = PhaseList<Step>;
  };

  struct Adjoint : AdjointPlaces {
    static constexpr bool kBackward = true;
    static constexpr Operand kOperands[] = {{0, 4}};
    static constexpr int kCarries = 1;

    struct Step : Phase {
      static constexpr bool kTransposed = true, kRecords = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        adjoint(at, bounded(at, at.matrix(0) + at.load(kDy) + at.entry(kDhN)));
      }
    };
    using Phases = PhaseList<Step>;
  };
};

// Units 0 are those of the gates and c, units 1 those of h. kInner is m.
struct ProjectedLstm {
  struct Forward : ForwardPlaces {
    static constexpr bool kBackward = false;
    static constexpr Operand kOperands[] = {{1, 1, kH0}, {0}};
    static constexpr int kCarries = 1;

    struct Step : Phase {
      static constexpr int kColumns = 4;
      static constexpr bool kPairs = true;
      static constexpr Ahead kAhead = kProjection;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        at.put(1, at.store(kInner, Lstm::step(at)));
      }
    };
    struct Projection : Phase {
      static constexpr int kUnits = 1, kMatrix = kWhr, kOperand = 1;
      static constexpr bool kSameStep = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto h = at.store(kY, at.matrix(0));
        at.put(0, h);
        at.leave(kHN, h);
      }
    };
    using Phases = PhaseList<Step, Projection>;
  };

  struct Adjoint : AdjointPlaces {
    static constexpr bool kBackward = true;
    static constexpr Operand kOperands[] = {{0, 4}, {1}};
    static constexpr int kCarries = 1;

    struct State : Phase {
      static constexpr int kUnits = 1;
      static constexpr bool kTransposed = true, kRecords = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        at.put(1, at.store(kDh, bounded(at, at.matrix(0) + at.load(kDy) + at.entry(kDhN))));
      }
    };
    struct Step : Phase {
      static constexpr int kMatrix = kWhr, kOperand = 1;
      static constexpr bool kTransposed = true, kSameStep = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        Lstm::adjoint(at, at.matrix(0));
      }
    };
    using Phases = PhaseList<State, Step>;
  };
};

}  // namespace rnnfast
