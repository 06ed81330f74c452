// Calls of torch's operators by name.
#pragma once

#include <array>

#include "../layer/tensors.h"

namespace rnnfast::cuda {

// An operator that writes to one of its arguments and returns it; all arguments must be given, in the
// schema's order.
template <class... Argument>
void call(const char* name, const char* overload, const Argument&... arguments) {
  std::array<StableIValue, sizeof...(Argument)> stack{torch::stable::detail::from(arguments)...};
  const bool done =
      torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION) == AOTI_TORCH_SUCCESS;
  require(done, "torch's ", name, " failed");
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace rnnfast::cuda
