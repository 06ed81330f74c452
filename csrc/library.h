// Where operators are registered. tests/cuda_host builds the CUDA operators as a library of its own, for
// tensors on the CPU: it defines both names.
#pragma once

#include <torch/csrc/stable/library.h>

#ifndef RNNFAST_NAMESPACE
#define RNNFAST_NAMESPACE rnnfast
#endif
#ifndef RNNFAST_CUDA_KEY
#define RNNFAST_CUDA_KEY CUDA
#endif

// torch's macros paste their arguments: once more round the preprocessor replaces the names before.
#define RNNFAST_LIBRARY(m) RNNFAST_LIBRARY_OF(RNNFAST_NAMESPACE, m)
#define RNNFAST_LIBRARY_OF(library, m) STABLE_TORCH_LIBRARY(library, m)
#define RNNFAST_FRAGMENT(m) RNNFAST_FRAGMENT_OF(RNNFAST_NAMESPACE, m)
#define RNNFAST_FRAGMENT_OF(library, m) STABLE_TORCH_LIBRARY_FRAGMENT(library, m)
#define RNNFAST_IMPLEMENT(key, m) RNNFAST_IMPLEMENT_OF(RNNFAST_NAMESPACE, key, m)
#define RNNFAST_IMPLEMENT_OF(library, key, m) STABLE_TORCH_LIBRARY_IMPL(library, key, m)
