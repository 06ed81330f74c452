// The LSTM of cells/lstm.h with layer normalisation (Ba, Kiros and Hinton, "Layer normalization",
// arXiv:1607.06450, equations 20 to 22): of what multiplies h, over all gates together, and of c where it is
// seen:
//   i f g o are functions of gates_t + N(W_hh h_{t-1}) gain_hh,  h_t = o tanh(N(c_t) gain_c + bias_c),
//   N(v) = (v - mean(v)) / sqrt(variance(v) + 1e-5).
// What is said of x in equation 20 is in gates_t already. The vector is gain_hh (K), gain_c (H), bias_c (H).
// Means are taken first and variances of what is left, a phase each, lest large means drown small variances.
#pragma once

#include "lstm.h"

namespace rnnfast {

struct LayerNormLstm {
  static constexpr double kEpsilon = 1e-5;
  static constexpr int kParts = 4;
  // Places in the vector, counting units.
  static constexpr int kGainC = kParts, kBiasC = kParts + 1;

  template <class At>
  static RNNFAST_INLINE auto scale(const At& at, int units_times) {
    using Scalar = typename At::Scalar;
    const auto variance = at.sum(0) / (at.units() * static_cast<Scalar>(units_times));
    return 1 / at.sqrt(variance + static_cast<Scalar>(kEpsilon));
  }

  struct Forward : ForwardPlaces {
    static constexpr bool kBackward = false;
    static constexpr Operand kOperands[] = {{0, 1, kH0}};
    // c; of a step W_hh h by gates, later c_t's candidate and o.
    enum Carries { kState, kOfGates, kCandidate = kOfGates, kO, kCount = kOfGates + kParts };
    static constexpr int kCarries = kCount, kNoisyCarries = kCount;

    struct Multiply : Phase {
      static constexpr int kColumns = kParts, kStatistics = 1;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        auto sum = typename At::Value{};
        for (int gate = 0; gate < kParts; ++gate) {
          const auto hh = at.matrix(gate);
          at.keep(kOfGates + gate, hh);
          sum = sum + hh;
        }
        at.add(0, sum);
      }
    };
    struct Center : Phase {
      static constexpr int kColumns = 0, kStatistics = 1;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto mean = at.sum(0) / (at.units() * kParts);
        auto squares = typename At::Value{};
        for (int gate = 0; gate < kParts; ++gate) {
          const auto rest = at.carry(kOfGates + gate) - mean;
          at.keep(kOfGates + gate, rest);
          squares = squares + rest * rest;
        }
        at.add(0, squares);
      }
    };
    struct State : Phase {
      static constexpr int kColumns = 0, kStatistics = 1;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto by = scale(at, kParts);
        at.store_row(kScales, by, 0);
        const auto pre = [&](int gate) {
          const auto normal = at.carry(kOfGates + gate) * by;
          at.store(kNormal, normal, gate);
          return at.load(kGates, gate) + normal * at.vector(kBias, gate);
        };
        const auto i = at.sigmoid(pre(Lstm::kI)), f = at.sigmoid(pre(Lstm::kF)), g = at.tanh(pre(Lstm::kG)),
                   o = at.sigmoid(pre(Lstm::kO));
        const auto candidate = Lstm::cell_state(at, i, f, g, o);
        at.keep(kCandidate, candidate);
        at.keep(kO, o);
        at.add(0, candidate);
      }
    };
    struct CenterState : Phase {
      static constexpr int kColumns = 0, kStatistics = 1;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto rest = at.carry(kCandidate) - at.sum(0) / at.units();
        at.keep(kCandidate, rest);
        at.add(0, rest * rest);
      }
    };
    struct Output : Phase {
      static constexpr int kColumns = 0;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto by = scale(at, 1);
        at.store_row(kScales, by, 1);
        const auto normal = at.carry(kCandidate) * by;
        at.store(kInner, normal);
        auto candidate = at.carry(kO) * at.tanh(normal * at.vector(kBias, kGainC) + at.vector(kBias, kBiasC));
        if constexpr (At::kNoisy) candidate = zoned(candidate, at.previous(kY) + at.entry(kH0), at.kept().h);
        const auto h = at.store(kY, candidate);
        at.put(0, h);
        at.leave(kHN, h);
      }
    };
    using Phases = PhaseList<Multiply, Center, State, CenterState, Output>;
  };

  struct Adjoint : AdjointPlaces {
    static constexpr bool kBackward = true;
    static constexpr Operand kOperands[] = {{0, kParts}};
    // Gradients: for c; of a step, for N(c_t) and the sigmoid of o, later for N(W_hh h) by gates; of h handed
    // on.
    enum Carries { kState, kOfGates, kNormalState = kOfGates, kO, kHandedOn = kOfGates + kParts, kCount };
    static constexpr int kCarries = kHandedOn, kNoisyCarries = kCount;

    struct Output : Phase {
      static constexpr bool kTransposed = true, kRecords = true;
      static constexpr int kStatistics = 2;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto dh = candidate_gradient<kHandedOn>(at, at.matrix(0) + at.load(kDy) + at.entry(kDhN));
        const auto o = at.load(kActivations, Lstm::kO), normal = at.load(kInner),
                   gain = at.vector(kBias, kGainC);
        const auto seen = at.tanh(normal * gain + at.vector(kBias, kBiasC));
        const auto dseen = dh * o * (1 - seen * seen), dnormal = dseen * gain;
        at.store(kDh, dseen);
        at.keep(kNormalState, dnormal);
        at.keep(kO, dh * seen * o * (1 - o));
        at.add(0, dnormal);
        at.add(1, dnormal * normal);
      }
    };
    struct State : Phase {
      static constexpr int kColumns = 0, kStatistics = 2;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto i = at.load(kActivations, Lstm::kI), f = at.load(kActivations, Lstm::kF),
                   g = at.load(kActivations, Lstm::kG), d_o = at.carry(kO);
        const auto before = at.following(kC) + at.exit(kC0);
        const auto by_h = centered(at, at.carry(kNormalState), at.load(kInner), 1);
        auto sum = typename At::Value{}, products = typename At::Value{};
        const auto emit = [&](int gate, typename At::Value d) {
          const auto dnormal = d * at.vector(kBias, gate);
          at.store(kDGates, d, gate);
          at.keep(kOfGates + gate, dnormal);
          sum = sum + dnormal;
          products = products + dnormal * at.load(kNormal, gate);
        };
        Lstm::state_adjoint(at, i, f, g, before, by_h, emit);
        emit(Lstm::kO, d_o);
        at.add(0, sum);
        at.add(1, products);
      }
    };
    struct Multiplied : Phase {
      static constexpr int kColumns = 0;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        for (int gate = 0; gate < kParts; ++gate) {
          const auto d = centered(at, at.carry(kOfGates + gate), at.load(kNormal, gate), kParts);
          at.store(kDInner, d, gate);
          at.put(0, d, gate);
        }
      }
    };
    using Phases = PhaseList<Output, State, Multiplied>;

   private:
    // The gradient for v, given that for N(v), N(v), and the sums of the former and of their products.
    template <class At, class V>
    static RNNFAST_INLINE V centered(const At& at, V dnormal, V normal, int units_times) {
      const auto count = at.units() * static_cast<typename At::Scalar>(units_times);
      const auto by = at.load_row(kScales, units_times == 1 ? 1 : 0);
      return by * (dnormal - at.sum(0) / count - normal * (at.sum(1) / count));
    }
  };
};

}  // namespace rnnfast
