// Cholesky factors, and their inverses, of many small matrices: one per lane, in float64.
#pragma once

#include "cpu/cca_product.h"

namespace nk::cca::NK_LEVEL {
namespace {

/// Lower triangles of matrices first .. first + items - 1, of which some may be missing, from and to memory.
template <class T>
void read_triangles(const Triangles<T>& m, int64_t first, int items, Matrix s) {
  const T* a = m.a + first * m.batch;
  for (int j = 0; j < m.n; ++j) {
    for (int i = j; i < m.n; ++i) {
      V x = {};
      for (int l = 0; l < items; ++l) x[l] = static_cast<double>(a[l * m.batch + i * m.row + j * m.column]);
      s[j][i] = i == j ? x + m.ridge : x;
    }
  }
}

template <class T>
void write_triangles(int n, int items, Matrix s, I broken, T* out) {
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      const V x = j > i ? V{} : s[j][i], y = broken ? all(0.0) / 0.0 : x;
      for (int l = 0; l < items; ++l) out[(int64_t{l} * n + i) * n + j] = static_cast<T>(y[l]);
    }
  }
}

template <class T>
void factor_range(const Triangles<T>& m, int64_t begin, int64_t end) {
  const int64_t stride = Lanes::stride(m.n), size = stride * m.n;
  constexpr std::align_val_t kAlignment{64};
  V* room = static_cast<V*>(::operator new((2 * size + m.n) * sizeof(V), kAlignment));
  const Matrix s{room, stride}, inverse{room + size, stride};
  V* over = room + 2 * size;
  for (int64_t first = begin; first < end; first += kWide) {
    const int items = static_cast<int>(end - first < kWide ? end - first : kWide);
    const int64_t place = first * m.n * m.n;
    read_triangles(m, first, items, s);
    V poison = {};
    for (int j = 0; j < m.n; ++j)
      for (int i = j; i < m.n; ++i) poison += s[j][i] * 0.0;
    cholesky<Lanes>(m.n, s, all(m.ridge), over);
    for (int j = 0; j < m.n; ++j) poison += over[j] * 0.0;  // a pivot that is not positive
    const I broken = ~(poison == 0.0);
    if (m.factor) write_triangles(m.n, items, s, broken, m.factor + place);
    if (!m.inverse) continue;
    invert<Lanes>(m.n, s, over, inverse);
    write_triangles(m.n, items, inverse, broken, m.inverse + place);
  }
  ::operator delete(room, kAlignment);
}

}  // namespace
}  // namespace nk::cca::NK_LEVEL
