// What a cell sees of its surroundings where a thread has one unit of one row for all steps (cells/cell.h).
#pragma once

#include "../cells/cell.h"
#include "../recurrence.h"
#include "values.cuh"

namespace rnnfast {

// Streams as threads step through them: bytes from position to position, where a position is a step in time,
// or the place of a step's first row where streams are packed; and which streams there are. Bytes and
// positions have 32 bits, so that an address takes one instruction.
struct Strides {
  int32_t bytes[kMaxStreams] = {}, computed = 0;
  uint32_t present = 0;

  static Strides of(const Recurrence& r, const Stream& computed_stream, int value_bytes, int computed_bytes) {
    const auto stride = [&](const Stream& s, int size) {
      return static_cast<int32_t>((r.offsets ? s.row : s.step) * size);
    };
    Strides strides;
    for (int i = 0; i < kMaxStreams; ++i) {
      if (!r.streams[i].data) continue;
      strides.bytes[i] = stride(r.streams[i], value_bytes);
      strides.present |= uint32_t{1} << i;
    }
    strides.computed = stride(computed_stream, computed_bytes);
    return strides;
  }
};

// A unit of a row: its values at position 0.
template <class S>
struct Seat {
  int64_t group, row;
  int unit, units;
  char *streams[kMaxStreams], *computed;

  __device__ __forceinline__ Seat(const Recurrence& r, const Stream& computed_stream, int64_t of_group,
                                  int64_t of_row, int of_unit, int of_units)
      : group(of_group), row(of_row), unit(of_unit), units(of_units) {
#pragma unroll
    for (int i = 0; i < kMaxStreams; ++i) streams[i] = first(r.streams[i], sizeof(S));
    computed = first(computed_stream, sizeof(Compute<S>));
  }

 private:
  __device__ __forceinline__ char* first(const Stream& s, int bytes) const {
    return opaque(static_cast<char*>(s.data) + (group * s.group + row * s.row + unit) * bytes);
  }
};

// Where a step's values are.
struct Position {
  int now, after;                  // of the step, and of the step after in order of processing
  bool active, entering, leaving;  // whether the row is, and does
};

// Values that do not change from step to step; values that a cell reads from memory, stores, and leaves
// behind, at a step.
constexpr int kMaxParameters = 7, kMaxAhead = 4, kMaxFetched = 8, kMaxStored = 8, kMaxLeft = 2;

enum class Turn {
  once,   // before all steps: reads parameters and what rows enter and leave with, and does nothing else
  fetch,  // reads what a step needs from memory, and does nothing else
  run,    // has it from accessors that did so, and keeps what goes to memory
  write,  // writes this, and does nothing else
  leave   // after all steps: writes what the row leaves behind, and does nothing else
};

// What was fetched for a step, as it is stored: to widen it would be to wait for it.
template <class S>
struct Fetched {
  Compute<S> ahead[kMaxAhead];
  S values[kMaxFetched];
};

// Own: what the schedule keeps, as an Accessor has it. What depends on the row, or on which arrays there are,
// is a condition of a single instruction, not a branch: steps are as long as their chains of instructions.
template <class Phase, class S, class Own, Turn kTurn>
class CrewAccessor {
  using C = Compute<S>;

 public:
  using Value = C;
  using Scalar = C;
  static constexpr bool kNoisy = false;

  __device__ __forceinline__ CrewAccessor(const Recurrence& r, const Strides& strides, const Seat<S>& seat,
                                          const Position& position, Own& own, Fetched<S>* fetched)
      : r_(r), strides_(strides), seat_(seat), position_(position), own_(own), fetched_(fetched) {}

  __device__ __forceinline__ C matrix(int gate) const {
    return kTurn == Turn::run ? own_.matrix(gate) : C(0);
  }

  __device__ __forceinline__ C load(int stream, int part = 0) {
    if (stream != Phase::kAhead.stream) return read(is_present(stream), position_.now, stream, part);
    // Where S is what is computed with, `computed` has what is given, too (launch_crew).
    constexpr bool kOther = sizeof(S) != sizeof(C);
    const bool given = kOther && !own_.has_computed && is_present(stream);
    const C other = kOther ? read(given, position_.now, stream, part) : C(0);
    if constexpr (kTurn == Turn::fetch)
      fetched_->ahead[next_ahead_] = read_if(own_.has_computed && position_.active, computed(part));
    const C v = kTurn == Turn::run ? fetched_->ahead[next_ahead_] : C(0);
    ++next_ahead_;
    return given ? other : v;
  }
  __device__ __forceinline__ C previous(int stream) {
    return kTurn != Turn::run || position_.entering ? C(0) : own_.remembered(stream);
  }
  __device__ __forceinline__ C following(int stream, int part = 0) {
    return read(is_present(stream) && !position_.leaving, position_.after, stream, part);
  }
  __device__ __forceinline__ C entry(int end) {
    return parameter([&] { return read_end(end); }, position_.entering);
  }
  __device__ __forceinline__ C exit(int end) {
    return parameter([&] { return read_end(end); }, position_.leaving);
  }
  __device__ __forceinline__ void leave(int end, C v) {
    if constexpr (kTurn == Turn::run) {
      own_.left[next_left_++] = v;
    } else if constexpr (kTurn == Turn::leave) {
      const C kept = own_.left[next_left_++];
      if (r_.ends[end].data) *at_end(end) = narrowed<S>(kept);
    }
  }

  __device__ __forceinline__ C vector(int i, int part = 0) {
    return parameter(
        [&] {
          const Vector& v = r_.vectors[i];
          if (!v.data) return C(0);
          return widened((static_cast<const S*>(v.data) +
                          seat_.group * v.group)[static_cast<int64_t>(part) * seat_.units + seat_.unit]);
        },
        true);
  }

  __device__ __forceinline__ C store(int stream, C v, int part = 0) {
    const S rounded = narrowed<S>(v);
    if constexpr (kTurn == Turn::run) {
      own_.written[next_stored_++] = rounded;
      if (part == 0) own_.remember(stream, widened(rounded));
    } else if constexpr (kTurn == Turn::write) {
      write_if(is_present(stream), values(position_.now, stream, part), own_.written[next_stored_++]);
    }
    return widened(rounded);
  }

  __device__ __forceinline__ void put(int operand, C v, int part = 0) {
    if constexpr (kTurn == Turn::run) own_.put(operand, v, part);
  }
  __device__ __forceinline__ C carry(int i) const { return own_.carry(i); }
  __device__ __forceinline__ void keep(int i, C v) {
    if constexpr (kTurn == Turn::run) own_.keep(i, v);
  }

  __device__ __forceinline__ void record(C v) {
    static_assert(Phase::kRecords);
    if constexpr (kTurn == Turn::run) own_.recorded = v * v;
    if constexpr (kTurn == Turn::write) write_if(own_.has_computed, computed(0), own_.recorded);
  }
  __device__ __forceinline__ bool relu() const { return own_.relu; }
  __device__ __forceinline__ C clipped(C v) const {
    v = v > own_.clip ? own_.clip : v;
    return v < -own_.clip ? -own_.clip : v;
  }

  __device__ __forceinline__ Scalar units() const { return static_cast<Scalar>(seat_.units); }
  __device__ __forceinline__ static C tanh(C v) { return tanh_of(v); }
  __device__ __forceinline__ static C sigmoid(C v) { return sigmoid_of(v); }
  __device__ __forceinline__ static C sqrt(C v) { return ::sqrt(v); }

 private:
  // Cells read in the same order at each step, so a count tells which value is which; it is known to the
  // compiler, and fetched values are in registers.
  __device__ __forceinline__ C read(bool condition, int position, int stream, int part) {
    if constexpr (kTurn == Turn::fetch)
      fetched_->values[next_++] = read_if(condition && position_.active, values(position, stream, part));
    return kTurn == Turn::run ? widened(fetched_->values[next_++]) : C(0);
  }
  // Likewise for what is read once; zero at steps where it does not matter.
  template <class Read>
  __device__ __forceinline__ C parameter(const Read& from_memory, bool matters) {
    if constexpr (kTurn == Turn::once) own_.parameters[next_parameter_++] = from_memory();
    if constexpr (kTurn != Turn::run) return C(0);
    const C v = own_.parameters[next_parameter_++];
    return matters ? v : C(0);
  }

  __device__ __forceinline__ bool is_present(int stream) const { return own_.present >> stream & 1; }
  __device__ __forceinline__ S* values(int position, int stream, int part) const {
    return reinterpret_cast<S*>(advanced(seat_.streams[stream], position, strides_.bytes[stream])) +
           part * seat_.units;
  }
  __device__ __forceinline__ C* computed(int part) const {
    return reinterpret_cast<C*>(advanced(seat_.computed, position_.now, strides_.computed)) +
           part * seat_.units;
  }
  __device__ __forceinline__ S* at_end(int end) const {
    const End& e = r_.ends[end];
    return static_cast<S*>(e.data) + seat_.group * e.group + seat_.row * e.row + seat_.unit;
  }
  __device__ __forceinline__ C read_end(int end) const {
    return r_.ends[end].data ? widened(*at_end(end)) : C(0);
  }

  const Recurrence& r_;
  const Strides& strides_;
  const Seat<S>& seat_;
  const Position& position_;
  Own& own_;
  Fetched<S>* fetched_;
  int next_ = 0, next_ahead_ = 0, next_parameter_ = 0, next_stored_ = 0, next_left_ = 0;
};

}  // namespace rnnfast
