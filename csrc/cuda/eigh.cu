// Batched symmetric eigenproblems: one warp for a matrix to D = 32 (several of them to 16), one block to D = 128. See eigh_jacobi.cuh.
#include "cuda/eigh_jacobi.cuh"

#define NK_EIGH(NAME, ...)                                                               \
  NK_KERNEL(NAME, nk::eigh::Eigh, (nk::eigh::Solver<__VA_ARGS__>::kThreads)) {           \
    NK_SHARED(memory);                                                                   \
    nk::eigh::Solver<__VA_ARGS__> solver;                                                \
    solver.run(p, memory);                                                               \
  }

//                    size, groups, rows, parts, refetch
NK_EIGH(eigh_f32_8, float, 8, 1, 8, 1, false)
NK_EIGH(eigh_f32_16, float, 16, 1, 16, 1, false)
NK_EIGH(eigh_f32_32, float, 32, 1, 32, 1, false)
NK_EIGH(eigh_f32_64, float, 64, 2, 16, 4, false)
NK_EIGH(eigh_f32_128, float, 128, 4, 16, 8, false)
NK_EIGH(eigh_f64_8, double, 8, 1, 8, 1, false)
NK_EIGH(eigh_f64_16, double, 16, 1, 16, 1, false)
NK_EIGH(eigh_f64_32, double, 32, 1, 32, 1, false)
NK_EIGH(eigh_f64_64, double, 64, 2, 16, 4, false)
NK_EIGH(eigh_f64_128, double, 128, 4, 8, 16, true)
