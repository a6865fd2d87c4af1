// The recurrences of LIF in float64.
#include "cpu/lif_kernels.h"

namespace nk::lif {

NK_VERSIONS(double)

}  // namespace nk::lif
