// The words of CUDA C++ that the kernels use, for an ordinary C++ compiler on Linux.
//
// One fiber a CUDA thread; __syncthreads hands over to the next fiber. Blocks run one after another, so shared memory
// is static; it is overwritten with a pattern before every block, as it is undefined on a device. What a warp does
// together waits for its 32 fibers alone, so threads of a warp are as far apart as the language allows. There are no
// races: the fibers of a block can be run in other orders instead, and a kernel that lacks a barrier then gives another
// result. A copy to shared memory is done when it is waited for, no sooner.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define GLIP_HOST_SHIM

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads)
#define __shared__ static __attribute__((section("glip_shared")))

struct uint3 {
    unsigned x, y, z;
};
typedef uint3 dim3;

struct alignas(16) float4 {
    float x, y, z, w;
};

namespace glip_host {

extern uint3 thread_index, block_index, block_size, grid_size;

enum class Outcome { kDone = 0, kBarrierMissed = 1 };

// Runs `thread` for every thread of the grid. order 0: a block's threads in turn, 1: the last first, else a random
// order of that seed, drawn anew at each barrier. kBarrierMissed if some threads of a block, or of a warp, end or wait
// elsewhere while others wait.
Outcome run(const uint3& grid, const uint3& block, std::size_t shared_bytes, unsigned order,
            const std::function<void()>& thread);

void barrier();

// The shared memory whose size the launch gives.
unsigned char* dynamic_shared();

// Of a warp's threads: see plugins/kernels/warp.cuh. All 32 call it.
void load_matrices(unsigned (&pairs)[4], const void* row);
void load_transposed(unsigned (&pairs)[4], const void* row);
void multiply_tile(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]);
float exchange(float value, int lane_bits);
float from_lane(float value, int lane);

// Copies of the calling thread.
void copy_later(void* shared, const void* global, std::size_t bytes);
void finish_copies();

}  // namespace glip_host

#define threadIdx glip_host::thread_index
#define blockIdx glip_host::block_index
#define blockDim glip_host::block_size
#define gridDim glip_host::grid_size

inline void __syncthreads() { glip_host::barrier(); }
inline float __shfl_xor_sync(unsigned, float value, int lane_bits) { return glip_host::exchange(value, lane_bits); }
inline float __shfl_sync(unsigned, float value, int lane) { return glip_host::from_lane(value, lane); }
inline void __syncwarp() { glip_host::exchange(0.0f, 0); }

inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Rounded to nearest: the library is built without contraction of multiply and add.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }

inline int atomicAdd(int* target, int more) {
    const int old = *target;
    *target = old + more;
    return old;
}

inline unsigned atomicOr(unsigned* target, unsigned bits) {
    const unsigned old = *target;
    *target = old | bits;
    return old;
}

inline unsigned atomicAnd(unsigned* target, unsigned bits) {
    const unsigned old = *target;
    *target = old & bits;
    return old;
}
