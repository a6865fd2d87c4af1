// The rollout for every processor.
#include "cpu/rollout_level.h"

#define NK_LEVEL baseline
#define NK_REGISTER 16
#include "cpu/rollout_kernel.h"
