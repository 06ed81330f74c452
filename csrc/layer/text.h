// Strings that operators are given.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

namespace rnnfast {

// As std::string, to which torch's own conversion loses 48 bytes a call (pytorch/pytorch#191340; 2.13 does).
struct Text : std::string {
  using std::string::string;
};

}  // namespace rnnfast

namespace torch::stable::detail {

// Takes the handle over, as all conversions of arguments do.
template <>
struct ToImpl<rnnfast::Text> {
  static rnnfast::Text call(StableIValue value, uint64_t, bool) {
    const auto handle = to<StringHandle>(value);
    size_t length = 0;
    const char* characters = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &characters));
    rnnfast::Text text(characters, length);
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};

}  // namespace torch::stable::detail
