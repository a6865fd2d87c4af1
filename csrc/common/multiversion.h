// One function compiled for several x86-64 levels, the best one picked when the library is loaded.
//
// NK_MULTIVERSION goes before a function, or before the explicit instantiation of a function template. Only that function's
// body is compiled again: whatever its loops call must be NK_INLINE, or the call lands in baseline code.
#pragma once

#include "common/integers.h"  // defines __GLIBC__ where that is the C library

#ifdef __CUDACC__
#define NK_INLINE __device__ __forceinline__
#else
#define NK_INLINE inline __attribute__((always_inline))
#endif

// Sanitisers are not ready yet when the loader runs the resolvers; musl has no resolvers; Clang takes no clones of templates.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12 && !defined(__SANITIZE_ADDRESS__)
#define NK_MULTIVERSION __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#define NK_HAS_MULTIVERSION 1
#else
#define NK_MULTIVERSION
#define NK_HAS_MULTIVERSION 0
#endif
