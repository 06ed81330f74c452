// All steps in a launch, by crews: the blocks of a crew own rows of one group, which never wait for those of
// other crews, and each member owns some of the units, whose weights it keeps on the chip for all steps. What
// members put for the matrix of the next step goes to those who multiply it.
//
// How it gets there is the Link's business:
//
//   Link(exchange, shape, memory)  `memory`: shared, laid out as crew_shape.h has it
//   rank(), crew()                 this member; the number of the crew in the launch
//   initial()     where the first step's operand is put; null: it is zero
//   slice(n)      where this member's slice of the operand after the n-th step's is put
//   ready()       before the first step: what was put before is seen by all threads
//   await(n)      the operand of the n-th step, all of it
//   publish(n)    hands slice(n) on: all threads have put it, and none reads the n-th step's operand any more
//   leave()       after the last step
//
// and what is multiplied before or after it gets there that of the Passing, which has a Link:
//
//   receive(n, results)  the results of the thread's unit at the n-th step
//   send(n)              what was put at the n-th step, for the next one: by all threads, that have put it
#pragma once

#include "../cells/phase_list.h"
#include "crew_accessor.cuh"
#include "crew_products.cuh"
#include "kernels.h"

namespace rnnfast::cuda {

template <class Pass>
using OnlyPhase = decltype(phase_at<0>(typename Pass::Phases{}));

template <class Shape>
struct CrewArguments {
  Recurrence recurrence;  // counts and offsets on the GPU
  Stream computed;
  Strides strides;
  Shape shape;
  Exchange exchange;
  int crews_of_group, first_crew;  // crews are numbered group by group; the first one of the launch
};

// What a thread keeps for its unit of a row.
template <class Pass, class S, class Product>
struct CrewOwn {
  using C = Compute<S>;
  static constexpr int kParts = Pass::kOperands[0].parts;

  typename Product::Operand* slice;  // of the next operand
  int places[kParts];                // in it, of the unit's parts
  C clip;
  int present;  // a bit for each stream that there is
  bool has_computed, relu;
  C parameters[kMaxParameters] = {};
  C results[OnlyPhase<Pass>::kColumns];
  C carries[Pass::kCarries > 0 ? Pass::kCarries : 1] = {};
  C stored[kMaxStreams] = {};
  // At a step, and not yet to memory.
  S written[kMaxStored] = {};
  C left[kMaxLeft] = {}, recorded = 0;

  // Of the unit `local` of a member's `units`, in slices whose chunks of rows are so far apart.
  __device__ __forceinline__ void find_places(int local, int units, int row, int chunk_stride) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int k = part * units + local;
      places[part] = opaque(k / Product::kChunk * chunk_stride + row * Product::kChunk + k % Product::kChunk);
    }
  }
  __device__ __forceinline__ C matrix(int gate) const { return results[gate]; }
  __device__ __forceinline__ void put(int, C v, int part) { slice[places[part]] = Product::as_operand(v); }
  __device__ __forceinline__ C carry(int i) const { return carries[i]; }
  __device__ __forceinline__ void keep(int i, C v) { carries[i] = v; }
  __device__ __forceinline__ C remembered(int stream) const { return stored[stream]; }
  __device__ __forceinline__ void remember(int stream, C v) { stored[stream] = v; }
};

// A range of steps in order of processing.
struct Steps {
  int first, end;
};

// The steps at which a row is active. Counts never grow with time, so these are the first ones in time.
__device__ inline Steps steps_of_row(const Recurrence& r, bool descending, int64_t row) {
  const int all = static_cast<int>(r.T);
  int active = 0, none = row < r.B ? all : 0;
  if (!r.counts) active = none;
  while (active < none) {
    const int middle = active + (none - active) / 2;
    if (r.counts[middle] > row) {
      active = middle + 1;
    } else {
      none = middle;
    }
  }
  return descending ? Steps{all - active, all} : Steps{0, active};
}

// Positions of steps' values in streams; of any step in place of those that there are not.
class Positions {
 public:
  __device__ __forceinline__ Positions(const Recurrence& r, bool descending)
      : offsets_(r.offsets),
        last_(opaque(static_cast<int>(r.T) - 1)),
        first_(opaque(descending ? last_ : 0)),
        apart_(opaque(descending ? -1 : 1)) {}

  __device__ __forceinline__ int of(int step) const {
    const int t = first_ + apart_ * (step < last_ ? step : last_);
    return offsets_ ? static_cast<int>(offsets_[t]) : t;
  }

 private:
  const int64_t* const offsets_;
  const int last_, first_, apart_;
};

// What rows enter with, in all that the member multiplies of the first step's operand, and in both slices:
// rows that have not entered yet hand it on. Zero where there is nothing.
template <class Pass, class S, class Product>
__device__ void put_initial(const Recurrence& r, const CrewShape& shape, int64_t group, int64_t first_row,
                            int rank, typename Product::Operand* operand,
                            typename Product::Operand* const (&slices)[2]) {
  constexpr Operand kind = Pass::kOperands[0];
  constexpr int kChunk = Product::kChunk;
  const int64_t units = r.units[kind.units];
  End initial;
  if constexpr (kind.initial >= 0) initial = r.ends[kind.initial];
  const int slice_size = shape.slice_chunks * shape.rows * kChunk;
  for (int i = static_cast<int>(threadIdx.x); i < shape.crew / shape.peers * slice_size;
       i += static_cast<int>(blockDim.x)) {
    const int member = i / slice_size * shape.peers + rank % shape.peers, within = i % slice_size;
    const int k = within / (shape.rows * kChunk) * kChunk + within % kChunk;
    const int64_t row = first_row + within / kChunk % shape.rows;
    // Operands with an initial value have one part.
    const int64_t unit = static_cast<int64_t>(member) * shape.units + k;
    Compute<S> v = 0;
    if (initial.data && row < r.B && k < shape.units && unit < units)
      v = widened(static_cast<const S*>(initial.data)[group * initial.group + row * initial.row + unit]);
    if (operand) operand[i] = Product::as_operand(v);
    if (member == rank)
      for (auto* slice : slices) slice[within] = Product::as_operand(v);
  }
}

// Members multiply the whole operand, for their own units.
template <class L, class Product>
class Gather {
 public:
  using Link = L;

  __device__ __forceinline__ Gather(const Link& link, const Product& product)
      : link_(link), product_(product) {}

  template <class Results>
  __device__ __forceinline__ void receive(int n, Results& results) const {
    const auto* operand = static_cast<const typename Product::Operand*>(link_.await(n));
    sync_warp();  // lanes may have fetched and waited each for itself
    product_.multiply(operand, results);
  }
  __device__ __forceinline__ void send(int n) const {
    sync_block();
    link_.publish(n);
  }

 private:
  const Link& link_;
  const Product& product_;
};

template <class Pass, class S, class Product, class Passing>
__device__ __forceinline__ void run_crew(const CrewArguments<typename Product::Shape>& a) {
  using Phase = OnlyPhase<Pass>;
  using C = Compute<S>;
  using Own = CrewOwn<Pass, S, Product>;
  static_assert(Phase::kStatistics == 0 && !Phase::kSameStep && Phase::kColumns > 0);
  static_assert(Pass::kOperands[0].initial < 0 || Pass::kOperands[0].parts == 1);
  const Recurrence& r = a.recurrence;
  const auto& shape = a.shape;
  auto* memory = static_cast<unsigned char*>(shared_memory());

  const typename Passing::Link link(a.exchange, shape, memory);
  if (threadIdx.x < (CrewShape::kOperandsAt - CrewShape::kZerosAt) / sizeof(C))
    reinterpret_cast<C*>(memory + CrewShape::kZerosAt)[threadIdx.x] = 0;
  const int rank = link.rank(), first_unit = rank * shape.units;
  const int crew = a.first_crew + link.crew();
  const int64_t group = crew / a.crews_of_group;
  const int64_t first_row = static_cast<int64_t>(crew % a.crews_of_group) * shape.rows;
  const int units = static_cast<int>(r.units[Phase::kUnits]);
  using Operand = typename Product::Operand;
  put_initial<Pass, S, Product>(r, shape, group, first_row, rank, static_cast<Operand*>(link.initial()),
                                {static_cast<Operand*>(link.slice(0)), static_cast<Operand*>(link.slice(1))});
  const Product product(shape, r.matrices[Phase::kMatrix], group, units, rank, memory);

  const Passing passing(link, product);

  const bool descending = is_reversed(r.direction, group) != Pass::kBackward;
  const CrewSeat seat_of_crew = Product::seat(shape);
  const int row = seat_of_crew.row, unit = first_unit + seat_of_crew.local;
  const bool exists = row < shape.rows && first_row + row < r.B && unit < units;
  const Seat<S> seat(r, a.computed, group, first_row + row, unit, units);
  const Steps own_steps = exists ? steps_of_row(r, descending, first_row + row) : Steps{0, 0};
  Own own;
  own.find_places(seat_of_crew.local, shape.units, row, shape.rows * Product::kChunk);
  own.clip = static_cast<C>(r.clip), own.has_computed = opaque(a.computed.data != nullptr);
  own.present = opaque(static_cast<int>(a.strides.present)), own.relu = opaque(r.relu);
  if (exists) {
    const Position nowhere = {};
    CrewAccessor<Phase, S, Own, Turn::once> at(r, a.strides, seat, nowhere, own, nullptr);
    Phase::run(at);
  }
  link.ready();

  // The same for all members, which have the same rows: all of them take part in the same steps. The first
  // row of a crew is active whenever another is.
  const Steps steps = steps_of_row(r, descending, first_row);
  const auto is_active = [&](int step) { return step >= own_steps.first && step < own_steps.end; };
  const auto position = [&](int step, int now, int after) {
    return Position{now, after, is_active(step), step == own_steps.first, step == own_steps.end - 1};
  };
  const auto fetch = [&](int step, int now, int after, Fetched<S>& values) {
    const Position at_step = position(step, now, after);
    CrewAccessor<Phase, S, Own, Turn::fetch> at(r, a.strides, seat, at_step, own, &values);
    Phase::run(at);
  };

  const Positions positions(r, descending);
  int now = positions.of(steps.first), next = positions.of(steps.first + 1);
  Fetched<S> values;
  fetch(steps.first, now, next, values);
  for (int i = steps.first; i < steps.end; ++i) {
    const int n = i - steps.first;
    // Memory answers while members wait for each other and multiply, at this step and the next.
    const int after_next = positions.of(i + 2);
    Fetched<S> next_values;
    fetch(i + 1, next, after_next, next_values);
    passing.receive(n, own.results);
    if (is_active(i)) {
      own.slice = static_cast<Operand*>(link.slice(n));
      const Position at_step = position(i, now, next);
      CrewAccessor<Phase, S, Own, Turn::run> at(r, a.strides, seat, at_step, own, &values);
      Phase::run(at);
    }
    if (i + 1 < steps.end) passing.send(n);
    // Nobody waits for what goes to memory.
    if (is_active(i)) {
      const Position at_step = position(i, now, next);
      CrewAccessor<Phase, S, Own, Turn::write> at(r, a.strides, seat, at_step, own, nullptr);
      Phase::run(at);
    }
    values = next_values;
    now = next, next = after_next;
  }
  if (own_steps.first < own_steps.end) {
    const Position nowhere = {};
    CrewAccessor<Phase, S, Own, Turn::leave> at(r, a.strides, seat, nowhere, own, nullptr);
    Phase::run(at);
  }
  link.leave();
}

// How: the members' Passing, if there is such a thing on the GPU that is compiled for.
template <class Pass, class S, class Product, class How>
__global__ void __launch_bounds__(CrewShape::kThreads, 1)
    crew_kernel(const __grid_constant__ CrewArguments<typename Product::Shape> a) {
  if constexpr (How::kExists) run_crew<Pass, S, Product, typename How::template Passing<S, Product>>(a);
}

template <class Pass, class S, class Product, class How>
cudaError_t launch_crew(const Run& run, const CudaPlan& plan) {
  using Phase = OnlyPhase<Pass>;
  using Shape = typename Product::Shape;
  constexpr Operand operand = Pass::kOperands[0];
  constexpr int ahead = Phase::kAhead.stream;
  const Recurrence& r = run.recurrence;
  const PhaseSize sizes{Phase::kColumns, r.units[Phase::kUnits], operand.parts * r.units[operand.units]};
  const Shape shape(sizes, {plan.schedule, plan.crew, plan.cluster, plan.rows},
                    sizeof(typename Product::Operand));
  // What is given of what could be computed ahead is as good, if its dtype is.
  Stream computed = run.computed;
  if constexpr (ahead >= 0 && sizeof(S) == sizeof(Compute<S>))
    if (!computed.data) computed = r.streams[ahead];
  const auto strides = Strides::of(r, computed, sizeof(S), sizeof(Compute<S>));
  const int64_t of_group = ceil_div(r.B, int64_t{shape.rows}), crews = of_group * r.G,
                at_once = ceil_div(crews, plan.launches);
  CrewArguments<Shape> a{r, computed, strides, shape, run.exchange, static_cast<int>(of_group), 0};
  a.recurrence.counts = run.counts, a.recurrence.offsets = run.offsets;
  for (int64_t first = 0; first < crews; first += at_once) {
    a.first_crew = static_cast<int>(first);
    const dim3 blocks(static_cast<unsigned>(std::min(at_once, crews - first) * shape.crew));
    const cudaError_t error =
        launch(crew_kernel<Pass, S, Product, How>, blocks, CrewShape::kThreads, shape.shared, run.stream, a,
               {plan.cluster, plan.schedule == CudaSchedule::grid});
    if (error != cudaSuccess) return error;
    a.exchange.marks += static_cast<uint32_t>(r.T);
  }
  return cudaSuccess;
}

}  // namespace rnnfast::cuda
