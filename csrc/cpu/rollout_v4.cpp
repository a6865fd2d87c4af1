// The rollout for x86-64-v4.
#include "cpu/rollout_level.h"

#if NK_ROLLOUT_LEVELS
#pragma GCC target("arch=x86-64-v4")
#define NK_LEVEL v4
#define NK_REGISTER 64
#include "cpu/rollout_kernel.h"
#endif
