// Memory for NumPy's arrays straight from malloc: its own cache of small arrays, which it takes and gives without malloc,
// would hide from a sanitizer that an array was freed. The layout is that of NumPy's PyDataMem_Handler, version 1.

#include <stdint.h>
#include <stdlib.h>

static void *take(void *context, size_t size) { return (void)context, malloc(size ? size : 1); }
static void *take_zeros(void *context, size_t count, size_t size) {
    return (void)context, calloc(count ? count : 1, size ? size : 1);
}
static void *grow(void *context, void *memory, size_t size) { return (void)context, realloc(memory, size ? size : 1); }
static void give(void *context, void *memory, size_t size) { (void)context, (void)size, free(memory); }

struct {
    char name[127];
    uint8_t version;
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *, size_t);
} uncached = {"uncached", 1, NULL, take, take_zeros, grow, give};

const char capsule_name[] = "mem_handler";  // a capsule keeps only its name's address
