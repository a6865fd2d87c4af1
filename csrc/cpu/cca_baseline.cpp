// The solver for every processor.
#include "cpu/cca_level.h"

#define NK_LEVEL baseline
#define NK_REGISTER 16
#include "cpu/cca_solver.h"
