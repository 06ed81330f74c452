// What the passes of the cells need, read off their types.
#include "../cells/elman.h"
#include "../cells/gru.h"
#include "../cells/lstm.h"
#include "../cells/phase_list.h"
#include "kernels.h"

namespace rnnfast::cuda {
namespace {

template <class Pass>
PassInfo info_of() {
  PassInfo info;
  info.carries = Pass::kCarries;
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
PassInfo info_of_cell(Pass pass) {
  return pass == Pass::forward ? info_of<typename Cell::Forward>() : info_of<typename Cell::Adjoint>();
}

}  // namespace

PassInfo pass_info(Cell cell, Pass pass, bool projected) {
  switch (cell) {
    case Cell::lstm:
      return projected ? info_of_cell<ProjectedLstm>(pass) : info_of_cell<Lstm>(pass);
    case Cell::gru:
      return info_of_cell<Gru>(pass);
    case Cell::elman_tanh:
    case Cell::elman_relu:
      break;
  }
  return info_of_cell<Elman<Tanh>>(pass);
}

}  // namespace rnnfast::cuda
