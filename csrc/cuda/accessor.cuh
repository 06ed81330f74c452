// What a cell sees of its surroundings on a GPU: the accessor of cells/cell.h for one unit of one row.
#pragma once

#include "../cells/cell.h"
#include "../philox.h"
#include "../recurrence.h"
#include "values.cuh"

namespace rnnfast {

// A step of a group, in order of processing.
struct Step {
  enum Which { kNow, kBefore, kAfter };
  int64_t t[3];               // this step in time, the one before and the one after in order of processing
  int64_t offset[3];          // of their first rows, if streams are packed
  int64_t end;                // rows before it are active
  int64_t entering, leaving;  // rows from these on enter at this step, leave after it
};

// descending: steps are taken against time. counts and offsets must be where this runs.
RNNFAST_INLINE Step step_of(const Recurrence& r, bool descending, int64_t step) {
  const int64_t t = descending ? r.T - 1 - step : step, forth = descending ? -1 : 1;
  const bool first = step == 0, last = step == r.T - 1;
  // Any step in place of those that there are not.
  const int64_t before = first ? t : t - forth, after = last ? t : t + forth;
  Step s{{t, before, after}, {}, r.B, r.B, r.B};
  if (r.counts) {
    const int64_t end = r.counts[t], end_before = r.counts[before], end_after = r.counts[after];
    s.end = end;
    s.entering = end_before < end ? end_before : end;
    s.leaving = end_after < end ? end_after : end;
  }
  for (int i = 0; i < 3 && r.offsets; ++i) s.offset[i] = r.offsets[s.t[i]];
  if (first) s.entering = 0;
  if (last) s.leaving = 0;
  return s;
}

// A group at a step: its streams, null where absent, and which rows enter and leave.
struct Window {
  char* streams[3][kMaxStreams];
  // In the dtype that values are computed in: what was computed ahead of a phase's steps (Phase::kAhead), or
  // the squares of what it records (Phase::kRecords).
  char* computed;
  int64_t rows[kMaxStreams], computed_row;
  int64_t entering, leaving;  // rows from these on

  __device__ __forceinline__ Window(const Recurrence& r, const Stream& computed_stream, const Step& step,
                                    int64_t group, int value_bytes, int computed_bytes)
      : entering(step.entering), leaving(step.leaving) {
#pragma unroll
    for (int i = 0; i < kMaxStreams; ++i) {
#pragma unroll
      for (int which = 0; which < 3; ++which)
        streams[which][i] = place(r, r.streams[i], step, which, group, value_bytes);
      rows[i] = r.streams[i].row;
    }
    computed = place(r, computed_stream, step, Step::kNow, group, computed_bytes);
    computed_row = computed_stream.row;
  }

 private:
  __device__ __forceinline__ static char* place(const Recurrence& r, const Stream& s, const Step& step,
                                                int which, int64_t group, int bytes) {
    if (!s.data) return nullptr;
    const int64_t of_step = r.offsets ? step.offset[which] * s.row : step.t[which] * s.step;
    return static_cast<char*>(s.data) + (group * s.group + of_step) * bytes;
  }
};

template <class Phase, class S, class Own>
class Accessor {
  using C = Compute<S>;

 public:
  using Value = C;
  using Scalar = C;
  static constexpr bool kNoisy = Own::kNoisy;

  // Own is what the schedule keeps for a unit of a row:
  //
  //   kNoisy                      whether there is noise
  //   time()                      the step in time; where there is noise
  //   matrix(gate)                the result of the phase's matrix
  //   put(operand, v, unit, part) hands v to matrices
  //   carry(i), keep(i, v)
  //   add(i, v), sum(i)           where the phase has statistics, or the one before
  __device__ __forceinline__ Accessor(const Recurrence& r, const Window& window, int64_t group, int64_t row,
                                      int64_t unit, Own& own)
      : r_(r),
        window_(window),
        group_(group),
        row_(row),
        unit_(unit),
        units_(r.units[Phase::kUnits]),
        own_(own),
        entering_(row >= window.entering),
        leaving_(row >= window.leaving) {}

  __device__ __forceinline__ C matrix(int gate) const { return own_.matrix(gate); }

  __device__ __forceinline__ C load(int stream, int part = 0) {
    if (stream == Phase::kAhead.stream && window_.computed)
      return reinterpret_cast<const C*>(window_.computed)[offset(window_.computed_row, part)];
    return read_stream(Step::kNow, stream, part);
  }

  __device__ __forceinline__ C previous(int stream) {
    return entering_ ? C(0) : read_stream(Step::kBefore, stream, 0);
  }

  __device__ __forceinline__ C following(int stream, int part = 0) {
    return leaving_ ? C(0) : read_stream(Step::kAfter, stream, part);
  }

  __device__ __forceinline__ C entry(int end) { return entering_ ? read_end(end) : C(0); }
  __device__ __forceinline__ C exit(int end) { return leaving_ ? read_end(end) : C(0); }

  __device__ __forceinline__ void leave(int end, C v) {
    if (leaving_ && r_.ends[end].data) *at_end(end) = narrowed<S>(v);
  }

  __device__ __forceinline__ C vector(int i, int part = 0) const {
    const Vector& v = r_.vectors[i];
    if (!v.data) return C(0);
    return widened((static_cast<const S*>(v.data) + group_ * v.group)[part * units_ + unit_]);
  }

  __device__ __forceinline__ C store(int stream, C v, int part = 0) {
    const S rounded = narrowed<S>(v);
    char* to = window_.streams[Step::kNow][stream];
    if (to) reinterpret_cast<S*>(to)[offset(window_.rows[stream], part)] = rounded;
    return widened(rounded);
  }

  __device__ __forceinline__ void put(int operand, C v, int part = 0) { own_.put(operand, v, unit_, part); }

  __device__ __forceinline__ C carry(int i) const { return own_.carry(i); }
  __device__ __forceinline__ void keep(int i, C v) { own_.keep(i, v); }

  __device__ __forceinline__ void add(int i, C v) { own_.add(i, v); }
  __device__ __forceinline__ C sum(int i) const { return own_.sum(i); }
  __device__ __forceinline__ C load_row(int stream, int part) const {
    const char* from = window_.streams[Step::kNow][stream];
    return from ? widened(reinterpret_cast<const S*>(from)[row_ * window_.rows[stream] + part]) : C(0);
  }
  __device__ __forceinline__ void store_row(int stream, C v, int part) const {
    char* to = window_.streams[Step::kNow][stream];
    if (to && unit_ == 0) reinterpret_cast<S*>(to)[row_ * window_.rows[stream] + part] = narrowed<S>(v);
  }

  __device__ __forceinline__ void record(C v) {
    static_assert(Phase::kRecords);
    if (window_.computed) reinterpret_cast<C*>(window_.computed)[offset(window_.computed_row, 0)] = v * v;
  }

  __device__ __forceinline__ bool relu() const { return r_.relu; }
  __device__ __forceinline__ C clipped(C v) const {
    const C most = static_cast<C>(r_.clip);
    v = v > most ? most : v;
    return v < -most ? -most : v;
  }

  __device__ __forceinline__ C dropout() const {
    const Noise& noise = r_.noise;
    if (!noise.seed || noise.dropout <= 0) return C(1);
    return random(kAllSteps).first < threshold(noise.dropout) ? C(0)
                                                              : static_cast<C>(1 / (1 - noise.dropout));
  }

  __device__ __forceinline__ Kept<C> kept() const {
    const Noise& noise = r_.noise;
    if (!noise.seed) return {static_cast<C>(noise.zoneout_h), static_cast<C>(noise.zoneout_c)};
    const Bits bits = random(place_of_step(noise.seed, own_.time()));
    return {C(bits.first < threshold(noise.zoneout_h)), C(bits.second < threshold(noise.zoneout_c))};
  }

  __device__ __forceinline__ Scalar units() const { return static_cast<Scalar>(units_); }
  __device__ __forceinline__ static C tanh(C v) { return tanh_of(v); }
  __device__ __forceinline__ static C sigmoid(C v) { return sigmoid_of(v); }
  __device__ __forceinline__ static C sqrt(C v) { return ::sqrt(v); }

 private:
  struct Bits {
    uint32_t first, second;
  };

  // The upper 24 bits of two random words (philox.h).
  __device__ __forceinline__ Bits random(uint32_t step) const {
    const uint64_t key = static_cast<uint64_t>(r_.noise.seed[0]);
    uint64_t c[4] = {static_cast<uint32_t>(unit_), static_cast<uint32_t>(row_), step,
                     place_of_group(r_.noise.seed, group_)};
    philox(c, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32),
           [](uint64_t a, uint32_t m) { return static_cast<uint64_t>(static_cast<uint32_t>(a)) * m; });
    return {static_cast<uint32_t>(c[0]) >> 8, static_cast<uint32_t>(c[1]) >> 8};
  }

  __device__ __forceinline__ int64_t offset(int64_t row_length, int part) const {
    return row_ * row_length + part * units_ + unit_;
  }

  __device__ __forceinline__ C read_stream(int which, int stream, int part) const {
    const char* from = window_.streams[which][stream];
    return from ? widened(reinterpret_cast<const S*>(from)[offset(window_.rows[stream], part)]) : C(0);
  }

  __device__ __forceinline__ S* at_end(int end) const {
    const End& e = r_.ends[end];
    return static_cast<S*>(e.data) + group_ * e.group + row_ * e.row + unit_;
  }
  __device__ __forceinline__ C read_end(int end) const {
    return r_.ends[end].data ? widened(*at_end(end)) : C(0);
  }

  const Recurrence& r_;
  const Window& window_;
  const int64_t group_;
  const int64_t row_, unit_, units_;
  Own& own_;
  const bool entering_, leaving_;
};

}  // namespace rnnfast
