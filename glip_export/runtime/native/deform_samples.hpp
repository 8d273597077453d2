// The samples of a deformable convolution on the CPU, of a tile of positions: where they are, kLanes at a time, and their
// values, one after the other.
//
// In whole numbers every pixel has a scale of its own, by its largest value, and so have the samples of a position: in 16
// bits each tap one, in 8 bits all taps the same, so that their products are summed up as they are. A sample is no larger
// than its pixels' largest values, weighed as they are: so its scale is known before it is taken, and what its pixels'
// numbers weigh in it adds up to one.

#pragma once

#include <type_traits>

#include "integers.hpp"

namespace glip {

constexpr int kTaps = 9;
template <typename T>
constexpr bool is_whole = std::is_same_v<T, int16_t> || std::is_same_v<T, uint8_t>;  // samples in whole numbers

// Taps whose samples are taken at once, of whole numbers from pixels that are still near.
template <typename T>
constexpr int kGathered = sizeof(T) == 1 ? kTaps : sizeof(T) == 2 ? 3 : 1;

struct Map {
    int64_t height, width;
    int64_t size() const { return height * width; }
    int64_t padded() const { return round_up(size(), kTile); }
};

// A value each of kLanes samples.
template <typename T>
struct alignas(64) Lanes {
    T of[kLanes];
};
inline void put(Lanes<float>& lanes, Vector v) { store(lanes.of, v); }
inline void put(Lanes<int32_t>& lanes, Integers v) { std::memcpy(lanes.of, &v, sizeof v); }

struct Corners {  // of kLanes samples: their four pixels, by their place in the map, and what each weighs
    Integers at[4];
    Vector weight[4];
};

inline Integers floor_of(Vector v) {
    const Integers whole = __builtin_convertvector(v, Integers);
    return whole + (__builtin_convertvector(whole, Vector) > v);  // true is -1
}

inline Vector bounded(Vector v, float low, float high) {  // NaN becomes the first
    const Vector first = Vector{} + low, last = Vector{} + high;
    v = v > first ? v : first;
    return v < last ? v : last;
}

// A corner outside the map counts as 0, the mask multiplies after the interpolation: GLIP's rule.
inline Corners corners_of(const Map& map, Vector y, Vector x, Vector mask) {
    // Beyond this every corner is outside anyway.
    y = bounded(y, -2.f, float(map.height + 1)), x = bounded(x, -2.f, float(map.width + 1));
    const Integers top = floor_of(y), left = floor_of(x);
    const Vector down = y - __builtin_convertvector(top, Vector), right = x - __builtin_convertvector(left, Vector);
    const Vector rows[2] = {(1.f - down) * mask, down * mask}, columns[2] = {1.f - right, right};
    Corners corners;
    for (int corner = 0; corner < 4; ++corner) {
        const Integers row = top + corner / 2, column = left + corner % 2;
        const Integers inside =
            (row >= 0) & (row < int32_t(map.height)) & (column >= 0) & (column < int32_t(map.width));
        corners.at[corner] = (row * int32_t(map.width) + column) & inside;
        corners.weight[corner] = inside ? rows[corner / 2] * columns[corner % 2] : Vector{};
    }
    return corners;
}

// Where the positions of a tile are in the input, without a tap and its offset.
struct Centers {
    alignas(64) float row[kTile], column[kTile];
};

// What one convolution samples: (H*W, C), at offsets (18, Ho*Wo) with masks (9, Ho*Wo), after which there is room for
// kLanes more. In whole numbers the pixels are those, and of each the largest magnitude.
struct Sampled {
    int64_t channels, stride;
    Map in, out;
    const float *pixels, *offset, *mask;
    const int16_t* numbers;
    const float* largest;

    Centers centers(int64_t first, int64_t count) const {
        Centers centers{};
        int64_t row = first / out.width, column = first % out.width;
        for (int64_t i = 0; i < count; ++i) {
            centers.row[i] = float(row * stride), centers.column[i] = float(column * stride);
            if (++column == out.width) column = 0, ++row;
        }
        return centers;
    }
    // Of kLanes positions from `i` of the tile that begins with `first`; after the last position they mean nothing.
    Corners corners(const Centers& centers, int64_t tap, int64_t first, int64_t i) const {
        const int64_t positions = out.size(), at = first + i;
        const Vector y = load(centers.row + i) + float(tap / 3 - 1) + load(offset + 2 * tap * positions + at);
        const Vector x = load(centers.column + i) + float(tap % 3 - 1) + load(offset + (2 * tap + 1) * positions + at);
        return corners_of(in, y, x, load(mask + tap * positions + at));
    }
};

// The samples of one tap for every position of a tile: (count, C).
inline void gather(const Sampled& sampled, const Centers& centers, int64_t tap, int64_t first, int64_t count,
                   float* samples) {
    const int64_t channels = sampled.channels;
    Lanes<int32_t> at[4];
    Lanes<float> weight[4];
    for (int64_t block = 0; block < count; block += kLanes) {
        const Corners corners = sampled.corners(centers, tap, first, block);
        for (int corner = 0; corner < 4; ++corner)
            put(at[corner], corners.at[corner]), put(weight[corner], corners.weight[corner]);
        for (int64_t lane = 0; lane < std::min<int64_t>(kLanes, count - block); ++lane) {
            const auto pixel = [&](int corner) { return sampled.pixels + at[corner].of[lane] * channels; };
            const float *a = pixel(0), *b = pixel(1), *c = pixel(2), *d = pixel(3);
            const float wa = weight[0].of[lane], wb = weight[1].of[lane], wc = weight[2].of[lane], wd = weight[3].of[lane];
            float* const sample = samples + (block + lane) * channels;
            for (int64_t k = 0; k < channels; k += kLanes)
                store(sample + k, wa * load(a + k) + wb * load(b + k) + wc * load(c + k) + wd * load(d + k));
        }
    }
}

#ifdef GLIP_INT16
constexpr float kPixel = 4064.f;  // the largest number of a pixel: 127 * 32
constexpr float kOne = 32767.f;   // what the corners' weights add up to

// A pixel's numbers, and the largest magnitude of its values.
inline float to_pixel(const float* values, int64_t channels, int16_t* numbers) {
    Vector most{};
    for (int64_t k = 0; k < channels; k += kLanes) {
        const Vector value = magnitude(load(values + k));
        most = value > most ? value : most;
    }
    const float largest = largest_lane(most), factor = inverse(largest) * kPixel;
    for (int64_t k = 0; k < channels; k += kLanes) store(numbers + k, rounded(load(values + k) * factor));
    return largest;
}

#if defined(__AVX512BW__)
typedef __m512i Sixteens;
inline Sixteens load_sixteens(const int16_t* from) { return _mm512_loadu_si512(from); }
inline Sixteens all_pairs(int32_t pair) { return _mm512_set1_epi32(pair); }
inline Sixteens add(Sixteens a, Sixteens b) { return _mm512_add_epi16(a, b); }
inline Sixteens scaled(Sixteens a, Sixteens by) { return _mm512_mulhrs_epi16(a, by); }  // in 1/32768
inline void store(int16_t* to, Sixteens v) { _mm512_storeu_si512(to, v); }
inline void store(uint8_t* to, Sixteens a, Sixteens b) {  // of numbers in -128..127, with 128 added
    const Sixteens bytes = _mm512_packs_epi16(a, b), order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    store(reinterpret_cast<int16_t*>(to),
          _mm512_xor_si512(_mm512_maskz_permutexvar_epi64(0xFF, order, bytes), _mm512_set1_epi8(-128)));
}
inline Vector values_at(const float* from, Integers at) {
    return (Vector)_mm512_mask_i32gather_ps(__m512{}, kAll, (__m512i)at, from, 4);
}
#else
typedef __m256i Sixteens;
inline Sixteens load_sixteens(const int16_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline Sixteens all_pairs(int32_t pair) { return _mm256_set1_epi32(pair); }
inline Sixteens add(Sixteens a, Sixteens b) { return _mm256_add_epi16(a, b); }
inline Sixteens scaled(Sixteens a, Sixteens by) { return _mm256_mulhrs_epi16(a, by); }
inline void store(int16_t* to, Sixteens v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v); }
inline void store(uint8_t* to, Sixteens a, Sixteens b) {
    const Sixteens bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xD8);
    store(reinterpret_cast<int16_t*>(to), _mm256_xor_si256(bytes, _mm256_set1_epi8(-128)));
}
inline Vector values_at(const float* from, Integers at) {
    return (Vector)_mm256_i32gather_ps(from, (__m256i)at, 4);
}
#endif

constexpr int64_t kSixteens = sizeof(Sixteens) / 2;

// 16 bits twice, of 0..32767; what NaN becomes does not overflow either.
inline Integers twice(Integers numbers) { return (numbers & 0x7FFF) * 0x10001; }

// One sample; weights: 16 bits twice.
inline Sixteens interpolated(const int16_t* const (&pixel)[4], const Sixteens (&weight)[4], int64_t k) {
    Sixteens sum = scaled(load_sixteens(pixel[0] + k), weight[0]);
    for (int corner = 1; corner < 4; ++corner)
        sum = add(sum, scaled(load_sixteens(pixel[corner] + k), weight[corner]));
    return sum;
}

inline void take_sample(const int16_t* const (&pixel)[4], const Sixteens (&weight)[4], int64_t channels, int16_t* sample) {
    for (int64_t k = 0; k < channels; k += kSixteens) store(sample + k, interpolated(pixel, weight, k));
}

inline void take_sample(const int16_t* const (&pixel)[4], const Sixteens (&weight)[4], int64_t channels, uint8_t* sample) {
    const Sixteens unit = all_pairs(1024 * 0x10001);  // numbers in 1/32
    for (int64_t k = 0; k < channels; k += 2 * kSixteens)
        store(sample + k, scaled(interpolated(pixel, weight, k), unit),
              scaled(interpolated(pixel, weight, k + kSixteens), unit));
}

// Samples of kGathered taps from `tap` on for every position of a tile, (count, kGathered, C), and what their numbers are
// times: (kGathered, kTile), or (kTile).
template <typename T>
void gather_whole(const Sampled& sampled, const Centers& centers, int64_t tap, int64_t first, int64_t count, T* samples,
                  float* scale) {
    constexpr int taps = kGathered<T>;
    constexpr bool together = sizeof(T) == 1;
    const int64_t channels = sampled.channels;
    Lanes<int32_t> at[taps][4], weight[taps][4];
    Vector shares[taps][4], bound[taps];
    for (int64_t block = 0; block < count; block += kLanes) {
        Vector most{};
        for (int t = 0; t < taps; ++t) {
            const Corners corners = sampled.corners(centers, tap + t, first, block);
            bound[t] = Vector{};
            for (int corner = 0; corner < 4; ++corner) {
                put(at[t][corner], corners.at[corner]);
                shares[t][corner] = corners.weight[corner] * values_at(sampled.largest, corners.at[corner]);
                bound[t] += shares[t][corner];
            }
            most = bound[t] > most ? bound[t] : most;
        }
        for (int t = 0; t < taps; ++t) {
            const Vector times = together ? most : bound[t];
            const Vector factor = times > 0.f ? kOne / times : Vector{};
            for (int corner = 0; corner < 4; ++corner)
                put(weight[t][corner], twice(__builtin_convertvector(shares[t][corner] * factor + 0.5f, Integers)));
            if (!together) store(scale + t * kTile + block, times / kPixel);
        }
        if (together) store(scale + block, most * (32.f / kPixel));
        for (int64_t lane = 0; lane < std::min<int64_t>(kLanes, count - block); ++lane)
            for (int t = 0; t < taps; ++t) {
                const int16_t* pixel[4];
                Sixteens weights[4];
                for (int corner = 0; corner < 4; ++corner) {
                    pixel[corner] = sampled.numbers + at[t][corner].of[lane] * channels;
                    weights[corner] = all_pairs(weight[t][corner].of[lane]);
                }
                take_sample(pixel, weights, channels, samples + ((block + lane) * taps + t) * channels);
            }
    }
}
#endif

}  // namespace glip
