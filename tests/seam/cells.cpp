// Cells that exist only to prove the seam of csrc/cells/cell.h: one with two matrix phases, one whose units
// are normalised over the row. Both run through the shipped schedules, which know neither.
#include "cpu/split.h"

namespace rnnfast {

// m_t = tanh(x_t + W h_{t-1}), h_t = V m_t: units 0 are those of m, units 1 those of h.
struct Projected {
  struct Forward {
    enum Streams { kX, kM, kY };
    enum Ends { kH0, kHN };
    static constexpr bool kBackward = false;
    static constexpr Operand kOperands[] = {{1, 1, kH0}, {0}};
    static constexpr int kCarries = 0, kNoisyCarries = kCarries;
    struct Inner : Phase {
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        at.put(1, at.store(kM, at.tanh(at.matrix(0) + at.load(kX))));
      }
    };
    struct Projection : Phase {
      static constexpr int kUnits = 1, kMatrix = 1, kOperand = 1;
      static constexpr bool kSameStep = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto h = at.store(kY, at.matrix(0));
        at.put(0, h);
        at.leave(kHN, h);
      }
    };
    using Phases = PhaseList<Inner, Projection>;
  };

  struct Adjoint {
    enum Streams { kDy, kM, kDh, kDx };
    enum Ends { kDhN };
    static constexpr bool kBackward = true;
    static constexpr Operand kOperands[] = {{0}, {1}};
    static constexpr int kCarries = 0, kNoisyCarries = kCarries;
    struct Outer : Phase {
      static constexpr int kUnits = 1;
      static constexpr bool kTransposed = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto dh = at.matrix(0) + at.load(kDy) + at.entry(kDhN);
        at.store(kDh, dh);
        at.put(1, dh);
      }
    };
    struct Inner : Phase {
      static constexpr int kMatrix = 1, kOperand = 1;
      static constexpr bool kTransposed = true, kSameStep = true;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto m = at.load(kM);
        const auto dx = at.matrix(0) * (1 - m * m);
        at.store(kDx, dx);
        at.put(0, dx);
      }
    };
    using Phases = PhaseList<Outer, Inner>;
  };
};

// a_t = x_t + W h_{t-1}, h_t = tanh(gain a_t / sqrt(mean(a_t^2) + 1e-5)), s_t = h_t (s_{t-1} / 2 + 1). The
// state that is put out is s; what the matrix sees is h.
struct Normalised {
  static constexpr double kEpsilon = 1e-5;

  struct Forward {
    enum Streams { kX, kA, kH, kS };
    enum Ends { kS0, kSN };
    enum Vectors { kGain };
    static constexpr bool kBackward = false;
    static constexpr Operand kOperands[] = {{0}};
    static constexpr int kCarries = 0, kNoisyCarries = kCarries;
    struct Sum : Phase {
      static constexpr int kStatistics = 1;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto a = at.store(kA, at.matrix(0) + at.load(kX));
        at.add(0, a * a + kEpsilon);
      }
    };
    struct Normalise : Phase {
      static constexpr int kColumns = 0;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto scale = 1 / at.sqrt(at.sum(0) / at.units());
        const auto h = at.store(kH, at.tanh(at.vector(kGain) * at.load(kA) * scale));
        const auto s = at.store(kS, h * ((at.previous(kS) + at.entry(kS0)) / 2 + 1));
        at.leave(kSN, s);
        at.put(0, h);
      }
    };
    using Phases = PhaseList<Sum, Normalise>;
  };

  struct Adjoint {
    enum Streams { kDs, kA, kH, kS, kDx };
    enum Ends { kDsN, kS0, kDs0 };
    enum Vectors { kGain };
    static constexpr bool kBackward = true;
    static constexpr Operand kOperands[] = {{0}};
    enum Carries { kState, kScaled };
    static constexpr int kCarries = 2, kNoisyCarries = kCarries;
    struct Sum : Phase {
      static constexpr bool kTransposed = true;
      static constexpr int kStatistics = 2;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto ds = at.load(kDs) + at.carry(kState) + at.entry(kDsN);
        const auto h = at.load(kH), a = at.load(kA), before = at.following(kS) + at.exit(kS0);
        const auto dbefore = ds * h / 2;
        at.keep(kState, dbefore);
        at.leave(kDs0, dbefore);
        const auto dh = ds * (before / 2 + 1) + at.matrix(0);
        const auto dscaled = dh * (1 - h * h) * at.vector(kGain);
        at.keep(kScaled, dscaled);
        at.add(0, a * a + kEpsilon);
        at.add(1, dscaled * a);
      }
    };
    struct Normalise : Phase {
      static constexpr int kColumns = 0;
      template <class At>
      static RNNFAST_INLINE void run(At& at) {
        const auto square = 1 / (at.sum(0) / at.units()), scale = at.sqrt(square);
        const auto dx = scale * (at.carry(kScaled) - at.load(kA) * square * at.sum(1) / at.units());
        at.store(kDx, dx);
        at.put(0, dx);
      }
    };
    using Phases = PhaseList<Sum, Normalise>;
  };
};

}  // namespace rnnfast

using namespace rnnfast;

// All arrays are contiguous float64: streams (T, B, G, width) or packed (N, G, width), ends (G, B, width).
extern "C" __attribute__((visibility("default"))) void run_test_cell(
    int cell, int backward, int64_t T, int64_t B, int64_t G, const int64_t* units, int direction,
    const int64_t* counts, const int64_t* offsets, int streams, double* const* stream_data,
    const int64_t* widths, int ends, double* const* end_data, int64_t end_width,
    const double* const* matrix_data, const int64_t* matrix_sizes, const double* vector, int workers,
    int crew, int in_place) {
  Recurrence r;
  r.T = T, r.B = B, r.G = G, r.direction = static_cast<Direction>(direction);
  r.counts = counts, r.offsets = offsets;
  for (int i = 0; i < kMaxUnitSets; ++i) r.units[i] = units[i];
  for (int i = 0; i < streams; ++i)
    r.streams[i] = {stream_data[i], widths[i], B * G * widths[i], G * widths[i]};
  for (int i = 0; i < ends; ++i) r.ends[i] = {end_data[i], B * end_width, end_width};
  for (int i = 0; i < kMaxMatrices; ++i) {
    const int64_t rows = matrix_sizes[2 * i], columns = matrix_sizes[2 * i + 1];
    r.matrices[i] = {matrix_data[i], rows * columns, columns, rows, columns};
  }
  if (vector) r.vectors[0] = {vector, units[0]};
  const auto run = [&](auto pass) { Split<decltype(pass), double>(r, workers, crew, in_place).run(); };
  if (cell == 0) {
    backward ? run(Projected::Adjoint{}) : run(Projected::Forward{});
  } else {
    backward ? run(Normalised::Adjoint{}) : run(Normalised::Forward{});
  }
}
