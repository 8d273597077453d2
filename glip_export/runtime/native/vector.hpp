// As many floats as the processor computes with at once, and bf16.
//
// Written with GCC's vector extensions, which become AVX-512, AVX2 or NEON as the compiler's flags say; bf16 takes
// AVX512-BF16.

#pragma once

#include <cstdint>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace glip {

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));

inline Vector load(const float* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }

inline uint16_t to_bf16(float value) {  // to the nearest, of two equally near the even one
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline float from_bf16(uint16_t value) {
    const uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

#ifdef __AVX512BF16__
inline void store(uint16_t* to, Vector v) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
    std::memcpy(to, &rounded, sizeof rounded);
}
#endif

inline Vector exponential(Vector x) {  // of x <= 0; relative error below 2e-7
    x = x < -87.f ? (Vector{} - 87.f) : x;
    const Vector magic = Vector{} + 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number
    const Vector shifted = x * 1.44269504f + magic;
    const Vector whole = shifted - magic;
    const Vector r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    Integers bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const Integers exponent = (bits - 0x4B400000 + 127) << 23;
    Vector scale;
    std::memcpy(&scale, &exponent, sizeof scale);
    return p * scale;
}

}  // namespace glip
