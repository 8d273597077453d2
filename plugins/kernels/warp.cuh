// What a warp does together, and copies that run beside it: the kernels' only words that are not plain CUDA C++.
//
// On the host the shim gives the same words (host_shim/cuda_on_host.h).

#pragma once

#include <cuda_fp16.h>

#ifdef GLIP_HOST_SHIM
#define GLIP_DYNAMIC_SHARED(name) unsigned char* const name = glip_host::dynamic_shared()
#else
#define GLIP_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace glip {

struct alignas(16) Bytes16 {
    unsigned word[4];
};

// Memory read and written as another type; aligned to it.
template <typename W>
__device__ __forceinline__ W load_as(const void* from) {
#ifdef GLIP_HOST_SHIM
    W value;
    std::memcpy(&value, from, sizeof value);
    return value;
#else
    return *static_cast<const W*>(from);
#endif
}

template <typename W>
__device__ __forceinline__ void store_as(void* to, const W& value) {
#ifdef GLIP_HOST_SHIM
    std::memcpy(to, &value, sizeof value);
#else
    *static_cast<W*>(to) = value;
#endif
}

// 16 bytes from global to shared memory; there after wait_for_copies and a barrier.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
#if defined(GLIP_HOST_SHIM)
    glip_host::copy_later(shared, global, sizeof(Bytes16));
#elif __CUDA_ARCH__ >= 800
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(address), "l"(global) : "memory");
#else
    store_as(shared, load_as<Bytes16>(global));
#endif
}

// Of this thread's own copies.
__device__ __forceinline__ void wait_for_copies() {
#if defined(GLIP_HOST_SHIM)
    glip_host::finish_copies();
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;\n" ::: "memory");
#endif
}

// Where something lies in shared memory, as a warp's loads take it: adding constants to it costs no registers.
#ifdef GLIP_HOST_SHIM
typedef const unsigned char* SharedAddress;
#else
typedef unsigned SharedAddress;
#endif

__device__ __forceinline__ SharedAddress shared_address(const unsigned char* place) {
#ifdef GLIP_HOST_SHIM
    return place;
#else
    return static_cast<unsigned>(__cvta_generic_to_shared(place));
#endif
}

// Four 8x8 matrices of halves from shared memory: lane 8 * i + r gives the address of row r of matrix i, 16 bytes, and
// gets of each matrix the pair of columns from 2 * (lane % 4) in row lane / 4 (PTX ISA, ldmatrix).
__device__ __forceinline__ void load_matrices(unsigned (&pairs)[4], SharedAddress row) {
#ifdef GLIP_HOST_SHIM
    glip_host::load_matrices(pairs, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(row)
                 : "memory");
#endif
}

// The same, each matrix transposed: a lane gets the pair of rows from 2 * (lane % 4) in column lane / 4.
__device__ __forceinline__ void load_transposed(unsigned (&pairs)[4], SharedAddress row) {
#ifdef GLIP_HOST_SHIM
    glip_host::load_transposed(pairs, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(row)
                 : "memory");
#endif
}

// Two floats as halves, the first in the lower bits.
__device__ __forceinline__ unsigned pair_of_halves(float first, float second) {
    struct alignas(4) {
        __half value[2];
    } const pair{{__float2half_rn(first), __float2half_rn(second)}};
    return load_as<unsigned>(&pair);
}

// sums (16, 8) += a (16, 16) * b (16, 8) of halves, by a whole warp. Lane 4 * g + t holds of a the pairs of columns
// from 2t in rows g and g + 8, then from 2t + 8; of b the pairs of rows from 2t and 2t + 8 in column g; of the sums
// columns 2t and 2t + 1 in rows g and g + 8 (PTX ISA, mma.m16n8k16).
__device__ __forceinline__ void multiply_tile(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(GLIP_HOST_SHIM)
    glip_host::multiply_tile(sums, a, b);
#elif __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (int half = 0; half < 2; ++half) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
    }
#endif
}

constexpr float kLog2OfE = 1.4426950408889634f;

// The value within limits; what is no number stays none.
__device__ __forceinline__ float within(float low, float value, float high) {
    return value < low ? low : value > high ? high : value;
}

// 2^x to two units in the last place, 0 where that is no normal number: one instruction, where exp2f takes four.
__device__ __forceinline__ float power_of_two(float x) {
#ifdef GLIP_HOST_SHIM
    return exp2f(x);
#else
    float made;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(made) : "f"(x));
    return made;
#endif
}

// The sum over all lanes whose numbers differ in the bits of `lanes` alone; each of them gets it.
template <int lanes>
__device__ __forceinline__ float sum_over(float value) {
#pragma unroll
    for (int bit = 1; bit < 32; bit <<= 1) {
        if (lanes & bit) value += __shfl_xor_sync(0xffffffffu, value, bit);
    }
    return value;
}

// The largest of them.
template <int lanes>
__device__ __forceinline__ float max_over(float value) {
#pragma unroll
    for (int bit = 1; bit < 32; bit <<= 1) {
        if (lanes & bit) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, bit));
    }
    return value;
}

// Whether it is so in any lane.
__device__ __forceinline__ bool any_of_warp(bool value) {
#ifdef GLIP_HOST_SHIM
    return max_over<31>(value ? 1.0f : 0.0f) > 0.0f;
#else
    return __any_sync(0xffffffffu, value) != 0;
#endif
}

// What the lane of this number has.
__device__ __forceinline__ float from_lane(float value, int lane) {
    return __shfl_sync(0xffffffffu, value, lane);
}

// The sum of every thread's value in one order, to all of them; `scratch` has room for a float a warp.
__device__ __forceinline__ float sum_over_block(float value, float* scratch) {
    const int thread = static_cast<int>(threadIdx.x), warps = static_cast<int>(blockDim.x) / 32;
    value = sum_over<31>(value);
    __syncthreads();  // an earlier sum was read
    if (thread % 32 == 0) scratch[thread / 32] = value;
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp < warps; ++warp) total += scratch[warp];
    return total;
}

}  // namespace glip
