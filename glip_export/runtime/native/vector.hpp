// As many floats as the processor computes with at once.
//
// Written with GCC's vector extensions, which become AVX-512, AVX2 or NEON as the compiler's flags say.

#pragma once

#include <cstdint>
#include <cstring>
#ifdef __AVX__
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
typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));

inline Vector load(const void* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }

// How the lanes become one number: halves until two are left. GCC's own reductions are of values that it calls
// uninitialized.
#ifdef __AVX512F__
template <int Half>
inline __m256 half_of(Vector v) {
    return _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xFF, (__m512d)v, Half));
}
#endif

inline float sum_of(Vector v) {
#ifdef __AVX__
#ifdef __AVX512F__
    const __m256 eight = _mm256_add_ps(half_of<0>(v), half_of<1>(v));
#else
    const __m256 eight = (__m256)v;
#endif
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return two[0] + two[1];
#else
    float sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
    return sum;
#endif
}

inline int32_t sum_of(Integers v) {
#ifdef __AVX2__
#ifdef __AVX512F__
    const __m256i eight = _mm256_add_epi32((__m256i)half_of<0>((Vector)v), (__m256i)half_of<1>((Vector)v));
#else
    const __m256i eight = (__m256i)v;
#endif
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
#else
    int32_t sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
    return sum;
#endif
}

inline float largest_lane(Vector v) {
#ifdef __AVX__
#ifdef __AVX512F__
    const __m256 eight = _mm256_max_ps(half_of<0>(v), half_of<1>(v));
#else
    const __m256 eight = (__m256)v;
#endif
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return two[0] > two[1] ? two[0] : two[1];
#else
    float largest = v[0];
    for (int lane = 1; lane < kLanes; ++lane) largest = v[lane] > largest ? v[lane] : largest;
    return largest;
#endif
}

inline Vector magnitude(Vector v) { return (Vector)((Integers)v & 0x7FFFFFFF); }

inline Vector larger(Vector a, Vector b) {  // b where one is not a number
#ifdef __AVX512F__
    return (Vector)_mm512_maskz_max_ps(0xFFFF, (__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (Vector)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

inline Vector smaller(Vector a, Vector b) {  // b where one is not a number
#ifdef __AVX512F__
    return (Vector)_mm512_maskz_min_ps(0xFFFF, (__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (Vector)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}

inline float largest_of(const float* values, int64_t count) {  // magnitude; count is whole vectors
    Vector largest{};
    for (int64_t k = 0; k < count; k += kLanes) largest = larger(magnitude(load(values + k)), largest);
    return largest_lane(largest);
}

// Of x <= 0, with a relative error below 2e-7; 0 below -80, for numbers near the least that a float can be are computed
// with a hundred times more slowly.
inline Vector exponential(Vector x) {
    const Integers vanishes = x < -80.f;
    x = vanishes ? Vector{} : x;
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
    return vanishes ? Vector{} : p * scale;
}

// As near as whole numbers of 8 and 16 bits need it, with a relative error below 5e-6, in half the operations; never 0.
inline Vector exponential_of_whole(Vector x) {
    x = x > -80.f ? x : Vector{} - 80.f;
    const Vector magic = Vector{} + 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number
    const Vector shifted = x * 1.44269504f + magic;
    const Vector r = x * 1.44269504f - (shifted - magic);
    Vector p = r * 0.0095701013f + 0.055917859f;
    p = p * r + 0.24024744f;
    p = p * r + 0.69312179f;
    p = p * r + 0.99999928f;
    Bits bits, exponent;  // unsigned, for they overflow
    std::memcpy(&bits, &p, sizeof bits);
    std::memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 23;
    std::memcpy(&p, &bits, sizeof p);
    return p;
}

inline Vector inverse(Vector x) {  // of x > 0, with a relative error below 2e-7
#ifdef __AVX512F__
    const Vector guess = (Vector)_mm512_maskz_rcp14_ps(0xFFFF, (__m512)x);
    return guess * (2.f - x * guess);
#else
    return 1.f / x;
#endif
}

inline Vector gelu(Vector x) {  // with the error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26)
    const Vector z = magnitude(x) * 0.70710678f;
    const Vector t = inverse(1.f + 0.3275911f * z);
    Vector p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const Vector half_tail = 0.5f * p * t * exponential(-z * z);  // (1 - erf z) / 2
    return x * (x < 0.f ? half_tail : 1.f - half_tail);
}

// x * (1/2 + h(x)), h an odd polynomial of x up to +-end, where it is +-1/2: fitted to half the error function.
template <int Count>
inline Vector gelu_by(const float (&odd)[Count], float end, Vector x) {
    const Vector near = larger(smaller(x, Vector{} + end), Vector{} - end), square = near * near;
    Vector p = Vector{} + odd[Count - 1];
    for (int k = Count - 2; k >= 0; --k) p = p * square + odd[k];
    return x * (p * near) + 0.5f * x;
}

// As near as whole numbers of so many bits need it: to 8e-5 of 16, to 5e-4 of 8.
template <int Bits>
inline Vector gelu_of_whole(Vector x) {
    constexpr float of_16[] = {0.39846634f, -0.065528964f, 9.2986458e-3f, -9.5075377e-4f,
                               6.6905025e-5f, -3.038983e-6f, 7.9453082e-8f, -9.0235569e-10f};
    constexpr float of_8[] = {0.39647839f, -0.06259168f, 7.8501977e-3f, -6.177446e-4f, 2.6906319e-5f, -4.9043998e-7f};
    if constexpr (Bits == 16)
        return gelu_by(of_16, 4.2f, x);
    else
        return gelu_by(of_8, 3.7f, x);
}

}  // namespace glip
