// Deformable convolutions on the CPU: samples are gathered for a tile of positions, into a small matrix that stays in the
// cache, and multiplied by their taps' weights at once: no column matrix is ever written.

#pragma once

#include "deform_samples.hpp"

namespace glip {

// One tile of a convolution: sums (kTile, C). samples (kTile, C) is room to work in.
inline void convolve(const Sampled& sampled, const void* packed, const float* bias, int64_t first, int64_t count,
                     float* samples, float* sums) {
    const int64_t channels = sampled.channels;
    const Centers centers = sampled.centers(first, count);
    for (int64_t i = 0; i < kTile; ++i) std::memcpy(sums + i * channels, bias, channels * sizeof(float));
    for (int64_t tap = 0; tap < kTaps; ++tap) {
        gather(sampled, centers, tap, first, count, samples);
        const float* weights = static_cast<const float*>(packed) + tap * channels * channels;
        for (int64_t panel = 0; panel < channels; panel += kPanel)
            for (int64_t i = 0; i < count; i += kRows)
                multiply(samples + i * channels, channels, weights + panel * channels, sums + i * channels + panel,
                         channels, channels);
    }
}

// weight (columns, C, 3, 3) as nine matrices (C, columns), packed.
template <int Panel = kPanel>
void pack(const float* weight, int64_t out_channels, int64_t channels, float* packed) {
    const int64_t columns = round_up(out_channels, Panel);
    std::memset(packed, 0, kTaps * channels * columns * sizeof(float));
    for (int64_t out = 0; out < out_channels; ++out)
        for (int64_t row = 0; row < channels; ++row)
            for (int64_t tap = 0; tap < kTaps; ++tap)
                packed[tap * channels * columns + packed_index<Panel>(channels, row, out)] =
                    weight[(out * channels + row) * kTaps + tap];
}

#ifdef GLIP_INT16
// As above. samples (kTile, kGathered, C). packed: 9*C*C numbers, C scales, and for unsigned samples C sums to begin with.
inline void convolve_whole(const Sampled& sampled, const void* packed, const float* bias, int64_t first, int64_t count,
                           int16_t* samples, float* sums) {
    constexpr int rows = rows_of_a_call<kVectors>(), taps = kGathered<int16_t>;
    const int64_t channels = sampled.channels;
    const auto weights = static_cast<const int16_t*>(packed);
    const auto scales = reinterpret_cast<const char*>(weights + kTaps * channels * channels);
    const Centers centers = sampled.centers(first, count);
    float scale[taps * kTile];
    std::memset(sums, 0, kTile * channels * sizeof(float));
    for (int64_t tap = 0; tap < kTaps; ++tap) {
        if (tap % taps == 0) gather_whole(sampled, centers, tap, first, count, samples, scale);
        const float* const row_scale = scale + tap % taps * kTile;
        for (int64_t panel = 0; panel < channels; panel += kPanel)
            for (int64_t i = 0; i < count; i += rows)
                multiply_groups<kVectors>(
                    samples + (i * taps + tap % taps) * channels, taps * channels, 2,
                    weights + (tap * channels + panel) * channels, channels, [&](int r, int v, Integers sum) {
                        float* const to = sums + (i + r) * channels + panel + v * kLanes;
                        store(to, load(to) + to_float(sum) * row_scale[i + r]);
                    });
    }
    for (int64_t k = 0; k < channels; k += kLanes) {
        const Vector column = load(scales + k * sizeof(float)), start = load(bias + k);
        for (int64_t i = 0; i < count; ++i) store(sums + i * channels + k, load(sums + i * channels + k) * column + start);
    }
}

#ifdef GLIP_INT8
inline void convolve_whole(const Sampled& sampled, const void* packed, const float* bias, int64_t first, int64_t count,
                           uint8_t* samples, float* sums) {
    constexpr int rows = rows_of_a_call<kVectors>();
    const int64_t channels = sampled.channels;
    const auto weights = static_cast<const int8_t*>(packed);
    const auto scales = reinterpret_cast<const char*>(weights + kTaps * channels * channels);
    const auto starts = scales + channels * sizeof(float);
    const Centers centers = sampled.centers(first, count);
    alignas(64) float scale[kTile];
    gather_whole(sampled, centers, 0, first, count, samples, scale);
    for (int64_t tap = 0; tap < kTaps; ++tap)
        for (int64_t panel = 0; panel < channels; panel += kPanel)
            for (int64_t i = 0; i < count; i += rows) {
                const auto place = [&](int r, int v) { return sums + (i + r) * channels + panel + v * kLanes; };
                const auto call = [&](const auto& begin, const auto& finish) {
                    add_groups<kVectors>(samples + (i * kTaps + tap) * channels, kTaps * channels, 4,
                                         weights + (tap * channels + panel) * channels, channels, begin, finish);
                };
                const auto so_far = [&](int r, int v) { return load_integers(place(r, v)); };
                const auto keep = [&](int r, int v, Integers sum) { std::memcpy(place(r, v), &sum, sizeof sum); };
                if (tap == 0)
                    call([&](int, int v) { return load_integers(starts + (panel + v * kLanes) * sizeof(int32_t)); }, keep);
                else if (tap + 1 < kTaps)
                    call(so_far, keep);
                else
                    call(so_far, [&](int r, int v, Integers sum) {
                        const int64_t k = panel + v * kLanes;
                        store(place(r, v), to_float(sum) * (scale[i + r] * load(scales + k * sizeof(float))) + load(bias + k));
                    });
            }
}
#endif

// weight (C, C, 3, 3) as convolve_whole takes it. A weight that is whole numbers of -127..127, 127 among them, times a
// scale of each output channel becomes those very numbers in int8.
template <typename T>
void pack_whole(const float* weight, int64_t channels, void* packed) {
    using Weight = typename Whole<T>::Weight;
    constexpr int64_t group = 4 / sizeof(T);
    Weight* const numbers = static_cast<Weight*>(packed);
    char* const scales = reinterpret_cast<char*>(numbers + kTaps * channels * channels);
    for (int64_t out = 0; out < channels; ++out) {
        const float* const filter = weight + out * channels * kTaps;
        float most = 0;
        for (int64_t i = 0; i < channels * kTaps; ++i) most = std::max(most, std::fabs(filter[i]));
        const float scale = most / Whole<T>::weight(channels);
        std::memcpy(scales + out * sizeof(float), &scale, sizeof scale);
        int32_t start = 0;
        for (int64_t tap = 0; tap < kTaps; ++tap) {
            Weight* const panel = numbers + (tap * channels + out / kPanel * kPanel) * channels;
            for (int64_t row = 0; row < channels; ++row) {
                const auto number = scale > 0 ? int32_t(std::lrint(filter[row * kTaps + tap] / scale)) : 0;
                panel[(row / group * kPanel + out % kPanel) * group + row % group] = Weight(number);
                start -= Whole<T>::kZero * number;
            }
        }
        if (Whole<T>::kZero) std::memcpy(scales + (channels + out) * sizeof(int32_t), &start, sizeof start);
    }
}
#endif

}  // namespace glip
