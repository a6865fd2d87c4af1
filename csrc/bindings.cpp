// The only file that knows Python. Pointers cross as integers; what computes releases the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/multiversion.h"
#include "common/pages.h"
#include "cpu/lif.h"

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

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.attr("version") = NK_VERSION;
  m.attr("isa") = isa();
  m.attr("compiler") = kCompiler;
  m.attr("has_openmp") = kHasOpenmp;
  m.def("expect_large_pages", [](Int address, Int bytes) { nk::expect_large_pages(at(address), bytes); });
  bind_lif(m);
}
