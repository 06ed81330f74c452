// What the passes of the cells need, read off their types.
#include "../cells/elman.h"
#include "../cells/gru.h"
#include "../cells/layer_norm_lstm.h"
#include "../cells/lstm.h"
#include "../cells/phase_list.h"
#include "kernels.h"

namespace rnnfast::cuda {
namespace {

template <class Pass>
PassInfo info_of(bool noisy) {
  PassInfo info;
  static_assert(count_phases(typename Pass::Phases{}) <= kMostPhases && Pass::kNoisyCarries <= kMostCarries);
  info.carries = noisy ? Pass::kNoisyCarries : Pass::kCarries;
  info.statistics = most_statistics(typename Pass::Phases{});
  for (const Operand& operand : Pass::kOperands)
    info.operand[info.operands++] = {operand.units, operand.parts};
  for_each_phase(typename Pass::Phases{}, [&](auto phase, int) {
    using P = decltype(phase);
    info.phase[info.phases++] = {P::kUnits,   P::kColumns,    P::kMatrix,
                                 P::kOperand, P::kTransposed, P::kSameStep};
  });
  return info;
}

template <class Cell>
PassInfo info_of_cell(Pass pass, bool noisy) {
  return pass == Pass::forward ? info_of<typename Cell::Forward>(noisy)
                               : info_of<typename Cell::Adjoint>(noisy);
}

}  // namespace

PassInfo pass_info(Cell cell, Pass pass, bool projected, bool noisy) {
  switch (cell) {
    case Cell::lstm:
      return projected ? info_of_cell<ProjectedLstm>(pass, noisy) : info_of_cell<Lstm>(pass, noisy);
    case Cell::gru:
      return info_of_cell<Gru>(pass, noisy);
    case Cell::layer_norm_lstm:
      return info_of_cell<LayerNormLstm>(pass, noisy);
    case Cell::elman_tanh:
    case Cell::elman_relu:
      break;
  }
  return info_of_cell<Elman<Tanh>>(pass, noisy);
}

}  // namespace rnnfast::cuda
