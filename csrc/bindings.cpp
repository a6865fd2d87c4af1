// The only file that knows Python. Pointers cross as integers; what computes releases the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/multiversion.h"
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

// What Python hands over (neurokernels/ops/lif/cpu.py): addresses as integers, zero for null.
using Address = uintptr_t;
using Strided = std::array<int64_t, 3>;  // address, elements per step, elements per outer index
using Codes = std::array<int, 7>;        // rule.py: pack
using Numbers = std::array<double, 9>;
using Parameters = std::array<Address, 5>;  // decay, threshold, gain, v_reset, table

template <class T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

nk::lif::Series series(const Strided& s) { return {pointer(static_cast<Address>(s[0])), s[1], s[2]}; }

nk::lif::Size size_of(const std::array<int64_t, 3>& s) { return {s[0], s[1], s[2]}; }

nk::lif::Rule rule_of(const Codes& c, const Numbers& n, const Parameters& p, int64_t table_size) {
  using namespace nk::lif;
  return {static_cast<Reset>(c[0]), c[1] != 0,        c[2] != 0,        c[3],
          c[4] != 0,                static_cast<Shape>(c[5]), static_cast<Residual>(c[6]),
          n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8],
          pointer(p[0]), pointer(p[1]), pointer(p[2]), pointer(p[3]), pointer(p[4]), table_size};
}

void bind_lif(py::module_& m) {
  using namespace nk::lif;
  using nk::Dtype;
  using Size3 = std::array<int64_t, 3>;
  using Pair = std::array<Address, 2>;
  using Five = std::array<Address, 5>;
  const auto release = py::call_guard<py::gil_scoped_release>();
  m.def("lif_forward",
        [](int dtype, const Size3& size, const Codes& codes, const Numbers& numbers, const Parameters& parameters, int64_t table_size,
           const Pair& start, const Strided& x, const Strided& spikes, Address membrane, Address countdown, const Pair& kept,
           int threads) {
          const Rule rule = rule_of(codes, numbers, parameters, table_size);
          forward(static_cast<Dtype>(dtype), size_of(size), rule, {pointer(start[0]), pointer<int32_t>(start[1])}, series(x),
                  series(spikes), pointer(membrane), pointer<int32_t>(countdown), {pointer(kept[0]), pointer<uint8_t>(kept[1])}, threads);
        },
        release);
  m.def("lif_backward",
        [](int dtype, const Size3& size, const Codes& codes, const Numbers& numbers, const Parameters& parameters, int64_t table_size,
           const Pair& start, const Strided& x, const Strided& g, Address g_membrane, const Pair& kept, const Strided& dx,
           const Five& grads, int threads) {
          const Rule rule = rule_of(codes, numbers, parameters, table_size);
          const Gradients gradients{series(dx), pointer(grads[0]), pointer(grads[1]), pointer(grads[2]), pointer(grads[3]), pointer(grads[4])};
          backward(static_cast<Dtype>(dtype), size_of(size), rule, {pointer(start[0]), pointer<int32_t>(start[1])}, series(x), series(g),
                   pointer(g_membrane), {pointer(kept[0]), pointer<uint8_t>(kept[1])}, gradients, threads);
        },
        release);
  m.def("lif_tangent",
        [](int dtype, const Size3& size, const Codes& codes, const Numbers& numbers, const Parameters& parameters, int64_t table_size,
           const Pair& start, const Strided& x, const Strided& dx, const Five& directions, const Strided& spikes, Address membrane,
           int threads) {
          const Rule rule = rule_of(codes, numbers, parameters, table_size);
          const Tangents tangents{series(dx), pointer(directions[0]), pointer(directions[1]), pointer(directions[2]), pointer(directions[3]),
                                  pointer(directions[4])};
          tangent(static_cast<Dtype>(dtype), size_of(size), rule, {pointer(start[0]), pointer<int32_t>(start[1])}, series(x), tangents,
                  series(spikes), pointer(membrane), threads);
        },
        release);
  m.def("leaky_forward",
        [](int dtype, const Size3& size, const Codes& codes, const Numbers& numbers, const Parameters& parameters, Address v0,
           const Strided& x, const Strided& trace, int threads) {
          leaky_forward(static_cast<Dtype>(dtype), size_of(size), rule_of(codes, numbers, parameters, 0), pointer(v0), series(x),
                        series(trace), threads);
        },
        release);
  m.def("leaky_backward",
        [](int dtype, const Size3& size, const Codes& codes, const Numbers& numbers, const Parameters& parameters, Address v0,
           const Strided& x, const Strided& trace, const Strided& g, const Strided& dx, const std::array<Address, 3>& grads, int threads) {
          const Gradients gradients{series(dx), pointer(grads[0]), pointer(grads[1]), nullptr, pointer(grads[2]), nullptr};
          leaky_backward(static_cast<Dtype>(dtype), size_of(size), rule_of(codes, numbers, parameters, 0), pointer(v0), series(x),
                         series(trace), series(g), gradients, threads);
        },
        release);
  m.def("leaky_tangent",
        [](int dtype, const Size3& size, const Codes& codes, const Numbers& numbers, const Parameters& parameters, Address v0,
           const Strided& x, const Strided& trace, const Strided& dx, const std::array<Address, 3>& directions, const Strided& out,
           int threads) {
          const Tangents tangents{series(dx), pointer(directions[0]), pointer(directions[1]), nullptr, pointer(directions[2]), nullptr};
          leaky_tangent(static_cast<Dtype>(dtype), size_of(size), rule_of(codes, numbers, parameters, 0), pointer(v0), series(x),
                        series(trace), tangents, series(out), threads);
        },
        release);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.attr("version") = NK_VERSION;
  m.attr("isa") = isa();
  m.attr("compiler") = kCompiler;
  m.attr("has_openmp") = kHasOpenmp;
  bind_lif(m);
}
