// torch's matrix products, by the faster of its two libraries.
//
// torch's own choice in float32 is MKL, which on other makers' CPUs reaches half to three quarters of the
// peak; oneDNN, equally part of torch, comes near it (Zen 4, two threads, 6400 x 1024 x 1024: 95 against 188
// GF/s). Small products do not pay oneDNN's start, and products with few results do not suit it. The smallest
// pay no library's.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "small_gemm.h"

// As torch/csrc/inductor/aoti_torch/c/shim_cpu.h has it, which stable-ABI code cannot include. Weak: a torch
// without oneDNN lacks it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_cpu__linear_pointwise(
    AtenTensorHandle X, AtenTensorHandle W, AtenTensorHandle* B, const char* attr, const double** scalars,
    int64_t scalars_len_, const char** algorithm, AtenTensorHandle* ret0);

namespace rnnfast {

inline Tensor transposed(const Tensor& t) {
  return view_of(t, {t.size(1), t.size(0)}, {t.stride(1), t.stride(0)});
}

// to = a b, for 2-D a and b.
inline void product_to(Tensor& to, const Tensor& a, const Tensor& b) {
  if (try_small_product(to, a, b)) return;
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

// a b where `a` has many rows: by oneDNN from so many multiplications on.
inline Tensor many_rows_product(const Tensor& a, const Tensor& b, const std::optional<double>& onednn_from) {
  const double multiplications = static_cast<double>(a.size(0)) * a.size(1) * b.size(1);
  if (onednn_from && multiplications >= *onednn_from &&
      a.scalar_type() == torch::headeronly::ScalarType::Float && aoti_torch_cpu__linear_pointwise) {
    AtenTensorHandle handle = nullptr;
    const char* algorithm = "";
    if (aoti_torch_cpu__linear_pointwise(a.get(), transposed(b).get(), nullptr, "none", nullptr, 0,
                                         &algorithm, &handle) == AOTI_TORCH_SUCCESS)
      return Tensor(handle);
  }
  return product(a, b);
}

}  // namespace rnnfast
