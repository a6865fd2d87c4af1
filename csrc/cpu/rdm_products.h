// Products of packed patterns by a register-blocked micro-kernel per instruction set (rdm_products.cpp).
#pragma once

#include <cstdint>

#include "cpu/covariance_gram.h"

namespace nk::rdm {

using moments::kLine;

/// c [rows, columns] += a' b over `depth` channels. Patterns are packed by lines: of a line of patterns, kLine numbers per channel, one
/// channel after the other; `sliver` elements lie between lines. What the covariance's products read is rows of a panel, a part of each at
/// a time: that misses the prefetchers, and took up to twice as long where panels are wide.
///
/// c has room for columns up to a multiple of kLine; what lies there means nothing. With `upper` what lies below its diagonal may be left
/// out.
template <class T>
struct Slivers {
  const T *a, *b;
  T* c;
  int64_t sliver, c_stride;
  int rows, columns, depth;
};

void add_slivers(const Slivers<float>& p, bool upper);
void add_slivers(const Slivers<double>& p, bool upper);

}  // namespace nk::rdm
