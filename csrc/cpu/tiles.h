// Tiles on their way from a core's cache to a matrix: scaled, added to another one, mirrored. All offsets are in elements.
#pragma once

#include <cstdint>

namespace nk::tiles {

/// to = scale * from + by * added, or without `added` if that is null.
void scale_rows(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float scale, const float* added,
                int64_t added_stride, float by, float* to, int64_t to_stride);
void scale_rows(const double* from, int64_t from_stride, int64_t rows, int64_t columns, double scale, const double* added,
                int64_t added_stride, double by, double* to, int64_t to_stride);

/// to = from' for a from of [rows, columns]; with `triangle` only what is below the diagonal of `to`, from above that of `from`, which
/// may be the same matrix.
void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride, bool triangle);
void transpose(const double* from, int64_t from_stride, int64_t rows, int64_t columns, double* to, int64_t to_stride, bool triangle);

}  // namespace nk::tiles
