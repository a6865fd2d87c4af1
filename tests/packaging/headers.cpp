// Compiled by test_headers.py: the two shared headers as a kernel uses them, callable from ctypes.
#include <atomic>
#include <stdexcept>

#include "common/multiversion.h"  // first, so that it must find out about the C library by itself
#include "common/parallel.h"

template <class T>
NK_INLINE T leak(T value) {
  return value * T(0.5);
}

template <class T>
void scale(T* values, int64_t size) {
  for (int64_t i = 0; i < size; ++i) values[i] = leak(values[i]);
}
template NK_MULTIVERSION void scale<float>(float*, int64_t);

extern "C" {

// Adds one to every count that a piece covers; returns the number of pieces, or -1 where one is empty or below the grain.
int cover(int* counts, int64_t tasks, int64_t grain, int threads) {
  std::atomic<int> pieces{0}, bad{0};
  nk::parallel_for(tasks, grain, threads, [&](int64_t begin, int64_t end) {
    ++pieces;
    if (end - begin < std::max<int64_t>(1, std::min(grain, tasks))) ++bad;
    for (int64_t i = begin; i < end; ++i) ++counts[i];
  });
  return bad ? -1 : pieces.load();
}

// 1 where the exception of one task comes out of the loop.
int throws(int threads) {
  try {
    nk::parallel_for(64, 1, threads, [](int64_t begin, int64_t end) {
      if (begin <= 60 && 60 < end) throw std::runtime_error("task 60");
    });
  } catch (const std::runtime_error&) {
    return 1;
  }
  return 0;
}

// The threads that a region inside another region gets.
int nested() {
  std::atomic<int> most{0};
  nk::parallel_for(2, 1, 2, [&](int64_t, int64_t) {
    std::atomic<int> inner{0};
    nk::parallel_for(8, 1, 4, [&](int64_t, int64_t) { ++inner; });
    if (inner > most) most = inner.load();
  });
  return most;
}

void halve(float* values, int64_t size) { scale<float>(values, size); }
}
