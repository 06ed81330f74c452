// The seam between cells and schedules.
//
// A cell describes a forward pass and its adjoint (BPTT). A pass is
//
//   kBackward     true where steps are taken against the direction of the forward pass
//   kOperands     what the matrices read: buffers that the schedule keeps for each row of the batch
//   kCarries      values that a row hands from phase to phase and from step to step, besides the operands
//   kNoisyCarries the same where there is noise
//   Phases        what happens at each step, in order
//
// and a phase is one matrix or none, followed by pointwise arithmetic of each unit:
//
//   kUnits        the unit set that the phase computes (index into Recurrence::units)
//   kColumns      matrix results for each unit: its gates. 0: the phase has no matrix
//   kMatrix       index into Recurrence::matrices
//   kTransposed   the matrix is applied transposed, as adjoints do
//   kOperand      index into kOperands
//   kSameStep     the operand was put by an earlier phase of this step, not by the step before
//   kStatistics   row sums that the phase leaves for the next phase
//   kPairs        `run` may be given two vectors of units at a time, which hides the latencies of long
//   chains;
//                 of a Value it then uses no more than + - * and the accessor's functions
//   kRecords      `run` records
//   kAhead        {stream, input, matrix}: where the stream is absent it is the matrix times the input, with
//                 as many columns as the phase's own matrix; schedules compute it some steps ahead
//   run(At&)      the arithmetic, through the accessor below
//
// The same text of `run` serves a scalar, a SIMD vector and a CUDA thread: At::Value says which. Indices
// below name places in the pass's own enums; `part` counts gates where a row holds several for each unit.
//
//   Value matrix(gate)          result of the phase's matrix; zero for rows that just entered the sequence,
//                               unless their operand has an initial value
//   Value load(stream, part)    value at this step; zero if the stream is absent
//   Value previous(stream)      value at the step before in processing order; zero where the row enters
//   Value following(stream)     value at the step after in processing order (in an adjoint, the step before
//                               in time); zero where the row leaves
//   Value entry(end)            for a row that enters at this step, its value in `end`; otherwise zero
//   Value exit(end)             for a row that leaves after this step, its value in `end`; otherwise zero
//   leave(end, v)               for a row that leaves after this step, writes its value in `end`
//   Value vector(i, part)       a parameter of the unit; zero if absent
//   Value store(stream, v)      writes v and returns it as rounded to the stream's dtype
//   Value load_row(stream, part), store_row(stream, v, part)  one value for all units of the row
//   put(operand, v, part)       what later matrices shall see
//   Value carry(i) / keep(i, v) reads, writes a carried value; zero when a row enters the sequence
//   add(i, v) / sum(i)          adds to the row's statistic; reads, in later phases, its sum over all units
//   record(v)                   for the norm, over all units, of the row at this step (Recurrence::norms)
//   Value clipped(v)            v within the recurrence's bounds (Recurrence::clip)
//   kNoisy                      whether there is noise (Recurrence::noise); only then there are:
//   Value dropout()             what a candidate is multiplied with, for all steps of a row
//   Kept<Value> kept()          the shares of h and c that stay what they were, at this step
//   Scalar units()              how many units the phase has; At::Scalar is the type of constants, too
//   Value tanh(v), sigmoid(v), sqrt(v)  elementary functions
//   relu()                      Recurrence::relu; on a GPU only
//
// Nothing here knows how rows and units are spread over workers. Sums are formed from partials of fixed size
// in a fixed order, so a result does not depend on the schedule.
#pragma once

#if defined(__CUDACC__)
#define RNNFAST_INLINE __host__ __device__ __forceinline__
#else
#define RNNFAST_INLINE inline __attribute__((always_inline))
#endif

namespace rnnfast {

struct Operand {
  int units;         // index into Recurrence::units
  int parts = 1;     // gates per unit
  int initial = -1;  // index into Recurrence::ends of what rows enter with; -1: nothing, which reads as zero
};

// Of a phase: the places of a stream, and of the stream and the matrix whose product it may be.
struct Ahead {
  int stream = -1, input = -1, matrix = -1;
};

// The arrays of a layer, in the same places for every cell; a cell uses those it has. K = gates * H.
struct ForwardPlaces {
  // kGates: W_ih x, (K); where it is absent, kInput is x, (I). kActivations, kC, kInner: what BPTT needs,
  // absent if it will not come: the gates after their nonlinearities, the cell state, and what is neither (a
  // cell says what). kNormal, kScales: of a layer-normalised cell W_hh h, and a row's two scales, likewise.
  enum Streams { kGates, kY, kActivations, kC, kInner, kInput, kNormal, kScales };
  enum Ends { kH0, kHN, kC0, kCN };
  enum Matrices { kWhh, kWhr, kWih };
  enum Vectors { kBias };
  static constexpr Ahead kProjection{kGates, kInput, kWih};
};
struct AdjointPlaces {
  // kDGates: of the loss for W_ih x. kDInner: for W_hh h where that differs. kDh: for what a state is W_hr
  // times, all told; of a layer-normalised cell for what tanh is taken of.
  enum Streams { kDy, kY, kDGates, kActivations, kC, kInner, kDc, kDInner, kDh, kNormal, kScales };
  // kDh0: what reaches h_0 other than through W_hh.
  enum Ends { kDhN, kDcN, kH0, kC0, kDh0, kDc0 };
  enum Matrices { kWhh, kWhr };
  enum Vectors { kBias };
};

// Defaults that most phases share.
struct Phase {
  static constexpr int kUnits = 0, kColumns = 1, kMatrix = 0, kOperand = 0, kStatistics = 0;
  static constexpr bool kTransposed = false, kSameStep = false, kPairs = false, kRecords = false;
  static constexpr Ahead kAhead{};
};

template <class... P>
struct PhaseList {};

// Shares of the state before that a state keeps.
template <class Value>
struct Kept {
  Value h, c;
};

// Recurrent dropout, of candidates for the state, with one mask for all steps (Semeniuta, Severyn and Barth,
// "Recurrent dropout without memory loss", arXiv:1603.05118). Its own adjoint.
template <class At, bool kNoisy = At::kNoisy>
struct Dropout {
  RNNFAST_INLINE explicit Dropout(const At& at) : factor(at.dropout()) {}
  RNNFAST_INLINE typename At::Value operator()(typename At::Value candidate) const {
    return candidate * factor;
  }
  typename At::Value factor;
};
template <class At>
struct Dropout<At, false> {
  RNNFAST_INLINE explicit Dropout(const At&) {}
  RNNFAST_INLINE typename At::Value operator()(typename At::Value candidate) const { return candidate; }
};

// Zoneout: of a state some units stay what they were (Krueger et al., arXiv:1606.01305).
template <class V>
RNNFAST_INLINE V zoned(V candidate, V before, V kept) {
  return candidate + kept * (before - candidate);
}

// The gradient of the loss for h_t, all told: recorded as it comes, and clipped.
template <class At, class V>
RNNFAST_INLINE V bounded(At& at, V dh) {
  at.record(dh);
  return at.clipped(dh);
}

// The gradient of the loss for h_t's candidate, given all that h_t's gradient has but what it handed on to
// itself: a share that zoneout keeps goes to the step before, in a carry.
template <int kCarry, class At, class V>
RNNFAST_INLINE V candidate_gradient(At& at, V dh) {
  if constexpr (At::kNoisy) {
    dh = bounded(at, dh + at.carry(kCarry));
    const V handed_on = at.kept().h * dh;
    at.keep(kCarry, handed_on);
    at.leave(AdjointPlaces::kDh0, handed_on);
    return dh - handed_on;
  } else {
    return bounded(at, dh);
  }
}

}  // namespace rnnfast
