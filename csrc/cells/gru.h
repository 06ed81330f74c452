// GRU (Cho et al. 2014), in torch's form, where the reset gate multiplies W_hn h + b_hn:
//   r, z = sigmoid(W_ih x_t + W_hh h_{t-1} + b),
//   q = W_hn h_{t-1} + b_hn,   n = tanh(W_in x_t + b_in + r q),
//   h_t = n + z (h_{t-1} - n),
// gates in the order r z n. With noise n is dropped where h_t is formed, and h_t is zoned. kInner is q; the
// bias is that of r, z and n, then b_hn.
#pragma once

#include "cell.h"

namespace rnnfast {

struct Gru {
  enum Gates { kR, kZ, kN, kQ };

  struct Forward : ForwardPlaces {
    static constexpr bool kBackward = false;
    static constexpr Operand kOperands[] = {{0, 1, kH0}};
    static constexpr int kCarries = 0, kNoisyCarries = 0;

    struct Step : Phase {
      static constexpr int kColumns = 3;
      static constexpr bool kPairs = true;
      static constexpr Ahead kAhead = kProjection;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto from_input = [&](int gate) { return at.load(kGates, gate) + at.vector(kBias, gate); };
        const auto r = at.sigmoid(at.matrix(kR) + from_input(kR));
        const auto z = at.sigmoid(at.matrix(kZ) + from_input(kZ));
        const auto q = at.matrix(kN) + at.vector(kBias, kQ);
        const auto n = at.tanh(from_input(kN) + r * q);
        const auto before = at.previous(kY) + at.entry(kH0);
        const auto of_n = Dropout<At>(at)(n);
        auto candidate = of_n + z * (before - of_n);
        if constexpr (At::kNoisy) candidate = zoned(candidate, before, at.kept().h);
        const auto h = at.store(kY, candidate);
        at.put(0, h);
        at.leave(kHN, h);
        at.store(kActivations, r, kR);
        at.store(kActivations, z, kZ);
        at.store(kActivations, n, kN);
        at.store(kInner, q);
      }
    };
    using Phases = PhaseList<Step>;
  };

  struct Adjoint : AdjointPlaces {
    static constexpr bool kBackward = true;
    static constexpr Operand kOperands[] = {{0, 3}};
    static constexpr int kCarries = 1, kNoisyCarries = 1;

    struct Step : Phase {
      static constexpr bool kTransposed = true, kRecords = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto r = at.load(kActivations, kR), z = at.load(kActivations, kZ),
                   n = at.load(kActivations, kN);
        const auto before = at.following(kY) + at.exit(kH0);
        const Dropout<At> dropped(at);
        // For h_t, all told, then for its candidate.
        auto dh = bounded(at, at.matrix(0) + at.carry(0) + at.load(kDy) + at.entry(kDhN));
        auto handed_on = typename At::Value{};
        if constexpr (At::kNoisy) {
          handed_on = at.kept().h * dh;
          dh = dh - handed_on;
        }
        handed_on = handed_on + dh * z;
        const auto dn = dropped(dh * (1 - z)) * (1 - n * n);
        const auto dr = dn * at.load(kInner) * r * (1 - r), dz = dh * (before - dropped(n)) * z * (1 - z),
                   dq = dn * r;
        at.store(kDGates, dr, kR);
        at.store(kDGates, dz, kZ);
        at.store(kDGates, dn, kN);
        at.store(kDInner, dq);
        at.put(0, dr, kR);
        at.put(0, dz, kZ);
        at.put(0, dq, kN);
        at.keep(0, handed_on);
        at.leave(kDh0, handed_on);
      }
    };
    using Phases = PhaseList<Step>;
  };
};

}  // namespace rnnfast
