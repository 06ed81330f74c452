// Large arrays in large pages.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdint>

namespace rnnfast {

// From here on glibc's malloc asks the system for each array anew and gives it back when it is freed (its
// M_MMAP_THRESHOLD_MAX), so that every training step meets each page of 4 KB for the first time: of an LSTM
// of 1024 units, T 50, B 128, that is 7 % of a step.
constexpr size_t kLargeArray = size_t{32} << 20;
constexpr int64_t kFewestOfLarge = kLargeArray / 8;  // values, of 8 bytes at most

// Asks for pages of 2 MB where the system has them for those who ask (transparent_hugepage: madvise). Before
// the array is first touched; where it cannot be had nothing happens.
inline void prefer_large_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  if (bytes < kLargeArray) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data), first = (begin + kPage - 1) & ~(kPage - 1),
                  end = (begin + bytes) & ~(kPage - 1);
  madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace rnnfast
