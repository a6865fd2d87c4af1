// Work shared among OpenMP threads whose number the caller gives.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace nk {

/// Calls f(begin, end) on contiguous pieces that cover [0, tasks) once, each of at least `grain` tasks if there are several.
///
/// The threads are those of the OpenMP runtime that torch has loaded, so its ops and ours share one pool. Inside another
/// parallel region f runs once, on the calling thread. With threads == 1 it does too, and no OpenMP function is entered: in a
/// forked child that would hang. An exception thrown by f is thrown again here, one of them if there are several.
template <class F>
void parallel_for(int64_t tasks, int64_t grain, int threads, F&& f) {
  if (tasks <= 0) return;
  const int64_t workers = std::min<int64_t>(threads, tasks / std::max<int64_t>(grain, 1));
#ifdef _OPENMP
  if (workers > 1) {
    std::exception_ptr failure;
#pragma omp parallel num_threads(static_cast<int>(workers))
    {
      // The runtime may give fewer threads than were asked for, one if this is a nested region.
      const int64_t team = omp_get_num_threads(), member = omp_get_thread_num();
      const int64_t begin = tasks * member / team, end = tasks * (member + 1) / team;
      try {
        if (begin < end) f(begin, end);
      } catch (...) {
#pragma omp critical(nk_parallel_failure)
        if (!failure) failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
    return;
  }
#endif
  f(int64_t{0}, tasks);
}

}  // namespace nk
