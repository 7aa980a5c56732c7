// Registration of the CUDA library's ops. A family's op.cpp holds its schemas and implementations; no other file lists them.
//
// Against libtorch's stable ABI: one binary for every torch from 2.10 on. A block follows each macro:
//   VLAE_CUDA_SCHEMAS(m) { m.def("..."); }
//   VLAE_CUDA_IMPL(VLAE_GPU, m) { m.impl("...", TORCH_BOX(&...)); }  // or CPU, or CompositeExplicitAutograd
#pragma once

#include <torch/csrc/stable/library.h>

#if !defined(VLAE_CUDA_ON_HOST)
#define VLAE_CUDA_LIBRARY vlae_fast_cuda
#define VLAE_GPU CUDA
#else  // the tests' emulation, beside which the library itself may be loaded
#define VLAE_CUDA_LIBRARY vlae_fast_cuda_host
#define VLAE_GPU CPU
#endif

// The two steps expand the names before they are pasted.
#define VLAE_FRAGMENT(library, m) STABLE_TORCH_LIBRARY_FRAGMENT(library, m)
#define VLAE_FRAGMENT_IMPL(library, key, m) STABLE_TORCH_LIBRARY_IMPL(library, key, m)
#define VLAE_CUDA_SCHEMAS(m) VLAE_FRAGMENT(VLAE_CUDA_LIBRARY, m)
#define VLAE_CUDA_IMPL(key, m) VLAE_FRAGMENT_IMPL(VLAE_CUDA_LIBRARY, key, m)
