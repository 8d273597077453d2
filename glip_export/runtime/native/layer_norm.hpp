// LayerNorm, some rows at a time: what is summed up over lanes is waited for once.

#pragma once

#include <cmath>

#include "vector.hpp"

namespace glip {

constexpr int kTogether = 4;  // rows that are normalized

struct Norm {
    const float *weight, *bias;
    float epsilon;
};

// kTogether rows -> lines (kTogether, channels), and what is the largest magnitude of each.
inline void normalize(const Norm& norm, const float* const* from, int64_t channels, float* lines,
                      Vector (&largest)[kTogether]) {
    Vector sum[kTogether]{}, squares[kTogether]{};
    float mean[kTogether], scale[kTogether];
    for (int64_t k = 0; k < channels; k += kLanes)
        for (int r = 0; r < kTogether; ++r) sum[r] += load(from[r] + k);
    for (int r = 0; r < kTogether; ++r) mean[r] = sum_of(sum[r]) / float(channels);
    for (int64_t k = 0; k < channels; k += kLanes)
        for (int r = 0; r < kTogether; ++r) {
            const Vector distance = load(from[r] + k) - mean[r];
            squares[r] += distance * distance;
        }
    for (int r = 0; r < kTogether; ++r) scale[r] = 1.f / std::sqrt(sum_of(squares[r]) / float(channels) + norm.epsilon);
    for (int r = 0; r < kTogether; ++r) largest[r] = Vector{};
    for (int64_t k = 0; k < channels; k += kLanes)
        for (int r = 0; r < kTogether; ++r) {
            const Vector value = (load(from[r] + k) - mean[r]) * scale[r] * load(norm.weight + k) + load(norm.bias + k);
            largest[r] = larger(magnitude(value), largest[r]);
            store(lines + r * channels + k, value);
        }
}

}  // namespace glip
