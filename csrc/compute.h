// What values of a storage type S are computed in: double where S is, float otherwise.
#pragma once

#include <type_traits>

namespace rnnfast {

template <class S>
using Compute = std::conditional_t<std::is_same_v<S, double>, double, float>;

}  // namespace rnnfast
