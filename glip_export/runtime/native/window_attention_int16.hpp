// The attention of Swin inside one window in whole numbers of 16 bits, the softmax in fp32: half the time of fp32.

#pragma once

#include "window_attention.hpp"

#ifdef GLIP_INT16
namespace glip {

inline Integers paired(Integers first, Integers second) { return (first & 0xFFFF) | (second << 16); }  // of 16 bits

inline float largest_of_many(const float* values, int64_t count) {  // as largest_of, without waiting for each
    Vector largest[4]{};
    int64_t k = 0;
    for (; k + 4 * kLanes <= count; k += 4 * kLanes)
        for (int i = 0; i < 4; ++i) largest[i] = larger(magnitude(load(values + k + i * kLanes)), largest[i]);
    for (; k < count; k += kLanes) largest[0] = larger(magnitude(load(values + k)), largest[0]);
    return largest_lane(larger(larger(largest[0], largest[1]), larger(largest[2], largest[3])));
}

// How 128 bits of two vectors come together; with masks g++ does not take what they leave out for uninitialized.
#ifdef __AVX512BW__
inline Integers low(Integers a, Integers b) {
    return (Integers)_mm512_maskz_unpacklo_epi32(kAll, (__m512i)a, (__m512i)b);
}
inline Integers high(Integers a, Integers b) {
    return (Integers)_mm512_maskz_unpackhi_epi32(kAll, (__m512i)a, (__m512i)b);
}
inline Integers low_pairs(Integers a, Integers b) {
    return (Integers)_mm512_maskz_unpacklo_epi64(0xFF, (__m512i)a, (__m512i)b);
}
inline Integers high_pairs(Integers a, Integers b) {
    return (Integers)_mm512_maskz_unpackhi_epi64(0xFF, (__m512i)a, (__m512i)b);
}
inline Integers even_quarters(Integers a, Integers b) {
    return (Integers)_mm512_maskz_shuffle_i32x4(kAll, (__m512i)a, (__m512i)b, 0x88);
}
inline Integers odd_quarters(Integers a, Integers b) {
    return (Integers)_mm512_maskz_shuffle_i32x4(kAll, (__m512i)a, (__m512i)b, 0xDD);
}
#else
inline Integers low(Integers a, Integers b) { return (Integers)_mm256_unpacklo_epi32((__m256i)a, (__m256i)b); }
inline Integers high(Integers a, Integers b) { return (Integers)_mm256_unpackhi_epi32((__m256i)a, (__m256i)b); }
inline Integers low_pairs(Integers a, Integers b) { return (Integers)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b); }
inline Integers high_pairs(Integers a, Integers b) { return (Integers)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b); }
#endif

inline void transpose(Integers (&rows)[kLanes]) {
    Integers four[kLanes];  // of 4 rows: in each 128 bits, one column
    for (int i = 0; i < kLanes; i += 4) {
        const Integers a = low(rows[i], rows[i + 1]), b = high(rows[i], rows[i + 1]);
        const Integers c = low(rows[i + 2], rows[i + 3]), d = high(rows[i + 2], rows[i + 3]);
        four[i] = low_pairs(a, c), four[i + 1] = high_pairs(a, c);
        four[i + 2] = low_pairs(b, d), four[i + 3] = high_pairs(b, d);
    }
    for (int i = 0; i < 4; ++i) {
#ifdef __AVX512BW__
        const Integers a = even_quarters(four[i], four[4 + i]), b = odd_quarters(four[i], four[4 + i]);
        const Integers c = even_quarters(four[8 + i], four[12 + i]), d = odd_quarters(four[8 + i], four[12 + i]);
        rows[i] = even_quarters(a, c), rows[4 + i] = even_quarters(b, d);
        rows[8 + i] = odd_quarters(a, c), rows[12 + i] = odd_quarters(b, d);
#else
        const __m256i a = (__m256i)four[i], b = (__m256i)four[4 + i];
        rows[i] = (Integers)_mm256_permute2x128_si256(a, b, 0x20);
        rows[4 + i] = (Integers)_mm256_permute2x128_si256(a, b, 0x31);
#endif
    }
}

// 2^x times `largest`, of x <= 0, with a relative error below 8e-5; of x below -80 as of -80.
inline Vector power_of_two(Vector x, float largest) {
    x = larger(x, Vector{} - 80.f);
    const Vector magic = Vector{} + 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number
    const Vector shifted = x + magic;
    const Vector r = x - (shifted - magic);
    Vector p = r * (5.517167e-2f * largest) + 0.24261114f * largest;
    p = p * r + 0.69326099f * largest;
    p = p * r + 0.99992807f * largest;
    return (Vector)((Integers)p + ((Integers)shifted << 23));
}

// Its lanes are queries: no sum over lanes is needed, and a score's exponential is of 16 bits once it is stored.
template <>
class Attention<int16_t> {
public:
    // The relative biases for it: (heads, positions of the key, keys() of the query), as powers of two.
    static int64_t shared_floats(const Shape& s) { return (s.heads * s.positions() + kSpare) * s.keys(); }
    static const float* share(const Shape& s, const float* relative, float* memory) {
        const int64_t n = s.positions(), width = s.keys();
        for (int64_t head = 0; head < s.heads; ++head, relative += n * width)
            for (int64_t key = 0; key < n; ++key)
                for (int64_t query = 0; query < n; ++query)
                    memory[(head * n + key) * width + query] = relative[query * width + key] * kLog2;
        return memory;
    }
    static int64_t floats(const Shape& s) {
        const int64_t rows = s.positions() + kSpare, width = s.keys();
        return round_up(2 * rows * width + width + kSpare + (rows + width) * s.head() * 2, kLanes);
    }
    Attention(const Shape& s, const float* relative, float* memory) : relative(relative) {
        const int64_t rows = s.positions() + kSpare, width = s.keys();
        const auto next = [&](int64_t count) { return std::exchange(memory, memory + count); };
        const auto numbers = [&](int64_t count) { return reinterpret_cast<int16_t*>(next(count / 2)); };
        scores = next(rows * width), shares = next(width + kSpare), weights = numbers(2 * rows * width);
        queries = numbers(width * s.head());
        keys = numbers(rows * s.head()), values = numbers(rows * s.head());
    }
    void of_head(const Shape& s, const Window& window, const float* qkv, int64_t part, const float* bias, int64_t head,
                 float* out) const;

private:
    struct Scales {
        float scores, values;
    };
    static constexpr float kLog2 = 1.44269504f, kLargest = 8191.f;  // the largest of the softmax's numbers
    static constexpr int kAtOnce = rows_of_a_product<int16_t>(), kWide = 2 * kLanes;
    Scales take(const Shape& s, const Window& window, const float* qkv, int64_t part, const float* bias) const;
    void score(const Shape& s, const Window& window, const float* relative, float scale) const;
    void weigh(const Shape& s, float scale) const;
    const float* relative;
    float *scores, *shares;                      // (positions of the key, keys() of the query), (keys())
    int16_t *queries, *keys, *values, *weights;  // of one head
};

// Queries, keys and values as numbers, of one scale each: as large as their sums of products allow.
inline Attention<int16_t>::Scales Attention<int16_t>::take(const Shape& s, const Window& window, const float* qkv,
                                                           int64_t part, const float* bias) const {
    const int64_t n = s.positions(), size = s.head(), pairs = (n + 1) / 2;
    const float of_scores = largest_of_depth<int16_t>(size), of_values = largest_number(2 * pairs, kLargest);
    float scale[3], factor[3];
    for (int64_t i = 0; i < 3; ++i) {
        float most = largest_of_many(qkv + i * part + window.first_row * size, window.rows() * size);
        if (window.rows() < n) most = std::max(most, largest_of(bias + i * s.channels, size));
        scale[i] = most / (i < 2 ? of_scores : of_values), factor[i] = inverse(scale[i]);
    }
    const auto numbers = [&](int64_t of, int64_t position, int64_t k) {  // of positions after the last, zeros
        if (position >= n) return Integers{};
        const int64_t row = window.row_of[position];
        return rounded(load((row < 0 ? bias + of * s.channels : qkv + of * part + row * size) + k) * factor[of]);
    };
    for (int64_t k = 0; k < size; k += kWide) {  // a pair is of channels kLanes apart
        for (int64_t i = 0; i < n; i += kLanes) {
            Integers block[kLanes];
            for (int lane = 0; lane < kLanes; ++lane)
                block[lane] = paired(numbers(0, i + lane, k), numbers(0, i + lane, k + kLanes));
            transpose(block);
            int16_t* const to = queries + i / kPanel * kPanel * size + (k / 2 * kPanel + i % kPanel) * 2;
            for (int pair = 0; pair < kLanes; ++pair) std::memcpy(to + pair * kPanel * 2, &block[pair], sizeof block[pair]);
        }
        for (int64_t i = 0; i < n; ++i) {
            const Integers both = paired(numbers(1, i, k), numbers(1, i, k + kLanes));
            std::memcpy(keys + i * size + k, &both, sizeof both);
        }
        for (int64_t pair = 0; pair < pairs; ++pair)
            for (int64_t v = 0; v < kWide; v += kLanes) {
                const Integers both = paired(numbers(2, 2 * pair, k + v), numbers(2, 2 * pair + 1, k + v));
                std::memcpy(values + k * 2 * pairs + (pair * kWide + v) * 2, &both, sizeof both);
            }
    }
    return {scale[0] * scale[1] * kLog2, scale[2]};
}

inline void Attention<int16_t>::score(const Shape& s, const Window& window, const float* bias, float scale) const {
    const int64_t n = s.positions(), width = s.keys(), size = s.head();
    for (int64_t panel = 0; panel < n; panel += kPanel)
        by_width(std::min<int64_t>(kPanel, round_up(n - panel, kLanes)), [&](auto vectors) {
            for (int64_t key = 0; key < n; key += kAtOnce) {
                float* const to = scores + key * width + panel;
                const float* const biases = bias + key * width + panel;
                multiply_groups<vectors.value, kVectors, kAtOnce>(
                    keys + key * size, size, 2, queries + panel * size, size, [=](int r, int v, Integers sum) {
                        const int64_t at = r * width + v * kLanes;
                        store(to + at, to_float(sum) * scale + load(biases + at));
                    });
            }
        });
    if (window.regions.empty()) return;
    for (int64_t key = 0; key < n; ++key)
        for (int64_t query = 0; query < width; query += kLanes) {
            const Integers others = load_integers(&window.regions[query]) != window.regions[key];
            float* const to = scores + key * width + query;
            store(to, load(to) + (others ? Vector{} + kApart * kLog2 : Vector{}));
        }
}

// The softmax of every query: numbers, and what its sum of so many values is multiplied by.
inline void Attention<int16_t>::weigh(const Shape& s, float scale) const {
    const int64_t n = s.positions(), width = s.keys();
    for (int64_t query = 0; query < n; query += kLanes) {
        const float* const from = scores + query;
        Vector most = load(from), others = most;
        for (int64_t key = 0; key + 1 < n; key += 2) {
            most = larger(load(from + key * width), most);
            others = larger(load(from + (key + 1) * width), others);
        }
        most = larger(load(from + (n - 1) * width), larger(most, others));
        Integers sum{};
        for (int64_t key = 0; key < n; key += 2) {
            const auto number = [&](int64_t k) { return rounded(power_of_two(load(from + k * width) - most, kLargest)); };
            const Integers both[2] = {number(key), key + 1 < n ? number(key + 1) : Integers{}};
            sum += both[0] + both[1];
            store_group(weights + (key / 2 * width + query) * 2, both);
        }
        store(shares + query, scale / to_float(sum));
    }
}

// As that in fp32, with room in out for one row more than the window's.
inline void Attention<int16_t>::of_head(const Shape& s, const Window& window, const float* qkv, int64_t part,
                                        const float* bias, int64_t head, float* out) const {
    const int64_t n = s.positions(), width = s.keys(), size = s.head(), depth = (n + 1) / 2 * 2;
    const Scales scales = take(s, window, qkv, part, bias + head * size);
    score(s, window, relative + head * n * width, scales.scores);
    weigh(s, scales.values);
    for (int64_t i = 0; i < n; i += kAtOnce) {
        float* to[kAtOnce];
        for (int r = 0; r < kAtOnce; ++r) to[r] = out + window.row_to(i + r) * s.channels + head * size;
        for (int64_t k = 0; k < size; k += kWide) {
            const float* const share = shares + i;
            multiply_groups<2, 2, kAtOnce>(
                weights + i * 2, 2, width * 2, values + k * depth, depth,
                [&](int r, int v, Integers sum) { store(to[r] + k + v * kLanes, to_float(sum) * share[r]); });
        }
    }
}

}  // namespace glip
#endif
