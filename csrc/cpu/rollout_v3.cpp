// The rollout for x86-64-v3.
#include "cpu/rollout_level.h"

#if NK_ROLLOUT_LEVELS
#pragma GCC target("arch=x86-64-v3")
#define NK_LEVEL v3
#define NK_REGISTER 32
#include "cpu/rollout_kernel.h"
#endif
