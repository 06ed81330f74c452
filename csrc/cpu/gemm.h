// torch's matrix products, by the faster of its two libraries.
//
// torch's own choice in float32 is MKL, which on other makers' CPUs reaches half to three quarters of the
// peak; oneDNN, equally part of torch, comes near it (Zen 4, two threads, 6400 x 1024 x 1024: 95 against 188
// GF/s). Small products do not pay oneDNN's start, and products with few results do not suit it. The smallest
// pay no library's.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "own_gemm.h"
#include "running.h"

// As torch/csrc/inductor/aoti_torch/c/shim_cpu.h has it, which stable-ABI code cannot include. Weak: a torch
// without oneDNN lacks it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_cpu__linear_pointwise(
    AtenTensorHandle X, AtenTensorHandle W, AtenTensorHandle* B, const char* attr, const double** scalars,
    int64_t scalars_len_, const char** algorithm, AtenTensorHandle* ret0);

namespace rnnfast {

inline Tensor transposed(const Tensor& t) {
  return view_of(t, {t.size(1), t.size(0)}, {t.stride(1), t.stride(0)});
}

// Multiplications up to which our own kernels were the faster.
constexpr double kSmallProduct = 5e5;

inline double multiplications(const Tensor& a, const Tensor& b) {
  return static_cast<double>(a.size(0)) * static_cast<double>(a.size(1)) * static_cast<double>(b.size(1));
}

// Whether to spare a product the library, and with it the other threads.
inline bool stays_here(double multiplications) { return multiplications <= kSmallProduct || crowded(); }

// Seconds that a library's product may be expected to take, for crowded().
inline double expected_seconds(double multiplications) { return 5e-6 + multiplications / 5e10; }

// to = a b, for 2-D a and b.
inline void product_to(Tensor& to, const Tensor& a, const Tensor& b) {
  const double size = multiplications(a, b);
  if (stays_here(size) && try_own_product(to, a, b)) return;
  watched(expected_seconds(size), [&] {
    require(aoti_torch_cpu_mm_out(to.get(), a.get(), b.get()) == AOTI_TORCH_SUCCESS, "torch's mm failed");
  });
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
  const double size = multiplications(a, b);
  const bool by_onednn = onednn_from && size >= *onednn_from && !stays_here(size) &&
                         a.scalar_type() == torch::headeronly::ScalarType::Float &&
                         aoti_torch_cpu__linear_pointwise;
  if (by_onednn) {
    AtenTensorHandle handle = nullptr;
    const char* algorithm = "";
    bool done = false;
    watched(expected_seconds(size), [&] {
      done = aoti_torch_cpu__linear_pointwise(a.get(), transposed(b).get(), nullptr, "none", nullptr, 0,
                                              &algorithm, &handle) == AOTI_TORCH_SUCCESS;
    });
    if (done) return Tensor(handle);
  }
  return product(a, b);
}

}  // namespace rnnfast
