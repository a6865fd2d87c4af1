// Large outputs on large pages.
#pragma once

#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace nk {

/// Asks for large pages under memory that is about to be written for the first time. An allocator gives big blocks back to the system
/// and gets them anew, so that every call pays one fault per 4 KB: half the time of a LIF layer of 500 x 65,536 steps, measured. Where
/// pages are there already, or the system is set otherwise, this does nothing.
inline void expect_large_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kWorthwhile = int64_t{4} << 20, kPage = 4096;
  if (bytes < kWorthwhile) return;
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace nk
