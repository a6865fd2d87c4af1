// The solver for x86-64-v3.
#include "cpu/cca_level.h"

#if NK_EIGH_LEVELS
#pragma GCC target("arch=x86-64-v3")
#define NK_LEVEL v3
#define NK_REGISTER 32
#include "cpu/cca_solver.h"
#endif
