// Rank comparators of all resamples, a vector register of them at a time. What is sorted, and how, is the same for all of them.
#include <algorithm>
#include <cmath>
#include <limits>

#include "common/parallel.h"
#include "cpu/rsa_ranks.h"
#include "cpu/rsa_ranks_lanes.h"

namespace nk::rsa {
namespace {

constexpr int64_t kBudget = int64_t{32} << 20;  // bytes for ranks

/// Memory for the numbers of `size` vectors, on whole cache lines.
class Vectors {
 public:
  explicit Vectors(int64_t size) : memory_(static_cast<size_t>(size * lanes() + 8)) {}
  double* data() { return reinterpret_cast<double*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) & ~uintptr_t{63}); }

 private:
  std::vector<double> memory_;
};

/// The conditions of every pair.
struct Pairs {
  explicit Pairs(int64_t conditions) {
    for (int64_t i = 0; i < conditions; ++i)
      for (int64_t j = i + 1; j < conditions; ++j) first.push_back(static_cast<uint32_t>(i)), second.push_back(static_cast<uint32_t>(j));
  }
  std::vector<uint32_t> first, second;
};

/// Counts [n, conditions] of the resamples from `start` on, in vectors; those beyond the last are of nothing.
void load_counts(const int64_t* counts, int64_t n, int64_t conditions, int64_t start, double* m) {
  const int64_t wide = lanes();
  for (int64_t c = 0; c < conditions; ++c)
    for (int64_t l = 0; l < wide; ++l) m[c * wide + l] = start + l < n ? static_cast<double>(counts[(start + l) * conditions + c]) : 0.0;
}

/// The two sets of RDMs and what is asked of them.
struct Call {
  std::vector<Ranked> a, b;
  int64_t rows_a, rows_b, conditions, pairs, n;
  const int64_t* counts;
  Method method;
  int threads;
};

template <class T>
void store(const Call& call, int64_t start, int64_t x, int64_t y, int64_t lane, double value, T* out) {
  if (start + lane >= call.n) return;
  const bool nan = call.a[x].nan || call.b[y].nan;
  out[((start + lane) * call.rows_a + x) * call.rows_b + y] = nan ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(value);
}

/// Spearman's correlation and rho_a: ranks of as many RDMs as the budget allows, and all of their products.
template <class T>
void spearman(const Call& call, T* out) {
  const int64_t wide = lanes(), row = call.pairs * wide;
  const int64_t rows = std::max<int64_t>(2, kBudget / (row * static_cast<int64_t>(sizeof(double))));
  const int64_t most_a = std::min(call.rows_a, rows / 2), most_b = std::min(call.rows_b, rows - most_a);
  const Pairs pairs(call.conditions);
  parallel_for((call.n + wide - 1) / wide, 1, call.threads, [&](int64_t begin, int64_t end) {
    Vectors m(call.conditions), weights(call.pairs), ranks_a(most_a * call.pairs), ranks_b(most_b * call.pairs);
    Vectors products(most_a * most_b), squares_a(most_a), squares_b(most_b), sum(1);
    double *w = weights.data(), *total = sum.data();
    const auto fill = [&](const std::vector<Ranked>& sides, int64_t from, int64_t to, double* ranks, double* squares) {
      for (int64_t r = from; r < to; ++r)
        if (!sides[r].nan)
          rank(w, sides[r].order.data(), sides[r].rank.data(), call.pairs, total, ranks + (r - from) * row, squares + (r - from) * wide);
    };
    for (int64_t start = begin * wide; start < end * wide; start += wide) {
      load_counts(call.counts, call.n, call.conditions, start, m.data());
      weigh(m.data(), pairs.first.data(), pairs.second.data(), call.pairs, w, total);
      for (int64_t from_a = 0; from_a < call.rows_a; from_a += most_a) {
        const int64_t to_a = std::min(from_a + most_a, call.rows_a);
        fill(call.a, from_a, to_a, ranks_a.data(), squares_a.data());
        for (int64_t from_b = 0; from_b < call.rows_b; from_b += most_b) {
          const int64_t to_b = std::min(from_b + most_b, call.rows_b), columns = to_b - from_b;
          fill(call.b, from_b, to_b, ranks_b.data(), squares_b.data());
          multiply(w, ranks_a.data(), to_a - from_a, ranks_b.data(), columns, call.pairs, products.data());
          for (int64_t x = 0; x < to_a - from_a; ++x) {
            for (int64_t y = 0; y < columns; ++y) {
              for (int64_t l = 0; l < wide; ++l) {
                const double cross = products.data()[(x * columns + y) * wide + l], size = total[l];
                const double norms = squares_a.data()[x * wide + l] * squares_b.data()[y * wide + l];
                const double value = call.method == Method::kRhoA ? 3 * cross / (size * (size * size - 1)) : cross / std::sqrt(norms);
                store(call, start, from_a + x, from_b + y, l, value, out);
              }
            }
          }
        }
      }
    }
  });
}

/// Merge sort of b's ranks in the order of a, as one program that weights go through: of every level, who comes next, and how many of
/// the run on the right come before an element of the run on the left.
struct Program {
  int64_t levels = 0;
  std::vector<uint32_t> first, second;  // conditions of the pairs, by a, and by b among equals
  std::vector<uint32_t> next, passed;   // [levels, pairs]
  std::vector<uint8_t> new_a, new_joint, new_b;  // where another value begins, the last of them in the order of b
};

Program compile(const Ranked& a, const Ranked& b, const Pairs& pairs) {
  const int64_t n = static_cast<int64_t>(a.order.size());
  Program program;
  std::vector<uint32_t> order = a.order, now(n), later(n);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t x, uint32_t y) {
    return a.rank[x] != a.rank[y] ? a.rank[x] < a.rank[y] : b.rank[x] < b.rank[y];
  });
  program.new_a.resize(n), program.new_joint.resize(n), program.new_b.resize(n);
  for (int64_t k = 0; k < n; ++k) {
    const uint32_t p = order[k];
    program.first.push_back(pairs.first[p]), program.second.push_back(pairs.second[p]);
    now[k] = b.rank[p];
    program.new_a[k] = k == 0 || a.rank[p] != a.rank[order[k - 1]];
    program.new_joint[k] = program.new_a[k] || now[k] != now[k - 1];
  }
  for (int64_t width = 1; width < n; width *= 2, ++program.levels) {
    const int64_t base = program.levels * n;
    program.next.resize(base + n), program.passed.resize(base + n);
    for (int64_t start = 0; start < n; start += 2 * width) {
      const int64_t middle = std::min(start + width, n), end = std::min(start + 2 * width, n);
      int64_t left = start, right = middle;
      for (int64_t to = start; to < end; ++to) {
        const bool overtakes = right < end && (left >= middle || now[right] < now[left]);
        if (!overtakes) program.passed[base + left] = static_cast<uint32_t>(right);
        const int64_t from = overtakes ? right++ : left++;
        program.next[base + to] = static_cast<uint32_t>(from);
        later[to] = now[from];
      }
    }
    now.swap(later);
  }
  for (int64_t k = 0; k < n; ++k) program.new_b[k] = k == 0 || now[k] != now[k - 1];
  return program;
}

template <class T>
void kendall(const Call& call, T* out) {
  const Pairs pairs(call.conditions);
  const int64_t n = call.pairs, wide = lanes();
  for (int64_t x = 0; x < call.rows_a; ++x) {
    for (int64_t y = 0; y < call.rows_b; ++y) {
      const bool nan = call.a[x].nan || call.b[y].nan;
      const Program program = nan ? Program() : compile(call.a[x], call.b[y], pairs);
      parallel_for((call.n + wide - 1) / wide, 1, call.threads, [&](int64_t begin, int64_t end) {
        Vectors m(call.conditions), first(n), second(n), sums(n + 1), sum(1), same_a(1), same_b(1), same(1), passed(1);
        double *now = first.data(), *next = second.data();
        for (int64_t start = begin * wide; start < end * wide; start += wide) {
          if (!nan) {
            load_counts(call.counts, call.n, call.conditions, start, m.data());
            weigh(m.data(), program.first.data(), program.second.data(), n, now, sum.data());
            squared(now, program.new_a.data(), n, same_a.data());
            squared(now, program.new_joint.data(), n, same.data());
            std::fill_n(passed.data(), wide, 0.0);
            for (int64_t level = 0; level < program.levels; ++level, std::swap(now, next))
              merge(now, &program.next[level * n], &program.passed[level * n], int64_t{1} << level, n, sums.data(), next, passed.data());
            squared(now, program.new_b.data(), n, same_b.data());
          }
          for (int64_t l = 0; l < wide; ++l) {  // twice: pairs in all and those not tied, concordant minus discordant ones
            const double total = sum.data()[l], all = total * total;
            const double left = all - same_a.data()[l], right = all - same_b.data()[l];
            const double difference = left + same.data()[l] - same_b.data()[l] - 4 * passed.data()[l];
            store(call, start, x, y, l, difference / (call.method == Method::kTauA ? all - total : std::sqrt(left * right)), out);
          }
        }
      });
    }
  }
}

template <class T>
std::vector<Ranked> sides(const T* x, int64_t rows, int64_t pairs) {
  std::vector<Ranked> found;
  std::vector<double> values(pairs);
  Sorter sorter;
  for (int64_t r = 0; r < rows; ++r) {
    std::copy(x + r * pairs, x + (r + 1) * pairs, values.begin());
    found.push_back(ranked_side(values.data(), pairs, sorter));
  }
  return found;
}

}  // namespace

void resample(Dtype dtype, const void* a, const void* b, int64_t rows_a, int64_t rows_b, int64_t conditions, const int64_t* counts,
              int64_t n, Method method, void* out, int threads) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    const int64_t pairs = pairs_of(conditions);
    const Call call{sides(static_cast<const T*>(a), rows_a, pairs), sides(static_cast<const T*>(b), rows_b, pairs),
                    rows_a, rows_b, conditions, pairs, n, counts, method, threads};
    tau(method) ? kendall(call, static_cast<T*>(out)) : spearman(call, static_cast<T*>(out));
  };
  dtype == Dtype::kFloat64 ? run(double()) : run(float());
}

}  // namespace nk::rsa
