// Matrix products: by our own kernels (own_gemm.h) where they are as fast, beyond by the faster of torch's
// two libraries.
//
// torch's own choice in float32 is MKL, which on other makers' CPUs reaches half to three quarters of the
// peak; oneDNN, equally part of torch, comes near it (Zen 4, two threads, 6400 x 1024 x 1024: 95 against 188
// GF/s). Products with few results, such as a weight's gradient, do not suit it.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "own_gemm.h"

// As torch/csrc/inductor/aoti_torch/c/shim_cpu.h has it, which stable-ABI code cannot include. Weak: a torch
// without oneDNN lacks it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_cpu__linear_pointwise(
    AtenTensorHandle X, AtenTensorHandle W, AtenTensorHandle* B, const char* attr, const double** scalars,
    int64_t scalars_len_, const char** algorithm, AtenTensorHandle* ret0);

namespace rnnfast {

inline Tensor transposed(const Tensor& t) {
  return view_of(t, {t.size(1), t.size(0)}, {t.stride(1), t.stride(0)});
}

inline double multiplications(const Tensor& a, const Tensor& b) {
  return static_cast<double>(a.size(0)) * static_cast<double>(a.size(1)) * static_cast<double>(b.size(1));
}

// Multiplications up to which products are our own, and from which on more than one worker pays. The first
// does not depend on how crowded the machine is, or results would.
constexpr double kOwnProduct = 6e7, kWorthWorkers = 2e6;

// to = a b, for 2-D a and b.
inline void product_to(Tensor& to, const Tensor& a, const Tensor& b) {
  const double size = multiplications(a, b);
  if (size <= kOwnProduct) {
    bool done = false;
    const auto run = [&](int workers) { done = try_own_product(to, a, b, workers); };
    size < kWorthWorkers ? run(1) : with_workers(5e-6 + size / 1e10, run);
    if (done) return;
  }
  require(aoti_torch_cpu_mm_out(to.get(), a.get(), b.get()) == AOTI_TORCH_SUCCESS, "torch's mm failed");
}

inline Tensor product(const Tensor& a, const Tensor& b) {
  Tensor out = empty_contiguous({a.size(0), b.size(1)}, a);
  product_to(out, a, b);
  return out;
}

// to += a b.
inline void add_product(Tensor& to, const Tensor& a, const Tensor& b) {
  require(aoti_torch_cpu_addmm_out(to.get(), to.get(), a.get(), b.get(), 1, 1) == AOTI_TORCH_SUCCESS,
          "torch's addmm failed");
}

// a b where `a` has many rows; `onednn`: large ones by oneDNN.
inline Tensor many_rows_product(const Tensor& a, const Tensor& b, bool onednn) {
  const double size = multiplications(a, b);
  if (onednn && size > kOwnProduct && a.scalar_type() == torch::headeronly::ScalarType::Float &&
      aoti_torch_cpu__linear_pointwise) {
    AtenTensorHandle handle = nullptr;
    const char* algorithm = "";
    if (aoti_torch_cpu__linear_pointwise(a.get(), transposed(b).get(), nullptr, "none", nullptr, 0,
                                         &algorithm, &handle) == AOTI_TORCH_SUCCESS)
      return Tensor(handle);
  }
  return product(a, b);
}

}  // namespace rnnfast
