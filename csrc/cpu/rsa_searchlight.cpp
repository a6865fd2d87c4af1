#include "cpu/rsa_searchlight.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/multiversion.h"
#include "common/parallel.h"
#include "cpu/covariance_gram.h"

namespace nk::rsa {
namespace {

/// Rows of a neighbourhood's channels without every condition's mean over them, which is taken relative to the first channel.
template <class T>
NK_INLINE void centre_columns_any(T* x, int64_t channels, int64_t row, T* mean) {
  std::fill(mean, mean + row, T(0));
  for (int64_t c = 1; c < channels; ++c)
    for (int64_t i = 0; i < row; ++i) mean[i] += x[c * row + i] - x[i];
  for (int64_t i = 0; i < row; ++i) mean[i] = x[i] + mean[i] / static_cast<T>(channels);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < row; ++i) x[c * row + i] -= mean[i];
}

/// Each row without its mean: no distance changes, and no digits are lost to what all conditions share.
template <class T>
NK_INLINE void centre_rows_any(T* x, int64_t rows, int64_t row, int64_t conditions) {
  for (int64_t r = 0; r < rows; ++r, x += row) {
    T part[8] = {};  // rows are whole cache lines, with zeros at their ends
    for (int64_t i = 0; i < row; i += 8)
      for (int64_t l = 0; l < 8; ++l) part[l] += x[i + l];
    const T mean = (((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]))) / static_cast<T>(conditions);
    for (int64_t i = 0; i < conditions; ++i) x[i] -= mean;
  }
}

NK_MULTIVERSION void centre_columns(float* x, int64_t channels, int64_t row, float* mean) { centre_columns_any(x, channels, row, mean); }
NK_MULTIVERSION void centre_columns(double* x, int64_t channels, int64_t row, double* mean) { centre_columns_any(x, channels, row, mean); }
NK_MULTIVERSION void centre_rows(float* x, int64_t rows, int64_t row, int64_t n) { centre_rows_any(x, rows, row, n); }
NK_MULTIVERSION void centre_rows(double* x, int64_t rows, int64_t row, int64_t n) { centre_rows_any(x, rows, row, n); }

/// 1 minus cosines from products: entries above the diagonal over the roots of those on it.
template <class T>
NK_INLINE void angles_any(const T* k, int64_t row, int64_t conditions, double* inverse, double* out) {
  for (int64_t i = 0; i < conditions; ++i) inverse[i] = 1 / std::sqrt(static_cast<double>(k[i * row + i]));
  for (int64_t i = 0; i < conditions; ++i) {
    const T* at = k + i * row;
    for (int64_t j = i + 1; j < conditions; ++j) *out++ = 1 - static_cast<double>(at[j]) * (inverse[i] * inverse[j]);
  }
}

/// Squared distances from products that are symmetric but for what lies below the diagonal, where nothing need be.
template <class T>
NK_INLINE void distances_any(const T* k, int64_t row, int64_t conditions, double scale, double* diagonal, double* out) {
  for (int64_t i = 0; i < conditions; ++i) diagonal[i] = static_cast<double>(k[i * row + i]);
  for (int64_t i = 0; i < conditions; ++i) {
    const T* at = k + i * row;
    for (int64_t j = i + 1; j < conditions; ++j) *out++ = scale * ((diagonal[i] + diagonal[j]) - 2 * static_cast<double>(at[j]));
  }
}

NK_MULTIVERSION void angles(const float* k, int64_t row, int64_t n, double* inverse, double* out) { angles_any(k, row, n, inverse, out); }
NK_MULTIVERSION void angles(const double* k, int64_t row, int64_t n, double* inverse, double* out) { angles_any(k, row, n, inverse, out); }
NK_MULTIVERSION void distances(const float* k, int64_t row, int64_t n, double scale, double* diagonal, double* out) {
  distances_any(k, row, n, scale, diagonal, out);
}
NK_MULTIVERSION void distances(const double* k, int64_t row, int64_t n, double scale, double* diagonal, double* out) {
  distances_any(k, row, n, scale, diagonal, out);
}

/// What one thread needs for one neighbourhood after the other: all of it stays in its caches.
template <class T>
class Light {
 public:
  Light(const Volume& volume, Metric metric, int64_t most)
      : volume_(volume), metric_(metric), panel_(line(most * volume.parts * volume.row)), sum_(line(metric == Metric::kCrossnobis ? most * volume.row : 0)),
        gram_(line(volume.row * volume.row)), other_(line(metric == Metric::kCrossnobis ? volume.row * volume.row : 0)), numbers_(volume.row),
        values_(volume.conditions) {}

  /// The dissimilarities of a neighbourhood of one item.
  void rdm(int64_t item, int64_t centre, double* out) {
    const int64_t first = volume_.offsets[centre], channels = volume_.offsets[centre + 1] - first, n = volume_.conditions;
    const int64_t row = volume_.row, width = volume_.parts * row;
    const T* data = static_cast<const T*>(volume_.data) + item * volume_.channels * width;
    T* panel = panel_.data();
    for (int64_t c = 0; c < channels; ++c) std::memcpy(panel + c * width, data + volume_.indices[first + c] * width, width * sizeof(T));
    const double scale = metric_ == Metric::kEuclidean ? 1 : 1 / static_cast<double>(channels);
    switch (metric_) {
      case Metric::kCorrelation: centre_columns(panel, channels, row, numbers_.data()); [[fallthrough]];
      case Metric::kCosine:
        gram(panel, row, channels, gram_.data());
        angles(gram_.data(), row, n, values_.data(), out);
        return;
      case Metric::kPoisson: rates(panel, channels, scale, out); return;
      case Metric::kCrossnobis: folds(panel, channels, scale, out); return;
      case Metric::kEuclidean:
      case Metric::kSqeuclidean:
        centre_rows(panel, channels, row, n);
        gram(panel, row, channels, gram_.data());
        distances(gram_.data(), row, n, scale, values_.data(), out);
        if (metric_ == Metric::kEuclidean)  // a difference of equal products may round below zero, which has no root
          std::transform(out, out + pairs_of(n), out, [](double d) { return std::sqrt(d < 0 ? 0 : d); });
    }
  }

 private:
  static int64_t line(int64_t size) { return size + moments::kLine<T>; }

  /// The upper triangle of x' x, of `depth` rows that lie one after the other.
  void gram(const T* x, int64_t stride, int64_t depth, T* out) {
    std::fill(out, out + volume_.row * volume_.row, T(0));
    const int n = static_cast<int>(volume_.conditions);
    moments::add_gram(moments::Product<T>{x, x, out, stride, stride, volume_.row, n, n, static_cast<int>(depth)}, true);
  }

  /// Rates a and their logarithms b: a_i b_i + a_j b_j - a_i b_j - a_j b_i.
  void rates(const T* panel, int64_t channels, double scale, double* out) {
    const int64_t n = volume_.conditions, row = volume_.row;
    T* k = gram_.data();
    std::fill(k, k + row * row, T(0));
    moments::add_gram({panel, panel + row, k, 2 * row, 2 * row, row, static_cast<int>(n), static_cast<int>(n), static_cast<int>(channels)}, false);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = i + 1; j < n; ++j) *out++ = scale * ((double(k[i * row + i]) - k[i * row + j]) + (double(k[j * row + j]) - k[j * row + i]));
  }

  /// All products of two different folds: those of the sum less those of every fold with itself.
  void folds(T* panel, int64_t channels, double scale, double* out) {
    const int64_t n = volume_.conditions, row = volume_.row, parts = volume_.parts;
    centre_rows(panel, channels * parts, row, n);
    T *sum = sum_.data(), *k = gram_.data(), *own = other_.data();
    for (int64_t c = 0; c < channels; ++c, sum += row) {
      std::memcpy(sum, panel + c * parts * row, row * sizeof(T));
      for (int64_t f = 1; f < parts; ++f)
        for (int64_t i = 0; i < row; ++i) sum[i] += panel[(c * parts + f) * row + i];
    }
    gram(sum_.data(), row, channels, k);
    gram(panel, row, channels * parts, own);
    for (int64_t at = 0; at < row * row; ++at) k[at] -= own[at];
    distances(k, row, n, scale / static_cast<double>(parts * (parts - 1)), values_.data(), out);
  }

  const Volume& volume_;
  Metric metric_;
  std::vector<T> panel_, sum_, gram_, other_, numbers_;
  std::vector<double> values_;
};

template <class T>
void searchlight_as(const Volume& volume, Metric metric, const double* models, int64_t count, Method method, T* out, int threads) {
  const int64_t pairs = pairs_of(volume.conditions), width = features_of(method, pairs, volume.conditions);
  int64_t most = 0;
  for (int64_t c = 0; c < volume.centres; ++c) most = std::max(most, volume.offsets[c + 1] - volume.offsets[c]);
  std::vector<Ranked> sides(tau(method) ? count : 0);
  Sorter first;
  for (int64_t m = 0; m < static_cast<int64_t>(sides.size()); ++m) sides[m] = ranked_side(models + m * width, pairs, first);
  parallel_for(volume.items * volume.centres, 4, threads, [&](int64_t begin, int64_t end) {
    Light<T> light(volume, metric, most);
    std::vector<double> rdm(pairs), features(width);
    Sorter sorter;
    Counting memory;
    for (int64_t at = begin; at < end; ++at) {
      light.rdm(at / volume.centres, at % volume.centres, rdm.data());
      T* to = out + at * count;
      if (tau(method)) {
        const Ranked side = ranked_side(rdm.data(), pairs, sorter);
        for (int64_t m = 0; m < count; ++m) to[m] = static_cast<T>(kendall(side, sides[m], pairs, method, memory));
      } else {
        const double norm = raw_features(rdm.data(), pairs, volume.conditions, method, features.data(), sorter);
        for (int64_t m = 0; m < count; ++m) to[m] = static_cast<T>(inner(features.data(), models + m * width, width) / norm);
      }
    }
  });
}

}  // namespace

void searchlight(Dtype dtype, const Volume& volume, Metric metric, const double* models, int64_t count, Method method, void* out,
                 int threads) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    searchlight_as(volume, metric, models, count, method, static_cast<T*>(out), threads);
  };
  dtype == Dtype::kFloat64 ? run(double()) : run(float());
}

}  // namespace nk::rsa
