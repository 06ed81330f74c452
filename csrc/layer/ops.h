// The operators of a layer and of a cell, as csrc/ops.cpp says.
#pragma once

#include "tensors.h"
#include "text.h"

namespace rnnfast {

std::vector<Tensor> recurrence(const Tensor& input, const OptionalTensor& w_ih, const Tensor& w_hh,
                               const OptionalTensor& w_hr, const OptionalTensor& b_ih,
                               const OptionalTensor& b_hh, const OptionalTensor& h0, const OptionalTensor& c0,
                               const Text& cell, int64_t direction, bool batch_first,
                               const OptionalTensor& batch_sizes, bool saves, const OptionalTensor& stretches,
                               const OptionalTensor& seed, const std::optional<std::vector<double>>& noise,
                               const std::optional<double>& clip, const std::optional<Text>& precision,
                               int64_t beside);

std::vector<Tensor> cell(const Tensor& input, const Tensor& w_ih, const Tensor& w_hh,
                         const OptionalTensor& b_ih, const OptionalTensor& b_hh, const Tensor& h,
                         const OptionalTensor& c, const Text& cell);

std::vector<Tensor> recurrence_bptt(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
    const OptionalTensor& dc, const OptionalTensor& input, const OptionalTensor& w_ih, const Tensor& w_hh,
    const OptionalTensor& w_hr, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
    const OptionalTensor& h0, const OptionalTensor& c0, const Tensor& y_given,
    const std::vector<Tensor>& saved_given, const Text& cell, int64_t direction, bool batch_first,
    const OptionalTensor& batch_sizes, int64_t needs, const OptionalTensor& stretches,
    const OptionalTensor& seed, const std::optional<std::vector<double>>& noise,
    const std::optional<double>& clip, const std::optional<Text>& precision, int64_t beside);

}  // namespace rnnfast
