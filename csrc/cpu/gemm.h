// Matrix products: by our own kernels (own_gemm.h), beyond them by torch's.
//
// torch's libraries in float32, of the products of an LSTM (T 100, B 32 and 64, H 128 to 512; Zen 4, two
// threads, peak 236 GF/s): MKL 98 to 184 GF/s, oneDNN 161 to 212; ours 163 to 220, without starting a
// library's threads.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "own_gemm.h"

namespace rnnfast {

// Multiplications up to which products are our own without FMA, where a library does as well, and from which
// on more than one worker pays. The first does not depend on how crowded the machine is, or results would.
constexpr double kOwnWithoutFma = 6e7, kWorthWorkers = 2e6;

// to = a b, for 2-D a and b.
inline void product_to(Tensor& to, const Tensor& a, const Tensor& b) {
  const double size =
      static_cast<double>(a.size(0)) * static_cast<double>(a.size(1)) * static_cast<double>(b.size(1));
  if (kIsa != Isa::baseline || size <= kOwnWithoutFma) {
    bool done = false;
    const auto run = [&](int workers) { done = try_own_product(to, a, b, workers); };
    size < kWorthWorkers ? run(1) : with_workers(5e-6 + size / 1e10, run);
    if (done) return;
  }
  require(aoti_torch_cpu_mm_out(to.get(), a.get(), b.get()) == AOTI_TORCH_SUCCESS, "torch's mm failed");
}

// to += a b, for `to` with contiguous rows one behind the other.
inline void add_product(Tensor& to, const Tensor& a, const Tensor& b) {
  const auto add = [&](auto type) {
    using S = decltype(type);
    Tensor sum = empty_contiguous({a.size(0), b.size(1)}, a);
    product_to(sum, a, b);
    add_rounded<S>(to.data_ptr(), sum.data_ptr(), to.data_ptr(), to.numel());
  };
  using torch::headeronly::ScalarType;
  if (to.scalar_type() == ScalarType::Float) return add(float{});
  if (to.scalar_type() == ScalarType::Double) return add(double{});
  require(aoti_torch_cpu_addmm_out(to.get(), to.get(), a.get(), b.get(), 1, 1) == AOTI_TORCH_SUCCESS,
          "torch's addmm failed");
}

}  // namespace rnnfast
