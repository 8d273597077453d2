// Products of whole numbers: rows of 16 bits in pairs, or of 8 bits in fours, summed up in 32 bits.
//
// With VNNI a processor multiplies twice as many numbers of 16 bits a cycle as of fp32, and four times as many of 8. (Of
// bf16 not all do even as many: the Xeons of 2023 half.) A value is its number times its row's and its column's scale.

#pragma once

#include "product.hpp"

#if defined(__AVX512BW__) || defined(__AVX2__)
#define GLIP_INT16
#include <immintrin.h>

namespace glip {

constexpr float kLargestSum = 2147483647.f - 128.f;  // of 32 bits, as a float below it

// What numbers may be at most so that `depth` products with others of at most `other` fit 32 bits.
inline float largest_number(int64_t depth, float other) {
    return std::min(32767.f, std::floor(kLargestSum / (float(depth) * other)));
}

#if defined(__AVX512BW__)
constexpr __mmask16 kAll = 0xFFFF;  // with it g++ does not take what it leaves out for uninitialized
inline Integers rounded(Vector v) { return (Integers)_mm512_maskz_cvtps_epi32(kAll, (__m512)v); }
inline void store(int16_t* to, Integers v) {  // of numbers that fit
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtepi32_epi16(kAll, (__m512i)v));
}
inline Integers add_products(Integers sum, Integers a, Integers b) {  // of pairs of 16 bits
#ifdef __AVX512VNNI__
    return (Integers)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#else
    return (Integers)_mm512_add_epi32((__m512i)sum, _mm512_madd_epi16((__m512i)a, (__m512i)b));
#endif
}
#else
inline Integers rounded(Vector v) { return (Integers)_mm256_cvtps_epi32((__m256)v); }
inline void store(int16_t* to, Integers v) {
    const __m256i wide = (__m256i)v;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
}
inline Integers add_products(Integers sum, Integers a, Integers b) {
#ifdef __AVXVNNI__
    return (Integers)_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#else
    return (Integers)_mm256_add_epi32((__m256i)sum, _mm256_madd_epi16((__m256i)a, (__m256i)b));
#endif
}
#endif

#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512BW__))
#define GLIP_INT8
inline Integers add_products_of_bytes(Integers sum, Integers a, Integers b) {  // of fours: of a unsigned, of b signed
#ifdef __AVX512VNNI__
    return (Integers)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#else
    return (Integers)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#endif
}

inline void store(uint8_t* to, Integers v) {  // of numbers that fit
    typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
    const Bytes bytes = __builtin_convertvector(v, Bytes);
    std::memcpy(to, &bytes, sizeof bytes);
}
#endif

inline Vector to_float(Integers v) { return __builtin_convertvector(v, Vector); }

inline Integers load_integers(const void* from) {
    Integers v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

// kLanes groups of numbers that fit.
inline void store_group(int16_t* to, const Integers (&numbers)[2]) {
    const Integers pair = (numbers[0] & 0xFFFF) | (numbers[1] << 16);
    std::memcpy(to, &pair, sizeof pair);
}
inline void store_group(void* to, const Integers (&numbers)[4]) {
    const Integers four =
        (numbers[0] & 0xFF) | ((numbers[1] & 0xFF) << 8) | ((numbers[2] & 0xFF) << 16) | (numbers[3] << 24);
    std::memcpy(to, &four, sizeof four);
}

inline float inverse(float scale) { return scale > 0 ? 1 / scale : 0.f; }

// Panels of a matrix (depth, columns): kPanel columns each, the last one as many whole vectors as are left. Element
// (row, column) of one lies in groups of rows, by twos or fours.
template <int64_t Group>
inline int64_t group_index(int64_t width, int64_t row, int64_t column) {
    return (row / Group * width + column) * Group + row % Group;
}

template <int Vectors>
constexpr int rows_of_a_call() {
    return kRows * kVectors / Vectors;  // fewer columns leave registers for more rows
}
static_assert(kTile % (kRows * kVectors) == 0, "a tile is whole calls");

inline Integers add_products(const int16_t*, Integers sum, Integers values, Integers weights) {
    return add_products(sum, values, weights);
}
#ifdef GLIP_INT8
inline Integers add_products(const uint8_t*, Integers sum, Integers values, Integers weights) {
    return add_products_of_bytes(sum, values, weights);
}
inline Integers add_products(const int8_t*, Integers sum, Integers values, Integers weights) {
    return add_products_of_bytes(sum, weights, values);
}
#endif

// finish(r, v, sums) of rows times one panel (depth, Vectors), added to begin(r, v): numbers of 16 bits in pairs, or of 8 in
// fours, where the rows or the panel are signed and the other is not. Group k of row r, 4 bytes, is at
// rows[r * row_stride + k * group_stride]. The panel is as wide as Vectors, or Stride; depth is not 0.
template <int Vectors, int Stride = Vectors, int Rows = rows_of_a_call<Vectors>(), typename T, typename Weight,
          typename Begin, typename Finish>
inline void add_groups(const T* rows, int64_t row_stride, int64_t group_stride, const Weight* panel, int64_t depth,
                       const Begin& begin, const Finish& finish) {
    constexpr int group = 4 / sizeof(T);
    Integers sum[Rows][Vectors];
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) sum[r][v] = begin(r, v);
    int64_t k = 0;
    do {  // with a loop that may not run at all g++ copies all sums after it
        Integers weight[Vectors];
        for (int v = 0; v < Vectors; ++v) weight[v] = load_integers(panel + (k * Stride + v) * group * kLanes);
        for (int r = 0; r < Rows; ++r) {
            int32_t four;
            std::memcpy(&four, rows + r * row_stride + k * group_stride, 4);
            const Integers values = Integers{} + four;
            for (int v = 0; v < Vectors; ++v) sum[r][v] = add_products(rows, sum[r][v], values, weight[v]);
        }
    } while (++k < depth / group);
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) finish(r, v, sum[r][v]);  // unrolled, or the sums go through memory
}

// As above, of the products alone.
template <int Vectors, int Stride = Vectors, int Rows = rows_of_a_call<Vectors>(), typename T, typename Weight,
          typename Finish>
inline void multiply_groups(const T* rows, int64_t row_stride, int64_t group_stride, const Weight* panel, int64_t depth,
                            const Finish& finish) {
    add_groups<Vectors, Stride, Rows>(
        rows, row_stride, group_stride, panel, depth, [](int, int) { return Integers{}; }, finish);
}

template <typename T>
struct Whole;  // rows of T: the largest number, what is added to each, and the weights that multiply them
template <>
struct Whole<int16_t> {
    using Weight = int16_t;
    static constexpr float kLargest = 4095.f;
    static constexpr int kZero = 0;
    static float weight(int64_t depth) { return largest_number(depth, kLargest); }  // the largest of those
};
template <>
struct Whole<uint8_t> {
    using Weight = int8_t;
    static constexpr float kLargest = 127.f;
    static constexpr int kZero = 128;
    static float weight(int64_t) { return 127.f; }
};

// Numbers for so many floats, whole vectors, and the scale of all of them.
template <typename T>
inline float to_numbers(const float* from, int64_t count, T* to) {
    const float scale = largest_of(from, count) / Whole<T>::kLargest, factor = inverse(scale);
    for (int64_t k = 0; k < count; k += kLanes) store(to + k, rounded(load(from + k) * factor) + Whole<T>::kZero);
    return scale;
}

// call(number of vectors as a type) for a panel of so many columns.
template <typename Call>
inline void by_width(int64_t width, const Call& call) {
    switch (width / kLanes) {
        case 1: return call(std::integral_constant<int, 1>{});
        case 2: return call(std::integral_constant<int, 2>{});
        case 3: return call(std::integral_constant<int, kVectors == 4 ? 3 : 1>{});
        default: return call(std::integral_constant<int, kVectors>{});
    }
}

}  // namespace glip
#endif
