// What a cell sees of its surroundings on a CPU: the accessor of cells/cell.h for one vector of units of one
// row, and the state that a run of rows has at a step.
#pragma once

#include <cmath>

#include "../cells/cell.h"
#include "noise.h"
#include "packing.h"
#include "vec_math.h"

namespace rnnfast {

// What a phase has computed ahead (ahead.h), for a chunk of steps: results by panel, and in a panel by step,
// in order of time, and row.
template <class S>
struct Chunk {
  using C = Compute<S>;
  C* results;  // null: nothing is computed ahead
  C* input;    // room for the chunk's input in the dtype that matrices multiply; null: it is multiplied as it
               // lies
  int64_t steps, rows;
  const int64_t* place;  // of a step's first row, counted from the first step of all
  int64_t now;           // the same, counted from the chunk's first step, for the step that is being taken
};

// Rows row_begin .. row_end-1 of one group, at one step. Pointers are to the row that the batch calls 0,
// except in buffers, whose row 0 is row_begin. Workers that share rows have a copy each, with the same
// buffers but sums of their own.
template <class S>
struct Rows {
  using C = Compute<S>;

  const Recurrence* recurrence;
  int64_t group, row_begin, row_end;

  int64_t step, time;  // counted in order of processing, and in time

  // The first `streams` streams at this step, at the step before and at the step after in processing order.
  int streams;
  S* now[kMaxStreams];
  const S* before[kMaxStreams];
  const S* after[kMaxStreams];
  int64_t end;                // active rows are those before it
  int64_t entering, leaving;  // rows from these on enter at this step, leave after it

  // Operand i as matrices see it ([0]: put at the step before, [1]: put at this step), the two buffers that
  // take these places in turn, and their row stride.
  C* operands[kMaxOperands][2];
  C* buffers[kMaxOperands][2];
  int64_t operand_stride[kMaxOperands];
  C* carries[kMaxCarries];
  int64_t carry_stride;
  // Partial sums, a vector for each (statistic, row, panel): of this phase, and in another buffer of the one
  // before; and the row sums of the one before.
  C* partials[2];
  C* partial_buffers[2];
  int64_t partial_panels;
  C* sums[kMaxStatistics];
  // Sums of squares of what a cell records, one for each place in Recurrence::norms and panel; null: none are
  // wanted. And those of this step, from the row that the batch calls 0.
  C *recorded, *recorded_now;
  int64_t recorded_panels;
  // Room for Weights::prepare: of each member of the crew, and of the one who works.
  C *rooms, *room;
  int64_t room_size;
  Chunk<S> chunk;

  int64_t rows() const { return row_end - row_begin; }
};

template <class Phase, class S, bool kWhole, bool kNoise>
class Accessor {
  using C = Compute<S>;
  static constexpr int VL = kLanes<S>;

 public:
  using Value = Vec<C>;
  using Scalar = C;
  static constexpr bool kNoisy = kNoise;

  // `lanes` units from `unit` on, of batch row `row`; `matrix`: the phase's result for them, by gates, and
  // `ahead`: what was computed ahead, if anything. `squares`: where those of what is recorded are added.
  Accessor(const Rows<S>& rows, const C* matrix, const C* ahead, C* squares, int64_t row, int64_t units,
           int64_t unit, int64_t panel, int lanes)
      : rows_(rows),
        matrix_(matrix),
        ahead_(ahead),
        squares_(squares),
        row_(row),
        own_row_(row - rows.row_begin),
        stream_row_(rows.recurrence->origin(row)),
        units_(units),
        unit_(unit),
        panel_(panel),
        lanes_(lanes),
        entering_(row >= rows.entering),
        leaving_(row >= rows.leaving) {}

  Value matrix(int gate) const { return rnnfast::load(matrix_ + gate * VL); }

  Value load(int stream, int part = 0) const {
    if (stream == Phase::kAhead.stream && ahead_) return rnnfast::load(ahead_ + part * VL);
    return read(rows_.now[stream], stream, part);
  }

  Value previous(int stream, int part = 0) const {
    return entering_ ? Value{} : read(rows_.before[stream], stream, part);
  }

  Value following(int stream, int part = 0) const {
    return leaving_ ? Value{} : read(rows_.after[stream], stream, part);
  }

  Value entry(int end) const { return entering_ ? read_end(end) : Value{}; }
  Value exit(int end) const { return leaving_ ? read_end(end) : Value{}; }

  void leave(int end, Value v) {
    if (leaving_ && rows_.recurrence->ends[end].data) write_units(at_end(end), v);
  }

  Value vector(int i, int part = 0) const {
    const Vector& v = rows_.recurrence->vectors[i];
    if (!v.data) return Value{};
    return read_units(static_cast<const S*>(v.data) + rows_.group * v.group + part * units_ + unit_);
  }

  Value store(int stream, Value v, int part = 0) {
    S* p = rows_.now[stream];
    if (p) {
      write_units(p + stream_row_ * rows_.recurrence->streams[stream].row + part * units_ + unit_, v);
    }
    return rounded<S>(v);
  }

  Value load_row(int stream, int part) const {
    const S* p = rows_.now[stream];
    return p ? broadcast<S>(to_float(p[stream_row_ * rows_.recurrence->streams[stream].row + part]))
             : Value{};
  }

  void store_row(int stream, Value v, int part) {
    S* p = rows_.now[stream];
    if (p && unit_ == 0) rnnfast::store(p + stream_row_ * rows_.recurrence->streams[stream].row + part, v, 1);
  }

  void put(int operand, Value v, int part = 0) {
    write_units(rows_.operands[operand][1] + own_row_ * rows_.operand_stride[operand] + part * units_ + unit_,
                v);
  }

  Value carry(int i) const { return rnnfast::load(carried(i)); }
  void keep(int i, Value v) { rnnfast::store(carried(i), v); }

  void add(int i, Value v) {
    add_to(rows_.partials[0] + ((i * rows_.rows() + own_row_) * rows_.partial_panels + panel_) * VL, v);
  }

  void record(Value v) {
    static_assert(Phase::kRecords);
    if (rows_.recorded) add_to(squares_, v * v);
  }

  Value clipped(Value v) const {
    const Value most = broadcast<S>(static_cast<C>(rows_.recurrence->clip));
    v = v > most ? most : v;
    return v < -most ? -most : v;
  }

  Value dropout() const { return dropout_factor<S>(rows_.recurrence->noise, unit_, row_, rows_.group); }
  Kept<Value> kept() const {
    return kept_shares<S>(rows_.recurrence->noise, unit_, row_, rows_.time, rows_.group);
  }

  Value sum(int i) const { return broadcast<S>(rows_.sums[i][own_row_]); }

  Scalar units() const { return static_cast<Scalar>(units_); }

  // Inlined wherever they are called: a call would have all vector registers stored and read again.
  static RNNFAST_INLINE Value tanh(Value v) { return rnnfast::tanh(v); }
  static RNNFAST_INLINE Value sigmoid(Value v) { return rnnfast::sigmoid(v); }

  static Value sqrt(Value v) {
    for (int lane = 0; lane < VL; ++lane) v[lane] = std::sqrt(v[lane]);
    return v;
  }

 private:
  // The lanes that are units.
  void add_to(C* p, Value v) const {
    if constexpr (!kWhole) {
      for (int lane = lanes_; lane < VL; ++lane) v[lane] = 0;
    }
    rnnfast::store(p, rnnfast::load(p) + v);
  }

  Value read(const S* base, int stream, int part) const {
    if (!base) return Value{};
    return read_units(base + stream_row_ * rows_.recurrence->streams[stream].row + part * units_ + unit_);
  }

  Value read_units(const S* p) const {
    if constexpr (kWhole) {
      return rnnfast::load(p);
    } else {
      return rnnfast::load(p, lanes_);
    }
  }

  template <class T>
  void write_units(T* p, Value v) {
    if constexpr (kWhole) {
      rnnfast::store(p, v);
    } else {
      rnnfast::store(p, v, lanes_);
    }
  }

  S* at_end(int end) const {
    const End& e = rows_.recurrence->ends[end];
    return static_cast<S*>(e.data) + rows_.group * e.group + row_ * e.row + unit_;
  }

  Value read_end(int end) const {
    return rows_.recurrence->ends[end].data ? read_units(at_end(end)) : Value{};
  }

  C* carried(int i) const { return rows_.carries[i] + own_row_ * rows_.carry_stride + unit_; }

  const Rows<S>& rows_;
  const C *matrix_, *ahead_;
  C* squares_;
  int64_t row_, own_row_, stream_row_, units_, unit_, panel_;
  int lanes_;
  bool entering_, leaving_;
};

}  // namespace rnnfast
