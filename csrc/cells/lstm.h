// LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), in torch's form:
//   i, f, o = sigmoid(W_ih x_t + W_hh h_{t-1} + b),  g = tanh(likewise),  in the order i f g o
//   c_t = f c_{t-1} + i g,   m_t = o tanh(c_t),
//   h_t = m_t, or W_hr m_t with projection (Sak et al. 2014).
// With noise g is dropped, and both c_t and h_t are zoned; m_t is that of c_t's candidate, as Krueger et al.
// have it. c is carried in the dtype that values are computed in, and rounded to that of the arrays only to
// be saved.
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
    return o * at.tanh(cell_state(at, i, f, g, o));
  }

  // From gates to c_t, of which it returns the candidate.
  template <class At, class V>
  static RNNFAST_INLINE V cell_state(At& at, V i, V f, V g, V o) {
    using P = ForwardPlaces;
    const auto before = at.carry(0) + at.entry(P::kC0), candidate = f * before + i * Dropout<At>(at)(g);
    auto c = candidate;
    if constexpr (At::kNoisy) c = zoned(candidate, before, at.kept().c);
    at.keep(0, c);
    at.leave(P::kCN, c);
    at.store(P::kC, c);
    at.store(P::kActivations, i, kI);
    at.store(P::kActivations, f, kF);
    at.store(P::kActivations, g, kG);
    at.store(P::kActivations, o, kO);
    return candidate;
  }

  // Its adjoint: from dm_t to dgates_t, which are also put for W_hh.
  template <class At, class V>
  static RNNFAST_INLINE void adjoint(At& at, V dm) {
    using P = AdjointPlaces;
    const auto i = at.load(P::kActivations, kI), f = at.load(P::kActivations, kF),
               g = at.load(P::kActivations, kG), o = at.load(P::kActivations, kO);
    const auto before = at.following(P::kC) + at.exit(P::kC0);
    auto candidate = at.load(P::kC);
    if constexpr (At::kNoisy) candidate = f * before + i * Dropout<At>(at)(g);
    const auto tanh_c = at.tanh(candidate);
    const auto emit = [&](int gate, V d) {
      at.store(P::kDGates, d, gate);
      at.put(0, d, gate);
    };
    state_adjoint(at, i, f, g, before, dm * o * (1 - tanh_c * tanh_c), emit);
    emit(kO, dm * tanh_c * o * (1 - o));
  }

  // Of cell_state: emits the gradients for what i, f and g are functions of, given that which reaches c_t's
  // candidate by m_t.
  template <class At, class V, class Emit>
  static RNNFAST_INLINE void state_adjoint(At& at, V i, V f, V g, V before, V by_m, const Emit& emit) {
    using P = AdjointPlaces;
    const Dropout<At> dropped(at);
    // For c_t, but for what comes by m_t, then for its candidate, all told.
    auto dc = at.carry(0) + at.entry(P::kDcN) + at.load(P::kDc);
    auto handed_on = V{};
    if constexpr (At::kNoisy) {
      handed_on = at.kept().c * dc;
      dc = dc - handed_on;
    }
    dc = at.clipped(dc + by_m);
    handed_on = handed_on + dc * f;
    emit(kI, dc * dropped(g) * i * (1 - i));
    emit(kF, dc * before * f * (1 - f));
    emit(kG, dropped(dc * i) * (1 - g * g));
    at.keep(0, handed_on);
    at.leave(P::kDc0, handed_on);
  }

  struct Forward : ForwardPlaces {
    static constexpr bool kBackward = false;
    static constexpr Operand kOperands[] = {{0, 1, kH0}};
    static constexpr int kCarries = 1, kNoisyCarries = 1;

    struct Step : Phase {
      static constexpr int kColumns = 4;
      static constexpr bool kPairs = true;
      static constexpr Ahead kAhead = kProjection;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        auto m = step(at);
        if constexpr (At::kNoisy) m = zoned(m, at.previous(kY) + at.entry(kH0), at.kept().h);
        const auto h = at.store(kY, m);
        at.put(0, h);
        at.leave(kHN, h);
      }
    };
    using Phases = PhaseList<Step>;
  };

  struct Adjoint : AdjointPlaces {
    static constexpr bool kBackward = true;
    static constexpr Operand kOperands[] = {{0, 4}};
    static constexpr int kCarries = 1, kNoisyCarries = 2;

    struct Step : Phase {
      static constexpr bool kTransposed = true, kRecords = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        adjoint(at, candidate_gradient<1>(at, at.matrix(0) + at.load(kDy) + at.entry(kDhN)));
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
    static constexpr int kCarries = 1, kNoisyCarries = 1;

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
        auto candidate = at.matrix(0);
        if constexpr (At::kNoisy) candidate = zoned(candidate, at.previous(kY) + at.entry(kH0), at.kept().h);
        const auto h = at.store(kY, candidate);
        at.put(0, h);
        at.leave(kHN, h);
      }
    };
    using Phases = PhaseList<Step, Projection>;
  };

  struct Adjoint : AdjointPlaces {
    static constexpr bool kBackward = true;
    static constexpr Operand kOperands[] = {{0, 4}, {1}};
    static constexpr int kCarries = 1, kNoisyCarries = 2;

    struct State : Phase {
      static constexpr int kUnits = 1;
      static constexpr bool kTransposed = true, kRecords = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto dh = candidate_gradient<1>(at, at.matrix(0) + at.load(kDy) + at.entry(kDhN));
        at.put(1, at.store(kDh, dh));
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
