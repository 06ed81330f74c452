// Going through the phases of a pass.
#pragma once

#include <algorithm>
#include <tuple>

#include "../recurrence.h"
#include "cell.h"

namespace rnnfast {

template <class F, class... P>
void for_each_phase(PhaseList<P...>, F&& f) {
  int index = 0;
  (f(P{}, index++), ...);
}

template <class... P>
constexpr int count_phases(PhaseList<P...>) {
  return sizeof...(P);
}

template <class... P>
constexpr int most_statistics(PhaseList<P...>) {
  return std::max({P::kStatistics...});
}

template <int kIndex, class... P>
auto phase_at(PhaseList<P...>) {
  return std::tuple_element_t<kIndex, std::tuple<P...>>{};
}

// What rows enter with where a matrix reads this operand; null: nothing, which reads as zero.
inline const End* initial_of(const Recurrence& r, const Operand& operand) {
  return operand.initial >= 0 && r.ends[operand.initial].data ? &r.ends[operand.initial] : nullptr;
}

template <class Pass>
int carries_of(const Recurrence& r) {
  return r.noise.any() ? Pass::kNoisyCarries : Pass::kCarries;
}

// Whether a phase multiplies rows that enter: by what they bring, or by what was put at this step.
template <class Pass, class Phase>
bool multiplies_entering(const Recurrence& r) {
  return Phase::kColumns > 0 && (Phase::kSameStep || initial_of(r, Pass::kOperands[Phase::kOperand]));
}

}  // namespace rnnfast
