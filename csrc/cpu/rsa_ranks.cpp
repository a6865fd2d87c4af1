#include "cpu/rsa_ranks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/multiversion.h"
#include "common/parallel.h"

namespace nk::rsa {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kRoot = 1.4142135623730951;
constexpr int kLanes = 8;  // partial sums: a vector's worth or two, added in one order on every machine

template <class F>
NK_INLINE double summed(int64_t n, F&& term) {
  double part[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) part[l] += term(i + l);
  for (int l = 0; i < n; ++i, ++l) part[l] += term(i);
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

/// Without the mean, taken relative to the first element: a constant becomes zeros.
NK_MULTIVERSION void centre(double* x, int64_t n) {
  const double first = x[0];
  for (int64_t i = 0; i < n; ++i) x[i] -= first;
  const double mean = summed(n, [&](int64_t i) { return x[i]; }) / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) x[i] -= mean;
}

/// Row sums of the symmetric matrix with these pairs.
NK_MULTIVERSION void row_sums(const double* x, int64_t conditions, double* rows) {
  std::fill(rows, rows + conditions, 0.0);
  for (int64_t i = 0; i < conditions; ++i) {
    const int64_t left = conditions - i - 1;
    double* later = rows + i + 1;
    for (int64_t j = 0; j < left; ++j) later[j] += x[j];
    rows[i] += summed(left, [&](int64_t j) { return x[j]; });
    x += left;
  }
}

/// The doubly centred matrix: its pairs times the root of 2, and its diagonal.
NK_MULTIVERSION void doubly_centred(const double* x, int64_t conditions, const double* rows, double* out) {
  const double n = static_cast<double>(conditions), all = summed(conditions, [&](int64_t i) { return rows[i]; }) / (n * n);
  for (int64_t i = 0; i < conditions; ++i) {
    const int64_t left = conditions - i - 1;
    const double own = all - rows[i] / n;
    for (int64_t j = 0; j < left; ++j) out[j] = kRoot * (x[j] + (own - rows[i + 1 + j] / n));
    x += left, out += left;
  }
  for (int64_t i = 0; i < conditions; ++i) out[i] = all - 2 * rows[i] / n;
}

NK_MULTIVERSION double product(const double* x, const double* y, int64_t n) {
  return summed(n, [&](int64_t i) { return x[i] * y[i]; });
}

/// Numbers as integers of the same order; both zeros are one.
NK_INLINE uint64_t ordered(double x) {
  const uint64_t bits = bit_cast<uint64_t>(x + 0.0);
  return bits >> 63 ? ~bits : bits | (uint64_t{1} << 63);
}

/// Pairs that a sort has to exchange, by merging, which leaves `now` sorted.
int64_t inversions(std::vector<uint32_t>& now, std::vector<uint32_t>& next, int64_t n) {
  constexpr int64_t kShort = 8;
  int64_t found = 0;
  for (int64_t start = 0; start < n; start += kShort) {
    const int64_t end = std::min(start + kShort, n);
    for (int64_t i = start + 1; i < end; ++i) {
      const uint32_t value = now[i];
      int64_t to = i;
      for (; to > start && now[to - 1] > value; --to) now[to] = now[to - 1];
      now[to] = value, found += i - to;
    }
  }
  for (int64_t width = kShort; width < n; width *= 2) {
    for (int64_t start = 0; start < n; start += 2 * width) {
      const int64_t middle = std::min(start + width, n), end = std::min(start + 2 * width, n);
      const uint32_t *left = now.data() + start, *right = now.data() + middle;
      const uint32_t *left_end = right, *right_end = now.data() + end;
      uint32_t* to = next.data() + start;
      while (left < left_end && right < right_end) {  // without a branch that nobody could predict
        const bool later = *right < *left;
        *to++ = later ? *right : *left;
        found += -static_cast<int64_t>(later) & (left_end - left);
        right += later, left += !later;
      }
      std::copy(right, right_end, std::copy(left, left_end, to));
    }
    std::swap(now, next);
  }
  return found;
}

template <class T>
void features_as(const T* x, int64_t rows, int64_t pairs, int64_t conditions, Method method, T* out, T* norm, int threads) {
  const int64_t width = features_of(method, pairs, conditions);
  parallel_for(rows, std::max<int64_t>(1, 20000 / pairs), threads, [&](int64_t begin, int64_t end) {
    std::vector<double> values(pairs), found(width);
    Sorter sorter;
    for (int64_t r = begin; r < end; ++r) {
      std::copy(x + r * pairs, x + (r + 1) * pairs, values.begin());
      const double length = raw_features(values.data(), pairs, conditions, method, found.data(), sorter);
      norm[r] = static_cast<T>(length);
      for (int64_t f = 0; f < width; ++f) out[r * width + f] = static_cast<T>(found[f] / length);
    }
  });
}

template <class T>
std::vector<Ranked> sides(const T* x, int64_t rows, int64_t pairs, int threads) {
  std::vector<Ranked> found(rows);
  parallel_for(rows, std::max<int64_t>(1, 20000 / pairs), threads, [&](int64_t begin, int64_t end) {
    std::vector<double> values(pairs);
    Sorter sorter;
    for (int64_t r = begin; r < end; ++r) {
      std::copy(x + r * pairs, x + (r + 1) * pairs, values.begin());
      found[r] = ranked_side(values.data(), pairs, sorter);
    }
  });
  return found;
}

template <class T>
void concordance_as(const T* a, const T* b, int64_t items, int64_t rows_a, int64_t rows_b, int64_t pairs, Method method, T* out,
                    int threads) {
  const std::vector<Ranked> left = sides(a, items * rows_a, pairs, threads), right = sides(b, items * rows_b, pairs, threads);
  parallel_for(items * rows_a * rows_b, std::max<int64_t>(1, 5000 / pairs), threads, [&](int64_t begin, int64_t end) {
    Counting memory;
    for (int64_t at = begin; at < end; ++at) {
      const int64_t row = at / rows_b, item = row / rows_a;
      out[at] = static_cast<T>(kendall(left[row], right[item * rows_b + at % rows_b], pairs, method, memory));
    }
  });
}

}  // namespace

void Sorter::sort(const double* x, int64_t n) {
  constexpr int kBytes = 8, kValues = 256;
  keys_.resize(n), other_.resize(n), order.resize(n), spare_.resize(n);
  std::vector<uint32_t> counts(kBytes * kValues);
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t key = ordered(x[i]);
    keys_[i] = key, order[i] = static_cast<uint32_t>(i);
    for (int b = 0; b < kBytes; ++b) ++counts[b * kValues + (key >> (8 * b) & 255)];
  }
  for (int b = 0; b < kBytes; ++b) {
    uint32_t* count = &counts[b * kValues];
    if (n == 0 || count[keys_[0] >> (8 * b) & 255] == n) continue;  // one value: nothing to do
    uint32_t before = 0;
    for (int v = 0; v < kValues; ++v) before += std::exchange(count[v], before);
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t to = count[keys_[i] >> (8 * b) & 255]++;
      other_[to] = keys_[i], spare_[to] = order[i];
    }
    keys_.swap(other_), order.swap(spare_);
  }
}

bool has_nan(const double* x, int64_t n) {
  return std::any_of(x, x + n, [](double value) { return value != value; });
}

void doubled_ranks(const double* x, int64_t n, double* out, Sorter& sorter) {
  if (has_nan(x, n)) {
    std::fill(out, out + n, kNan);
    return;
  }
  sorter.sort(x, n);
  const std::vector<uint32_t>& order = sorter.order;
  std::vector<double>& ranks = sorter.ranks;
  ranks.resize(n);
  for (int64_t first = 0, end = 0; first < n; first = end) {
    for (end = first + 1; end < n && x[order[end]] == x[order[first]];) ++end;
    const double rank = static_cast<double>(first + end - n);
    for (int64_t k = first; k < end; ++k) ranks[order[k]] = rank;
  }
  std::copy(ranks.begin(), ranks.end(), out);
}

double raw_features(double* x, int64_t pairs, int64_t conditions, Method method, double* features, Sorter& sorter) {
  const int64_t n = pairs, width = features_of(method, pairs, conditions);
  if (ranked(method)) {
    doubled_ranks(x, n, features, sorter);
    const double p = static_cast<double>(n);
    return method == Method::kRhoA ? std::sqrt(p * (p * p - 1) / 3) : std::sqrt(product(features, features, n));
  }
  if (method != Method::kCosine && method != Method::kWhitenedCosine) centre(x, n);
  if (whitened(method)) {
    std::vector<double>& rows = sorter.ranks;
    rows.resize(conditions);
    row_sums(x, conditions, rows.data());
    doubly_centred(x, conditions, rows.data(), features);
  } else if (features != x) {
    std::copy(x, x + n, features);
  }
  return std::sqrt(product(features, features, width));
}

double inner(const double* x, const double* y, int64_t n) { return product(x, y, n); }

Ranked ranked_side(const double* x, int64_t n, Sorter& sorter) {
  Ranked side;
  side.nan = has_nan(x, n);
  if (side.nan) return side;
  sorter.sort(x, n);
  side.order = sorter.order;
  side.rank.resize(n);
  uint32_t rank = 0;
  for (int64_t first = 0, end = 0; first < n; first = end, ++rank) {
    for (end = first; end < n && x[side.order[end]] == x[side.order[first]]; ++end) side.rank[side.order[end]] = rank;
    side.ties += (end - first) * (end - first - 1) / 2;
  }
  return side;
}

double kendall(const Ranked& a, const Ranked& b, int64_t n, Method method, Counting& memory) {
  if (a.nan || b.nan) return kNan;
  memory.now.resize(n), memory.next.resize(n);
  std::vector<uint32_t>& now = memory.now;
  for (int64_t k = 0; k < n; ++k) now[k] = b.rank[a.order[k]];
  int64_t joint = 0;
  if (a.ties) {
    for (int64_t first = 0, end = 0; first < n; first = end) {
      for (end = first + 1; end < n && a.rank[a.order[end]] == a.rank[a.order[first]];) ++end;
      std::sort(now.begin() + first, now.begin() + end);
      for (int64_t k = first, same = 0; k + 1 < end; ++k) joint += same = now[k + 1] == now[k] ? same + 1 : 0;
    }
  }
  const int64_t all = n * (n - 1) / 2, discordant = inversions(now, memory.next, n);
  const double difference = static_cast<double>(all - a.ties - b.ties + joint - 2 * discordant);
  if (method == Method::kTauA) return difference / static_cast<double>(all);
  return difference / std::sqrt(static_cast<double>(all - a.ties) * static_cast<double>(all - b.ties));
}

void features(Dtype dtype, const void* x, int64_t rows, int64_t pairs, int64_t conditions, Method method, void* out, void* norm, int threads) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    features_as(static_cast<const T*>(x), rows, pairs, conditions, method, static_cast<T*>(out), static_cast<T*>(norm), threads);
  };
  dtype == Dtype::kFloat64 ? run(double()) : run(float());
}

void concordance(Dtype dtype, const void* a, const void* b, int64_t items, int64_t rows_a, int64_t rows_b, int64_t pairs, Method method,
                 void* out, int threads) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    concordance_as(static_cast<const T*>(a), static_cast<const T*>(b), items, rows_a, rows_b, pairs, method, static_cast<T*>(out), threads);
  };
  dtype == Dtype::kFloat64 ? run(double()) : run(float());
}

}  // namespace nk::rsa
