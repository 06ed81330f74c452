// Going through the phases of a pass.
#pragma once

#include <algorithm>
#include <tuple>

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

}  // namespace rnnfast
