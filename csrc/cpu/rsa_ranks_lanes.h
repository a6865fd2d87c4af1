// What every resample does, side by side in the lanes of a vector register (rsa_ranks_lanes.cpp). Numbers are counts, ranks and sums of
// their products: integers below 2^53, so that every sum is exact, in any order and for any number of lanes.
#pragma once

#include <cstdint>

namespace nk::rsa {

/// Resamples side by side: element e of lane l lies at e * lanes() + l.
int64_t lanes();

/// Weights of pairs, from the counts m of their conditions, and their sum.
void weigh(const double* m, const uint32_t* first, const uint32_t* second, int64_t pairs, double* w, double* total);

/// Twice the mid-ranks without their mean, of values repeated as often as their weights, and the weighted sum of their squares.
void rank(const double* w, const uint32_t* order, const uint32_t* ranks, int64_t pairs, const double* total, double* out, double* squares);

/// cross [x, y] = sum over pairs of w x y, for rows of x and y one after the other.
void multiply(const double* w, const double* x, int64_t rows_x, const double* y, int64_t rows_y, int64_t pairs, double* cross);

/// The sum of the squared weights of groups, which begin where `fresh` is not 0.
void squared(const double* w, const uint8_t* fresh, int64_t n, double* out);

/// One level of a merge sort: adds weights times those that are overtaken to `discordant`, and leaves the merged order in `out`. `sums`
/// has room for n + 1.
void merge(const double* w, const uint32_t* next, const uint32_t* passed, int64_t width, int64_t n, double* sums, double* out,
           double* discordant);

}  // namespace nk::rsa
