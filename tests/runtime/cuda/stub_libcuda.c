/* A libcuda on host memory, all work done at once: for cuda-python to call where there is no driver. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef unsigned long long Pointer;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NOT_FOUND = 500 };

static void *contexts[64];
static int depth;
static char primary, captured, executable;

static Result check(int right) { return right ? OK : INVALID_VALUE; }

static Result reserve(void **pointer, size_t size) {
  if (size > ((size_t)1 << 33) || posix_memalign(pointer, 256, size ? size : 1)) return OUT_OF_MEMORY;
  return OK;
}

Result cuInit(unsigned flags) { return check(flags == 0); }
Result cuDriverGetVersion(int *version) { *version = 13000; return OK; }
Result cuDeviceGetCount(int *count) { *count = 1; return OK; }
Result cuDeviceGet(int *device, int number) { *device = number; return number ? INVALID_DEVICE : OK; }
Result cuDeviceGetName(char *name, int size, int device) { strncpy(name, "stub GPU", size); return check(device == 0); }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 6 : 0;
  return check(device == 0);
}

Result cuDevicePrimaryCtxRetain(void **context, int device) { *context = &primary; return check(device == 0); }
Result cuCtxGetCurrent(void **context) { *context = depth ? contexts[depth - 1] : NULL; return OK; }
Result cuCtxGetDevice(int *device) { *device = 0; return depth ? OK : INVALID_CONTEXT; }
Result cuCtxPushCurrent_v2(void *context) { contexts[depth++] = context; return check(context == &primary); }
Result cuCtxPopCurrent_v2(void **context) { *context = contexts[--depth]; return OK; }
Result cuCtxSynchronize(void) { return depth ? OK : INVALID_CONTEXT; }

Result cuMemAlloc_v2(Pointer *pointer, size_t size) { return depth ? reserve((void **)pointer, size) : INVALID_CONTEXT; }
Result cuMemFree_v2(Pointer pointer) { free((void *)pointer); return OK; }
Result cuMemHostAlloc(void **pointer, size_t size, unsigned flags) { return flags ? INVALID_VALUE : reserve(pointer, size); }
Result cuMemFreeHost(void *pointer) { free(pointer); return OK; }
Result cuMemcpyAsync(Pointer to, Pointer from, size_t size, void *stream) {
  memmove((void *)to, (void *)from, size);
  return check(stream != NULL);
}

Result cuStreamCreate(void **stream, unsigned flags) { *stream = malloc(8); return check(flags == 1); }
Result cuStreamDestroy_v2(void *stream) { free(stream); return OK; }
Result cuStreamSynchronize(void *stream) { return check(stream != NULL); }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return check(stream && event && !flags); }
Result cuEventCreate(void **event, unsigned flags) { *event = malloc(8); return check(flags == 2); }
Result cuEventDestroy_v2(void *event) { free(event); return OK; }
Result cuEventRecord(void *event, void *stream) { return check(event && stream); }
Result cuEventSynchronize(void *event) { return check(event != NULL); }

Result cuStreamBeginCapture_v2(void *stream, int mode) { return check(stream && mode == 1); }
Result cuStreamEndCapture(void *stream, void **graph) { *graph = &captured; return check(stream != NULL); }
Result cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
  *made = &executable;
  return check(graph == &captured && !flags);
}
Result cuGraphDestroy(void *graph) { return check(graph == &captured); }
Result cuGraphLaunch(void *graph, void *stream) { return check(graph == &executable && stream); }
Result cuGraphExecDestroy(void *graph) { return check(graph == &executable); }

Result cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *status) {
  static const char *const suffixes[] = {"_v2", "", "WithFlags"};
  char symbol[128];
  void *self = dlopen("libcuda.so.1", RTLD_NOW);
  for (int i = 0; i < 3; i++) {
    strcpy(symbol, name);
    strcat(symbol, suffixes[i]);
    if ((*function = dlsym(self, symbol))) {
      if (status) *status = 0;
      return OK;
    }
  }
  if (status) *status = 1;
  return NOT_FOUND;
}
