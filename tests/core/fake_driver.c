// A libcuda.so.1 for CuPy to find: modules are the emulator's libraries, and a launch runs there and says what it was given.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef const char* (*Emulate)(void*, const void*, const unsigned*, const unsigned*, unsigned, int, unsigned);
static void* library;

int cuInit(unsigned flags) { return (void)flags, 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuGetErrorName(int code, const char** text) { return (void)code, *text = "FAKE_ERROR", 0; }
int cuGetErrorString(int code, const char** text) { return (void)code, *text = "of the fake driver", 0; }

int cuModuleLoadData(void** module, const void* image) {
  printf("load %.4s\n", (const char*)image + 1);
  library = dlopen(getenv("FAKE_LIBRARY"), RTLD_NOW);
  return *module = library, library ? 0 : 300;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  printf("function %s\n", name);
  return *function = dlsym(module, name), *function ? 0 : 500;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  return (void)function, printf("attribute %d %d\n", attribute, value), 0;
}

int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream,
                   void** parameters, void** extra) {
  printf("launch %u %u %u, %u %u %u, %u, stream %ld, extra %ld\n", gx, gy, gz, bx, by, bz, shared, (long)stream, (long)extra);
  const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
  const char* said = ((Emulate)dlsym(library, "nk_emulate"))(f, parameters[0], grid, block, shared, 0, 0);
  if (said) printf("%s\n", said);
  return fflush(stdout), said ? 719 : 0;
}
