#include "cpu/tiles.h"

#include <algorithm>

#include "common/multiversion.h"

namespace nk::tiles {
namespace {

template <class T>
NK_INLINE void scale_any(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T scale, const T* added, int64_t added_stride,
                         T by, T* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    const T *row = from + i * from_stride, *other = added + i * added_stride;
    T* out = to + i * to_stride;
    if (added) {
#pragma GCC ivdep
      for (int64_t j = 0; j < columns; ++j) out[j] = scale * row[j] + by * other[j];
    } else {
#pragma GCC ivdep
      for (int64_t j = 0; j < columns; ++j) out[j] = scale * row[j];
    }
  }
}

/// to[j][i] = from[i][j] in small squares, which stay in registers or at least in the L1 cache; below the diagonal only if `triangle`.
template <class T>
NK_INLINE void transpose_any(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride, bool triangle) {
  constexpr int64_t kSide = 16;
  for (int64_t i = 0; i < rows; i += kSide) {
    const int64_t m = std::min(kSide, rows - i);
    for (int64_t j = triangle ? i : 0; j < columns; j += kSide) {
      const int64_t n = std::min(kSide, columns - j);
      for (int64_t l = 0; l < n; ++l) {
        T* row = to + (j + l) * to_stride + i;
        const T* column = from + i * from_stride + j + l;
        const int64_t end = triangle ? std::min(m, j + l - i) : m;
#pragma GCC ivdep
        for (int64_t k = 0; k < end; ++k) row[k] = column[k * from_stride];
      }
    }
  }
}

}  // namespace

#define NK_TILES(T)                                                                                                                     \
  NK_MULTIVERSION void scale_rows(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T scale, const T* added,           \
                                  int64_t added_stride, T by, T* to, int64_t to_stride) {                                               \
    scale_any(from, from_stride, rows, columns, scale, added, added_stride, by, to, to_stride);                                         \
  }                                                                                                                                     \
  NK_MULTIVERSION void transpose(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride,           \
                                 bool triangle) {                                                                                       \
    transpose_any(from, from_stride, rows, columns, to, to_stride, triangle);                                                           \
  }

NK_TILES(float)
NK_TILES(double)

}  // namespace nk::tiles
