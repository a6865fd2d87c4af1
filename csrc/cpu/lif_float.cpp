// The recurrences of LIF in float32, from and to float32 and 16-bit rows.
#include "cpu/lif_kernels.h"

namespace nk::lif {

NK_VERSIONS(float)

namespace {

template <class Storage>
NK_INLINE void widen_all(const void* from, int64_t stride, Rows<float> to, int steps, int lanes) {
  for (int t = 0; t < steps; ++t) {
    const Storage* in = static_cast<const Storage*>(from) + t * stride;
    float* out = to[t];
    NK_LANES out[l] = widen(in[l]);
  }
}

template <class Storage>
NK_INLINE void narrow_all(Rows<float> from, void* to, int64_t stride, int steps, int lanes) {
  for (int t = 0; t < steps; ++t) {
    const float* in = from[t];
    Storage* out = static_cast<Storage*>(to) + t * stride;
    NK_LANES out[l] = narrow<Storage>(in[l]);
  }
}

}  // namespace

NK_MULTIVERSION void widen_rows(Dtype dtype, const void* from, int64_t from_stride, Rows<float> to, int steps, int lanes) {
  dtype == Dtype::kBfloat16 ? widen_all<Bfloat16>(from, from_stride, to, steps, lanes)
                            : widen_all<Float16>(from, from_stride, to, steps, lanes);
}

NK_MULTIVERSION void narrow_rows(Dtype dtype, Rows<float> from, void* to, int64_t to_stride, int steps, int lanes) {
  dtype == Dtype::kBfloat16 ? narrow_all<Bfloat16>(from, to, to_stride, steps, lanes)
                            : narrow_all<Float16>(from, to, to_stride, steps, lanes);
}

}  // namespace nk::lif
