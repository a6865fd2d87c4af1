// What the kernels of lif.h share: blocks of neurons whose state stays in the L1 cache while time runs over them.
//
// A kernel works on one block of at most kLanes neurons and one chunk of at most kChunk steps at a time. Rows of float32 and float64
// tensors are read and written where they are; rows of 16-bit types pass through a buffer, so that the recurrences exist for
// two types only. Recurrences are separate functions (lif_kernels.h), compiled for several instruction sets.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/parallel.h"
#include "cpu/lif.h"

namespace nk::lif {

/// Neurons per block: 2 KB of float32 per row, half a page, and a state of 14 KB.
constexpr int kLanes = 512;

/// Parameters and state of one block.
template <class T>
struct alignas(64) Lanes {
  T decay[kLanes], threshold[kLanes], reset_at[kLanes], gain[kLanes], v_reset[kLanes], c[kLanes];
  int32_t left[kLanes];
};

/// What is the same for every lane. Without a floor `floor` is NaN: no comparison with it holds.
template <class T>
struct Uniform {
  T floor, peak, slope, low, high;
  const T* table;
  int64_t table_size;
  int32_t refractory;
  bool boxcar, parameters;  // whether the surrogate is a box; whether decay, threshold, gain and v_reset are numbers
};

/// Rows of a chunk: row t starts at data + t * stride.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;
  T* operator[](int64_t t) const { return data + t * stride; }
  explicit operator bool() const { return data != nullptr; }
  operator Rows<const T>() const { return {data, stride}; }
};

/// Rows of a type that only the dtype tells; the stride is in elements.
template <class Void>
struct UntypedRows {
  Void* data = nullptr;
  int64_t stride = 0;
  template <class T>
  Rows<T> as() const {
    return {static_cast<T*>(data), stride};
  }
};
template <>
struct Rows<void> : UntypedRows<void> {};
template <>
struct Rows<const void> : UntypedRows<const void> {};

/// A chunk's rows of every kind; only those that a kernel names are filled.
template <class T>
struct alignas(64) Buffer {
  T rows[kChunk][kLanes];
  operator Rows<T>() { return {rows[0], kLanes}; }
};

struct Block {
  int64_t outer, begin, first;  // outer index, first lane within inner, and that lane's index among all neurons
  int lanes;
};

/// Calls f(block) for every block, on several threads where there is enough to do.
template <class F>
void for_each_block(Size size, int threads, F&& f) {
  const int64_t across = (size.inner + kLanes - 1) / kLanes;
  const int64_t work = std::max<int64_t>(1, size.steps * std::min<int64_t>(size.inner, kLanes));
  const int64_t grain = (32768 + work - 1) / work;  // a thread's start costs some microseconds: give it ten times that
  parallel_for(size.outer * across, grain, threads, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      const int64_t outer = task / across, begin = task % across * kLanes;
      f(Block{outer, begin, outer * size.inner + begin, static_cast<int>(std::min<int64_t>(kLanes, size.inner - begin))});
    }
  });
}

template <class T>
void fill(T* to, const void* values, double number, const Block& block) {
  if (values) {
    std::memcpy(to, static_cast<const T*>(values) + block.first, sizeof(T) * block.lanes);
  } else {
    std::fill_n(to, block.lanes, static_cast<T>(number));
  }
}

template <class T>
void load(Lanes<T>& s, const Rule& rule, Start start, const Block& block) {
  fill(s.decay, rule.decays, rule.decay, block);
  fill(s.threshold, rule.thresholds, rule.threshold, block);
  fill(s.gain, rule.gains, rule.gain, block);
  fill(s.v_reset, rule.v_resets, rule.v_reset, block);
  fill(s.c, start.membrane, 0.0, block);
  fill(s.left, start.countdown, 0.0, block);
  // "above" as a comparison with the next number up, no reset as one with NaN, which nothing reaches. Nothing lies above infinity.
  constexpr T infinity = std::numeric_limits<T>::infinity(), never = std::numeric_limits<T>::quiet_NaN();
  if (rule.reset == Reset::kNone) {
    std::fill_n(s.reset_at, block.lanes, never);
  } else if (!rule.above) {
    std::copy_n(s.threshold, block.lanes, s.reset_at);
  } else {
    std::transform(s.threshold, s.threshold + block.lanes, s.reset_at,
                   [](T theta) { return theta == infinity ? never : std::nextafter(theta, infinity); });
  }
}

template <class T>
Uniform<T> uniform(const Rule& rule) {
  const T floor = rule.has_floor ? static_cast<T>(rule.floor) : std::numeric_limits<T>::quiet_NaN();
  return {floor,
          static_cast<T>(rule.peak),
          static_cast<T>(rule.slope),
          static_cast<T>(rule.low),
          static_cast<T>(rule.high),
          static_cast<const T*>(rule.table),
          rule.table_size,
          rule.refractory,
          rule.shape == Shape::kBoxcar,
          !rule.decays && !rule.thresholds && !rule.gains && !rule.v_resets};
}

/// Rows of a tensor over time from step t on, where they are.
template <class T>
Rows<T> at(const Series& series, const Block& block, int64_t t) {
  return {static_cast<T*>(series.data) + t * series.step + block.outer * series.outer + block.begin, series.step};
}

/// One step's row of a contiguous [*, neurons] tensor.
template <class T>
T* row(void* data, const Size& size, const Block& block, int64_t index) {
  return static_cast<T*>(data) + index * size.outer * size.inner + block.first;
}

// lif_kernels.h --------------------------------------------------------------------------------------------------------------------

/// 16-bit rows to and from a buffer of float rows.
void widen_rows(Dtype dtype, const void* from, int64_t from_stride, Rows<float> to, int steps, int lanes);
void narrow_rows(Dtype dtype, Rows<float> from, void* to, int64_t to_stride, int steps, int lanes);

/// The recurrence without refractory steps, from and to rows of any dtype: writes spikes, and two bits per step if `words` is given.
template <class T>
void fire_chunk(const Rule& rule, const Uniform<T>& k, Dtype dtype, Lanes<T>& s, Rows<const void> x, Rows<void> spikes, uint32_t* words,
                int steps, int lanes);

/// The recurrence that keeps u, and which steps rest if there are refractory steps.
template <class T>
void replay_chunk(const Rule& rule, const Uniform<T>& k, Dtype dtype, Lanes<T>& s, Rows<const void> x, Rows<T> u,
                  Rows<uint8_t> resting, int steps, int lanes);

/// Spikes and bits from the membranes.
template <class T>
void spike_chunk(const Lanes<T>& s, Rows<const T> u, Rows<T> spikes, int steps, int lanes);
template <class T>
void bits_chunk(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, Rows<const T> u, Rows<const uint8_t> resting, uint32_t* words,
                int steps, int lanes);

/// Which steps rest, from the membranes.
template <class T>
void rest_chunk(const Uniform<T>& k, Lanes<T>& s, Rows<const T> u, Rows<uint8_t> resting, int steps, int lanes);

/// The carried membrane after a step, from its u.
template <class T>
void carry(const Rule& rule, const Lanes<T>& s, const T* u, T* c, int lanes);

/// The surrogate derivative at u - threshold.
template <class T>
void surrogate_chunk(Shape shape, const Uniform<T>& k, const Lanes<T>& s, Rows<const T> u, Rows<T> sigma, int steps, int lanes);

/// Sums over time of the gradients of parameters: all null, the decay's alone, or none null.
template <class T>
struct Sums {
  T *decay, *threshold, *gain, *v_reset;
  bool any() const { return decay; }
  bool only_decay() const { return decay && !gain; }
};

/// The chunk's rows that a derivative reads.
template <class T>
struct Replayed {
  Rows<const T> u, sigma;       // sigma null: the shape is kLorentz and is computed on the way
  Rows<const uint8_t> resting;  // null without refractory steps
  const T* before;              // the carried membrane before the chunk
};

/// The backward recurrence through u; `a` is dL/dc, in and out. x is read for the gradient of the gain only.
template <class T>
void reverse_chunk(const Rule& rule, const Uniform<T>& k, Dtype dtype, const Lanes<T>& s, const Replayed<T>& r, Rows<const void> x,
                   Rows<const void> g, Rows<void> dx, T* a, const Sums<T>& sums, int steps, int lanes);

/// The backward recurrence through two bits per step.
template <class T>
void reverse_bits_chunk(const Rule& rule, const Uniform<T>& k, Dtype dtype, const Lanes<T>& s, const uint32_t* words, Rows<const void> g,
                        Rows<void> dx, T* a, int steps, int lanes);

/// Tangents of one block's parameters.
template <class T>
struct alignas(64) Directions {
  T decay[kLanes], threshold[kLanes], gain[kLanes], v_reset[kLanes], c[kLanes];
};

/// The tangent recurrence.
template <class T>
void tangent_chunk(const Rule& rule, const Uniform<T>& k, const Lanes<T>& s, const Replayed<T>& r, Rows<const T> x,
                   Directions<T>& d, Rows<const T> dx, Rows<T> dspikes, int steps, int lanes);

}  // namespace nk::lif
