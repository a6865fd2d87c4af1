// The solver for x86-64-v4.
#include "cpu/cca_level.h"

#if NK_EIGH_LEVELS
#pragma GCC target("arch=x86-64-v4")
#define NK_LEVEL v4
#define NK_REGISTER 64
#include "cpu/cca_solver.h"
#endif
