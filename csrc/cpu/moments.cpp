// Column means, and centring that converts and adds up squares on the way.
#include "cpu/moments.h"

#include <numeric>
#include <type_traits>
#include <vector>

#include "cpu/moments_items.h"

namespace nk::moments {
namespace {

/// One item centred, and the sum of squares.
template <class S, class T, class O>
double item_centred(const S* x, In shape, const T* mean, const T* low, O* out, int64_t out_row, int threads) {
  const int64_t blocks = blocks_of(shape.rows);
  std::vector<double> squares(blocks);
  parallel_for(blocks, grain_of(shape), threads, [&](int64_t begin, int64_t end) {
    for (int64_t b = end - 1; b >= begin; --b) {  // backwards: a cache holds the rows that the means have seen last
      for_each_piece(shape, b, [&](int64_t i, int rows, int64_t j, int lanes) {
        O* to = out + i * out_row + j;
        squares[b] += centre_rows(x + i * shape.row + j, shape.row, rows, mean + j, low + j, to, out_row, lanes);
      });
    }
  });
  return std::accumulate(squares.begin(), squares.end(), 0.0);
}

template <class S, class T, class O>
void centre_as(In x, T* mean, O* out, int64_t out_row, double* total, int threads) {
  for_items(x, threads, [&](int64_t begin, int64_t end, int left) {
    Sums<T> scratch;
    for (int64_t item = begin; item < end; ++item) {
      const S* from = static_cast<const S*>(x.data) + item * x.item;
      item_means(from, x, mean + item * x.columns, scratch, left);
      total[item] = item_centred(from, x, mean + item * x.columns, scratch.low.data(), out + item * x.rows * out_row, out_row, left);
    }
  });
}

template <class S, class T>
void centre_to(In x, void* mean, Dtype to, void* out, int64_t out_row, double* total, int threads) {
  T* means = static_cast<T*>(mean);
  if constexpr (std::is_same_v<T, float>) {
    if (to == Dtype::kBfloat16) return centre_as<S, T>(x, means, static_cast<Bfloat16*>(out), out_row, total, threads);
  }
  centre_as<S, T>(x, means, static_cast<T*>(out), out_row, total, threads);
}

}  // namespace

void centre(Dtype dtype, In x, void* mean, Dtype to, void* out, int64_t out_row, double* total, int threads) {
  switch (dtype) {
    case Dtype::kFloat32: return centre_to<float, float>(x, mean, to, out, out_row, total, threads);
    case Dtype::kFloat64: return centre_to<double, double>(x, mean, to, out, out_row, total, threads);
    case Dtype::kBfloat16: return centre_to<Bfloat16, float>(x, mean, to, out, out_row, total, threads);
    case Dtype::kFloat16: return centre_to<Float16, float>(x, mean, to, out, out_row, total, threads);
  }
}

}  // namespace nk::moments
