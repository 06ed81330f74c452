// Elman RNN (Elman 1990, "Finding structure in time"), in torch's form:
//   h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh),  f = tanh or relu.
#pragma once

#include "cell.h"

namespace rnnfast {

struct Tanh {
  template <class At, class V>
  static RNNFAST_INLINE V apply(const At& at, V x) {
    return at.tanh(x);
  }
  // f'(x) dh, in terms of h = f(x).
  template <class At, class V>
  static RNNFAST_INLINE V adjoint(const At&, V dh, V h) {
    return dh * (1 - h * h);
  }
};

// As torch's relu and threshold_backward treat NaN: it passes through both ways.
struct Relu {
  template <class At, class V>
  static RNNFAST_INLINE V apply(const At&, V x) {
    return x < 0 ? V{} : x;
  }
  template <class At, class V>
  static RNNFAST_INLINE V adjoint(const At&, V dh, V h) {
    return h <= 0 ? V{} : dh;
  }
};

// Which of them, the recurrence says: for schedules whose steps wait for other things, and whose kernels take
// long to compile.
struct TanhOrRelu {
  template <class At, class V>
  static RNNFAST_INLINE V apply(const At& at, V x) {
    return at.relu() ? Relu::apply(at, x) : Tanh::apply(at, x);
  }
  template <class At, class V>
  static RNNFAST_INLINE V adjoint(const At& at, V dh, V h) {
    return at.relu() ? Relu::adjoint(at, dh, h) : Tanh::adjoint(at, dh, h);
  }
};

template <class Nonlinearity>
struct Elman {
  struct Forward : ForwardPlaces {
    static constexpr bool kBackward = false;
    static constexpr Operand kOperands[] = {{0, 1, kH0}};
    static constexpr int kCarries = 0, kNoisyCarries = 0;

    struct Step : Phase {
      static constexpr Ahead kAhead = kProjection;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto pre = at.matrix(0) + at.load(kGates) + at.vector(kBias);
        auto f = Nonlinearity::apply(at, pre);
        if constexpr (At::kNoisy) {
          at.store(kActivations, f);
          f = zoned(Dropout<At>(at)(f), at.previous(kY) + at.entry(kH0), at.kept().h);
        }
        const auto h = at.store(kY, f);
        at.put(0, h);
        at.leave(kHN, h);
      }
    };
    using Phases = PhaseList<Step>;
  };

  struct Adjoint : AdjointPlaces {
    static constexpr bool kBackward = true;
    static constexpr Operand kOperands[] = {{0}};
    static constexpr int kCarries = 0, kNoisyCarries = 1;

    struct Step : Phase {
      static constexpr bool kTransposed = true, kRecords = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto dh = candidate_gradient<0>(at, at.matrix(0) + at.load(kDy) + at.entry(kDhN));
        const auto dgates =
            Nonlinearity::adjoint(at, Dropout<At>(at)(dh), at.load(At::kNoisy ? kActivations : kY));
        at.store(kDGates, dgates);
        at.put(0, dgates);
      }
    };
    using Phases = PhaseList<Step>;
  };
};

}  // namespace rnnfast
