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
  int now, after;          // of the step, and of the step after in order of processing
  bool entering, leaving;  // whether the row does
};

// Values that do not change from step to step; values that a cell reads from memory, and stores, at a step.
constexpr int kMaxParameters = 4, kMaxFetched = 12, kMaxStored = 8;

enum class Turn {
  once,   // before all steps: reads parameters, and does nothing else
  fetch,  // reads what a step needs from memory, and does nothing else
  run,    // has it from accessors that did so, and keeps what it stores in streams
  write   // writes this to memory, and does nothing else
};

// Own: what the schedule keeps, as an Accessor has it.
template <class Phase, class S, class Own, Turn kTurn>
class CrewAccessor {
  using C = Compute<S>;

 public:
  using Value = C;
  using Scalar = C;
  static constexpr bool kNoisy = false;

  __device__ __forceinline__ CrewAccessor(const Recurrence& r, const Strides& strides, const Seat<S>& seat,
                                          const Position& position, Own& own, C* fetched)
      : r_(r), strides_(strides), seat_(seat), position_(position), own_(own), fetched_(fetched) {}

  __device__ __forceinline__ C matrix(int gate) const {
    return kTurn == Turn::run ? own_.matrix(gate) : C(0);
  }

  __device__ __forceinline__ C load(int stream, int part = 0) {
    return read([&] {
      if (stream == Phase::kAhead.stream && has_computed())
        return reinterpret_cast<const C*>(computed())[part * seat_.units];
      return read_stream(position_.now, stream, part);
    });
  }
  __device__ __forceinline__ C previous(int stream) {
    return kTurn != Turn::run || position_.entering ? C(0) : own_.remembered(stream);
  }
  __device__ __forceinline__ C following(int stream, int part = 0) {
    return read([&] { return position_.leaving ? C(0) : read_stream(position_.after, stream, part); });
  }
  __device__ __forceinline__ C entry(int end) {
    return read([&] { return position_.entering ? read_end(end) : C(0); });
  }
  __device__ __forceinline__ C exit(int end) {
    return read([&] { return position_.leaving ? read_end(end) : C(0); });
  }
  __device__ __forceinline__ void leave(int end, C v) {
    if (kTurn == Turn::run && position_.leaving && r_.ends[end].data) *at_end(end) = narrowed<S>(v);
  }

  __device__ __forceinline__ C vector(int i, int part = 0) {
    if constexpr (kTurn == Turn::once) {
      const Vector& v = r_.vectors[i];
      own_.parameters[next_parameter_++] =
          v.data ? widened((static_cast<const S*>(v.data) +
                            seat_.group * v.group)[static_cast<int64_t>(part) * seat_.units + seat_.unit])
                 : C(0);
      return C(0);
    } else {
      return kTurn == Turn::run ? own_.parameters[next_parameter_++] : C(0);
    }
  }

  __device__ __forceinline__ C store(int stream, C v, int part = 0) {
    const S rounded = narrowed<S>(v);
    if constexpr (kTurn == Turn::run) {
      own_.written[next_stored_++] = rounded;
      if (part == 0) own_.remember(stream, widened(rounded));
    } else if constexpr (kTurn == Turn::write) {
      const S kept = own_.written[next_stored_++];
      if (is_present(stream)) values(position_.now, stream)[part * seat_.units] = kept;
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
    if (kTurn == Turn::run && has_computed()) *reinterpret_cast<C*>(computed()) = v * v;
  }
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
  template <class Read>
  __device__ __forceinline__ C read(const Read& from_memory) {
    if constexpr (kTurn == Turn::once || kTurn == Turn::write) {
      return C(0);
    } else if constexpr (kTurn == Turn::fetch) {
      fetched_[next_++] = from_memory();
      return C(0);
    } else {
      return fetched_[next_++];
    }
  }

  __device__ __forceinline__ bool is_present(int stream) const { return strides_.present >> stream & 1; }
  __device__ __forceinline__ bool has_computed() const { return own_.has_computed; }
  __device__ __forceinline__ S* values(int position, int stream) const {
    return reinterpret_cast<S*>(advanced(seat_.streams[stream], position, strides_.bytes[stream]));
  }
  __device__ __forceinline__ char* computed() const {
    return advanced(seat_.computed, position_.now, strides_.computed);
  }
  __device__ __forceinline__ C read_stream(int position, int stream, int part) const {
    return is_present(stream) ? widened(values(position, stream)[part * seat_.units]) : C(0);
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
  C* fetched_;
  int next_ = 0, next_parameter_ = 0, next_stored_ = 0;
};

}  // namespace rnnfast
