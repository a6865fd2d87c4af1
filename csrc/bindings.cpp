// The only file that knows Python. Pointers cross as integers; what computes releases the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/multiversion.h"
#include "common/pages.h"
#include "cpu/cca_small.h"
#include "cpu/dcca.h"
#include "cpu/eigh.h"
#include "cpu/lif.h"
#include "cpu/moments.h"
#include "cpu/rdm.h"
#include "cpu/rollout.h"
#include "cpu/rsa_loss.h"
#include "cpu/rsa_ranks.h"
#include "cpu/rsa_searchlight.h"

namespace py = pybind11;

namespace {

// The loader picks among these by the same rule as among the clones of a kernel.
#if NK_HAS_MULTIVERSION
__attribute__((target("default"))) const char* isa() { return "default"; }
__attribute__((target("arch=x86-64-v3"))) const char* isa() { return "x86-64-v3"; }
__attribute__((target("arch=x86-64-v4"))) const char* isa() { return "x86-64-v4"; }
#else
const char* isa() { return "default"; }
#endif

#ifdef __clang__
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "gcc " __VERSION__;
#endif

#ifdef _OPENMP
constexpr bool kHasOpenmp = true;
#else
constexpr bool kHasOpenmp = false;
#endif

// What Python hands over (neurokernels/ops/lif/cpu.py): addresses as integers, zero for null. All arguments are integers, because
// pybind11 takes a tenth of a tuple's time for one: a call on a tiny layer is mostly this.
using Int = int64_t;

template <class T = void>
T* at(Int address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

nk::lif::Series series(Int address, Int step, Int outer) { return {at(address), step, outer}; }

nk::lif::Rule make_rule(const std::array<int, 7>& c, const std::array<double, 9>& n) {
  using namespace nk::lif;
  return {static_cast<Reset>(c[0]), c[1] != 0, c[2] != 0, c[3], c[4] != 0, static_cast<Shape>(c[5]), static_cast<Residual>(c[6]),
          n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], nullptr, nullptr, nullptr, nullptr, nullptr, 0};
}

// Arguments that every function below begins with, in this order, and what they become.
#define NK_NEURON                                                                                                               \
  int dtype, Int steps, Int outer, Int inner, const nk::lif::Rule &shared, Int decay, Int threshold, Int gain, Int v_reset,     \
      Int table, Int v0, Int countdown, Int table_size
#define NK_TAKE_NEURON                                                                                                          \
  const nk::lif::Size size{steps, outer, inner};                                                                                \
  const nk::lif::Start start{at(v0), at<int32_t>(countdown)};                                                                   \
  const nk::Dtype type = static_cast<nk::Dtype>(dtype);                                                                         \
  nk::lif::Rule rule = shared;                                                                                                  \
  rule.decays = at(decay), rule.thresholds = at(threshold), rule.gains = at(gain), rule.v_resets = at(v_reset);                 \
  rule.table = at(table), rule.table_size = table_size;
#define NK_SERIES(name) Int name##_data, Int name##_step, Int name##_outer
#define NK_TAKE(name) series(name##_data, name##_step, name##_outer)

void bind_lif(py::module_& m) {
  using namespace nk::lif;
  const auto release = py::call_guard<py::gil_scoped_release>();
  py::class_<Rule>(m, "LifRule").def(py::init(&make_rule));
  m.def("lif_forward",
        [](NK_NEURON, NK_SERIES(x), NK_SERIES(spikes), Int membrane, Int left, Int residual, Int counts, int threads) {
          NK_TAKE_NEURON
          forward(type, size, rule, start, NK_TAKE(x), NK_TAKE(spikes), at(membrane), at<int32_t>(left),
                  {at(residual), at<uint8_t>(counts)}, threads);
        },
        release);
  m.def("lif_backward",
        [](NK_NEURON, NK_SERIES(x), NK_SERIES(g), Int g_membrane, Int residual, Int counts, NK_SERIES(dx), Int dv0, Int ddecay,
           Int dthreshold, Int dgain, Int dv_reset, int threads) {
          NK_TAKE_NEURON
          backward(type, size, rule, start, NK_TAKE(x), NK_TAKE(g), at(g_membrane), {at(residual), at<uint8_t>(counts)},
                   {NK_TAKE(dx), at(dv0), at(ddecay), at(dthreshold), at(dgain), at(dv_reset)}, threads);
        },
        release);
  m.def("lif_tangent",
        [](NK_NEURON, NK_SERIES(x), NK_SERIES(dx), Int dv0, Int ddecay, Int dthreshold, Int dgain, Int dv_reset, NK_SERIES(spikes),
           Int membrane, int threads) {
          NK_TAKE_NEURON
          tangent(type, size, rule, start, NK_TAKE(x), {NK_TAKE(dx), at(dv0), at(ddecay), at(dthreshold), at(dgain), at(dv_reset)},
                  NK_TAKE(spikes), at(membrane), threads);
        },
        release);
  m.def("leaky_forward",
        [](NK_NEURON, NK_SERIES(x), NK_SERIES(trace), int threads) {
          NK_TAKE_NEURON
          leaky_forward(type, size, rule, start.membrane, NK_TAKE(x), NK_TAKE(trace), threads);
        },
        release);
  m.def("leaky_backward",
        [](NK_NEURON, NK_SERIES(x), NK_SERIES(trace), NK_SERIES(g), NK_SERIES(dx), Int dv0, Int ddecay, Int dgain, int threads) {
          NK_TAKE_NEURON
          leaky_backward(type, size, rule, start.membrane, NK_TAKE(x), NK_TAKE(trace), NK_TAKE(g),
                         {NK_TAKE(dx), at(dv0), at(ddecay), nullptr, at(dgain), nullptr}, threads);
        },
        release);
  m.def("leaky_tangent",
        [](NK_NEURON, NK_SERIES(x), NK_SERIES(trace), NK_SERIES(dx), Int dv0, Int ddecay, Int dgain, NK_SERIES(out), int threads) {
          NK_TAKE_NEURON
          leaky_tangent(type, size, rule, start.membrane, NK_TAKE(x), NK_TAKE(trace),
                        {NK_TAKE(dx), at(dv0), at(ddecay), nullptr, at(dgain), nullptr}, NK_TAKE(out), threads);
        },
        release);
}

// A batch of matrices: address, items, rows, columns, elements from item to item and from row to row.
#define NK_MATRICES Int x, Int items, Int rows, Int columns, Int item, Int row
#define NK_TAKE_MATRICES \
  { at(x), items, rows, columns, item, row }

void bind_moments(py::module_& m) {
  using namespace nk::moments;
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.def("centre",
        [](int dtype, NK_MATRICES, Int mean, int to, Int out, Int out_row, Int total, int threads) {
          centre(static_cast<nk::Dtype>(dtype), NK_TAKE_MATRICES, at(mean), static_cast<nk::Dtype>(to), at(out), out_row,
                 at<double>(total), threads);
        },
        release);
  m.def("covariance",
        [](int dtype, NK_MATRICES, double scale, Int mean, Int out, int threads) {
          covariance(static_cast<nk::Dtype>(dtype), NK_TAKE_MATRICES, scale, at(mean), at(out), threads);
        },
        release);
  m.def("covariance_gradient",
        [](int dtype, NK_MATRICES, double scale, Int g, Int dx, int threads) {
          covariance_gradient(static_cast<nk::Dtype>(dtype), NK_TAKE_MATRICES, scale, at(g), at(dx), threads);
        },
        release);
}

template <class T>
void run_eigh(Int count, int n, Int a, Int batch, Int row, Int column, Int values, Int vectors, int threads, int level) {
  const nk::eigh::Problem<T> problem{count, n, at<const T>(a), batch, row, column, at<T>(values), at<T>(vectors)};
  nk::eigh::solve(problem, threads, static_cast<nk::eigh::Level>(level));
}

void bind_eigh(py::module_& m) {
  m.attr("eigh_limit") = nk::eigh::kLimit;
  std::vector<int> levels;
  for (int level = 0; level <= static_cast<int>(nk::eigh::Level::kBaseline); ++level)
    if (nk::eigh::has(static_cast<nk::eigh::Level>(level))) levels.push_back(level);
  m.attr("eigh_levels") = py::cast(levels);  // instruction sets, best first; -1 stands for the first
  m.def(
      "eigh",
      [](int dtype, Int count, int n, Int a, Int a_batch, Int a_row, Int a_col, Int values, Int vectors, int threads, int level) {
        const auto run = static_cast<nk::Dtype>(dtype) == nk::Dtype::kFloat64 ? run_eigh<double> : run_eigh<float>;
        run(count, n, a, a_batch, a_row, a_col, values, vectors, threads, level);
      },
      py::arg("dtype"), py::arg("count"), py::arg("n"), py::arg("a"), py::arg("a_batch"), py::arg("a_row"), py::arg("a_col"),
      py::arg("values"), py::arg("vectors"), py::arg("threads"), py::arg("level") = -1,
      py::call_guard<py::gil_scoped_release>());
}

void bind_rollout(py::module_& m) {
  using namespace nk::rollout;
  const auto release = py::call_guard<py::gil_scoped_release>();
  std::vector<int> levels;
  for (int level = 0; level <= static_cast<int>(Level::kBaseline); ++level)
    if (has(static_cast<Level>(level))) levels.push_back(level);
  m.attr("rollout_levels") = py::cast(levels);  // instruction sets, best first; -1 stands for the first
  m.def("rollout",
        [](Int agents, Int weights, Int mask, int units, int layers, Int layer_ends, Int first, Int rows, int activation, Int count,
           int height, int width, Int walls, Int start, Int goal, Int facing, Int steps, bool forget, Int knots,
           const std::array<Int, 4>& from, const std::array<Int, 4>& to, Int goals, int threads, int level) {
          const auto state = [](const std::array<Int, 4>& s) {
            return State{at<int32_t>(s[0]), at<int32_t>(s[1]), at<int32_t>(s[2]), at<float>(s[3])};
          };
          const State before = state(from), after = state(to);
          run({agents, at<const float>(weights), at<const uint8_t>(mask)},
              {units, layers, at<const int32_t>(layer_ends), at<const int32_t>(first), at<const int32_t>(rows),
               static_cast<Activation>(activation)},
              {count, height, width, at<const uint8_t>(walls), at<const int32_t>(start), at<const int32_t>(goal), at<const int32_t>(facing)},
              {steps, forget, at<const int32_t>(knots)}, from[0] ? &before : nullptr, to[0] ? &after : nullptr, at<int32_t>(goals),
              threads, static_cast<Level>(level));
        },
        release);
  m.def("offspring",
        [](Int agents, Int edges, Int kept, Int weights, Int mask, Int parents, uint32_t generation, uint64_t seed, uint64_t severance,
           float mutation, float limit, Int new_weights, Int new_mask, int threads) {
          offspring({agents, edges, kept, at<const float>(weights), at<const uint8_t>(mask), at<const int64_t>(parents), generation, seed,
                     severance, mutation, limit},
                    at<float>(new_weights), at<uint8_t>(new_mask), threads);
        },
        release);
}

// Two views of the same samples: items, rows, and of each view its address, columns, and elements from item to item and from row to row.
#define NK_VIEWS Int items, Int rows, Int x, Int d1, Int x_item, Int x_row, Int y, Int d2, Int y_item, Int y_row
#define NK_TAKE_VIEWS \
  { {at(x), items, rows, d1, x_item, x_row}, {at(y), items, rows, d2, y_item, y_row} }

template <class T>
void run_cholesky(Int count, int n, Int a, Int batch, Int row, Int column, double ridge, Int factor, Int inverse, int threads, int level) {
  const nk::cca::Triangles<T> problem{count, n, at<const T>(a), batch, row, column, ridge, at<T>(factor), at<T>(inverse)};
  nk::cca::cholesky(problem, threads, static_cast<nk::cca::Level>(level));
}

void bind_cca(py::module_& m) {
  using namespace nk::cca;
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.attr("cca_limit") = kLimit;
  m.def("dcca_small",
        [](int dtype, NK_VIEWS, double r1, double r2, int objective, int k, Int value, Int weights, Int mean, int threads, int level) {
          dcca(static_cast<nk::Dtype>(dtype), NK_TAKE_VIEWS, {r1, r2}, static_cast<Objective>(objective), k, at(value), at(weights),
               at(mean), threads, static_cast<Level>(level));
        },
        release);
  m.def("dcca_small_gradient",
        [](int dtype, NK_VIEWS, Int g, Int g_item, Int weights, Int dx, Int dy, int threads, int level) {
          dcca_gradient(static_cast<nk::Dtype>(dtype), NK_TAKE_VIEWS, at(g), g_item, at(weights), at(dx), at(dy), threads,
                        static_cast<Level>(level));
        },
        release);
  m.def("correlations_small",
        [](int dtype, NK_VIEWS, double r1, double r2, Int values, Int ex, Int ax, Int ey, Int by, int threads, int level) {
          correlations(static_cast<nk::Dtype>(dtype), NK_TAKE_VIEWS, {r1, r2}, at(values), {at(ex), at(ax), at(ey), at(by)}, threads,
                       static_cast<Level>(level));
        },
        release);
  m.def("cholesky",
        [](int dtype, Int count, int n, Int a, Int a_batch, Int a_row, Int a_col, double ridge, Int factor, Int inverse, int threads,
           int level) {
          const auto run = static_cast<nk::Dtype>(dtype) == nk::Dtype::kFloat64 ? run_cholesky<double> : run_cholesky<float>;
          run(count, n, a, a_batch, a_row, a_col, ridge, factor, inverse, threads, level);
        },
        release);
}

void bind_dcca(py::module_& m) {
  using namespace nk::dcca;
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.def("covariance_pair",
        [](int dtype, NK_VIEWS, double scale, Int mean, Int out, int threads) {
          const nk::moments::In views[] = NK_TAKE_VIEWS;
          nk::moments::covariance(static_cast<nk::Dtype>(dtype), views[0], views[1], scale, at(mean), at(out), threads);
        },
        release);
  m.def("dcca",
        [](int dtype, NK_VIEWS, double r1, double r2, int objective, int precision, Int value, Int weights, Int mean, Int failed, int threads) {
          const nk::moments::In views[] = NK_TAKE_VIEWS;
          solve({static_cast<nk::Dtype>(dtype), views[0], views[1], r1, r2, static_cast<Objective>(objective),
                 static_cast<nk::dense::Precision>(precision)},
                at(value), at(weights), at(mean), at<uint8_t>(failed), threads);
        },
        release);
}

void bind_rdm(py::module_& m) {
  using namespace nk::rdm;
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.def("rdm",
        [](int dtype, int metric, const std::array<Int, 8>& x, bool square, Int out, int threads) {
          forward(static_cast<nk::Dtype>(dtype), static_cast<Metric>(metric), {at(x[0]), x[1], x[2], x[3], x[4], x[5], x[6], x[7]}, square,
                  at(out), threads);
        },
        release);
  m.def("rdm_gradient",
        [](int dtype, int metric, const std::array<Int, 8>& x, bool square, Int g, Int d, Int dx, int threads) {
          backward(static_cast<nk::Dtype>(dtype), static_cast<Metric>(metric), {at(x[0]), x[1], x[2], x[3], x[4], x[5], x[6], x[7]}, square,
                   at(g), at(d), at(dx), threads);
        },
        release);
}

template <class T>
void run_log_odds(Int tile, Int items, Int rows, Int columns, Int item, Int row, bool diagonal, Int target, Int target_item, Int target_row,
                  Int images, Int first_row, Int first_column, const nk::rsa::LogOdds& how, bool gradient, Int sums, int threads) {
  nk::rsa::log_odds<T>({at<T>(tile), items, rows, columns, item, row, diagonal}, {at<const T>(target), target_item, target_row, images},
                       first_row, first_column, how, gradient, at<double>(sums), threads);
}

void bind_rsa_loss(py::module_& m) {
  using namespace nk::rsa;
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.def("rsa_unit_rows",
        [](int dtype, NK_MATRICES, Int mean, Int mean_item, const std::vector<Int>& widths, bool centred, Int roots, Int f, Int norms,
           int threads) {
          const Layers layers{static_cast<Int>(widths.size()), widths.data(), centred};
          unit_rows(static_cast<nk::Dtype>(dtype), NK_TAKE_MATRICES, at(mean), mean_item, layers, at(roots), at(f), at(norms), threads);
        },
        release);
  m.def("rsa_unit_rows_gradient",
        [](int dtype, Int items, Int rows, Int columns, const std::vector<Int>& widths, bool centred, Int roots, Int norms, Int f, Int df,
           Int shares, int threads) {
          const Layers layers{static_cast<Int>(widths.size()), widths.data(), centred};
          unit_rows_gradient(static_cast<nk::Dtype>(dtype), items, rows, columns, layers, at(roots), at(norms), at(f), at(df),
                             at<double>(shares), threads);
        },
        release);
  m.def("rsa_log_odds",
        [](int dtype, Int tile, Int items, Int rows, Int columns, Int item, Int row, bool diagonal, Int target, Int target_item,
           Int target_row, Int images, Int first_row, Int first_column, double eps, double weight, bool flipped, bool bounded,
           bool gradient, Int sums, int threads) {
          const auto run = static_cast<nk::Dtype>(dtype) == nk::Dtype::kFloat64 ? run_log_odds<double> : run_log_odds<float>;
          run(tile, items, rows, columns, item, row, diagonal, target, target_item, target_row, images, first_row, first_column,
              {eps, weight, flipped, bounded}, gradient, sums, threads);
        },
        release);
}

void bind_rsa_inference(py::module_& m) {
  using namespace nk::rsa;
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.def("rdm_features",
        [](int dtype, Int x, Int rows, Int pairs, Int conditions, int method, Int out, Int norm, int threads) {
          features(static_cast<nk::Dtype>(dtype), at(x), rows, pairs, conditions, static_cast<Method>(method), at(out), at(norm), threads);
        },
        release);
  m.def("rdm_concordance",
        [](int dtype, Int a, Int b, Int items, Int rows_a, Int rows_b, Int pairs, int method, Int out, int threads) {
          concordance(static_cast<nk::Dtype>(dtype), at(a), at(b), items, rows_a, rows_b, pairs, static_cast<Method>(method), at(out),
                      threads);
        },
        release);
  m.def("rdm_resample",
        [](int dtype, Int a, Int b, Int rows_a, Int rows_b, Int conditions, Int counts, Int n, int method, Int out, int threads) {
          resample(static_cast<nk::Dtype>(dtype), at(a), at(b), rows_a, rows_b, conditions, at<const int64_t>(counts), n,
                   static_cast<Method>(method), at(out), threads);
        },
        release);
  m.def("searchlight",
        [](int dtype, Int data, Int items, Int channels, Int parts, Int row, Int conditions, Int indices, Int offsets, Int centres, int metric,
           Int models, Int count, int method, Int out, int threads) {
          searchlight(static_cast<nk::Dtype>(dtype),
                      {at(data), items, channels, parts, row, conditions, at<const int64_t>(indices), at<const int64_t>(offsets), centres},
                      static_cast<Metric>(metric), at<const double>(models), count, static_cast<Method>(method), at(out), threads);
        },
        release);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.attr("version") = NK_VERSION;
  m.attr("isa") = isa();
  m.attr("compiler") = kCompiler;
  m.attr("has_openmp") = kHasOpenmp;
  m.def("expect_large_pages", [](Int address, Int bytes) { nk::expect_large_pages(at(address), bytes); });
  bind_cca(m);
  bind_dcca(m);
  bind_eigh(m);
  bind_lif(m);
  bind_moments(m);
  bind_rdm(m);
  bind_rollout(m);
  bind_rsa_loss(m);
  bind_rsa_inference(m);
}
