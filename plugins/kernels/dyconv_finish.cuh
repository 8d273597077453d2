// What becomes of a DyConv block's convolutions: GroupNorm, the terms' own attention and their mean are one scale and
// shift a channel each, found from sums over the convolutions' results, and DyReLU's lines follow from the means of
// those; so the results are read once more and not a dozen times.
//
//   coefficients:  statistics f32 (B, tiles, 3, C) -> coefficients f32 (B, levels, 8, C)
//   combine:       terms (B, R, C), coefficients -> out of each level (B, H, W, C)
//
// Of DyConv 0, 1, 2 the bias (C), which halves would lose part of were it added to the results, and GroupNorm's weight
// (C) and bias (C); the attention (C) and its bias (1); DyReLU's layers (C / 4, C), (C / 4), (4 * C, C / 4), (4 * C).
// Every sum has one order, so every run gives the same bits.

#pragma once

#include "dyconv_levels.cuh"
#include "samples.cuh"
#include "warp.cuh"

namespace glip {

constexpr int kFinishThreads = 1024;
constexpr int kCombineThreads = 256;
constexpr int kCombineEach = 4;  // channels of a thread
constexpr int kCombineRows = 8;  // positions that a thread goes through

template <typename T>
struct FinishParameters {
    const T *bias[3], *norm_weight[3], *norm_bias[3];
    const T *attention, *attention_bias;
    const T *first_weight, *first_bias, *last_weight, *last_bias;
};

// Means and squares about them of two parts, as one (Chan, Golub and LeVeque, 1979).
struct Moments {
    float count, mean, squares;

    __device__ __forceinline__ void add(float other_count, float other_mean, float other_squares) {
        if (other_count == 0.0f) return;
        const float total = count + other_count, distance = other_mean - mean;
        mean += distance * other_count / total;
        squares += other_squares + distance * distance * count * other_count / total;
        count = total;
    }
};

__device__ __forceinline__ float h_sigmoid(float x) { return fminf(fmaxf(x + 3.0f, 0.0f), 6.0f) / 6.0f; }

// The sum of values[c] * factors[c] in one order, to every thread; scratch has room for a float a warp.
template <typename T>
__device__ __forceinline__ float dot(const float* values, const T* factors, int count, float* scratch) {
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    float sum = 0.0f;
    for (int c = thread; c < count; c += threads) sum += values[c] * to_float(factors[c]);
    return sum_over_block(sum, scratch);
}

// One level of one image. Shared memory: (3 * slices + 4) * C floats and 32, slices = threads / C, at least 1.
template <typename T>
__device__ __forceinline__ void find_coefficients(const Levels& levels, int channels, int groups, const float* epsilon,
                                                  const float* __restrict__ statistics, const FinishParameters<T>& p,
                                                  float* __restrict__ coefficients) {
    GLIP_DYNAMIC_SHARED(shared);
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const int level = static_cast<int>(blockIdx.x), slices = threads > channels ? threads / channels : 1;
    float* const parts = reinterpret_cast<float*>(shared);  // (3, slices, C)
    float* const squares = parts + kStatistics * slices * channels;
    float *const mean = squares + channels, *const of_term = mean + channels, *const of_level = of_term + channels;
    float* const scratch = of_level + channels;

    const float* const of_image =
        statistics + static_cast<long long>(blockIdx.y) * levels.tiles * kStatistics * channels;
    float* const out =
        coefficients + (static_cast<long long>(blockIdx.y) * levels.count + level) * kCoefficients * channels;
    float* const shifts = out + kTerms * channels;
    const int terms = 1 + (level > 0 ? 1 : 0) + (level + 1 < levels.count ? 1 : 0);
    for (int c = thread; c < channels; c += threads) shifts[c] = of_level[c] = 0.0f;

#pragma unroll 1
    for (int kind = 0; kind < kTerms; ++kind) {
        const Term term = find_term(levels, [=](const Term& at) { return at.level == level && at.kind == kind; });
        if (term.level != level || term.kind != kind) {  // the first level has no larger, the last no smaller one
            for (int c = thread; c < channels; c += threads) out[kind * channels + c] = 0.0f;
            continue;
        }
        const int positions = size_of(levels, term.out);
        for (int item = thread; item < slices * channels; item += threads) {
            const int slice = item / channels, c = item % channels;
            Moments moments{0.0f, 0.0f, 0.0f};
            float enlarged = 0.0f;
#pragma unroll 4
            for (int tile = slice; tile < term.tiles; tile += slices) {
                const float* const of_tile =
                    of_image + static_cast<long long>(term.first_tile + tile) * kStatistics * channels;
                const int left = positions - tile * kTileRows;
                moments.add(static_cast<float>(left < kTileRows ? left : kTileRows), of_tile[c], of_tile[channels + c]);
                if (kind == kSmaller) enlarged += of_tile[2 * channels + c];
            }
            parts[item] = moments.mean;
            parts[slices * channels + item] = moments.squares;
            parts[2 * slices * channels + item] = enlarged;
        }
        __syncthreads();
        for (int c = thread; c < channels; c += threads) {
            Moments moments{0.0f, 0.0f, 0.0f};
            float enlarged = 0.0f;
            for (int slice = 0; slice < slices; ++slice) {
                const int tiles = (term.tiles - slice + slices - 1) / slices;  // of the slice; one has the last
                if (tiles <= 0) break;
                const bool has_last = (term.tiles - 1) % slices == slice;
                const int missing = has_last ? term.tiles * kTileRows - positions : 0;
                const int count = tiles * kTileRows - missing;
                moments.add(static_cast<float>(count), parts[slice * channels + c],
                            parts[(slices + slice) * channels + c]);
                enlarged += parts[(2 * slices + slice) * channels + c];
            }
            const float bias = to_float(p.bias[term.index][c]);
            mean[c] = moments.mean + bias;
            squares[c] = moments.squares;
            of_term[c] = (kind == kSmaller ? enlarged : moments.mean) + bias;
        }
        __syncthreads();
        // GroupNorm as one scale and shift a channel; of_term becomes the mean of the normalised term.
        const int members = channels / groups;
        for (int c = thread; c < channels; c += threads) {
            const int first = c / members * members;
            Moments group{0.0f, 0.0f, 0.0f};
            for (int member = first; member < first + members; ++member) {
                group.add(static_cast<float>(positions), mean[member], squares[member]);
            }
            const float deviation = sqrtf(group.squares / group.count + epsilon[term.index]);
            const float scale = to_float(p.norm_weight[term.index][c]) / deviation;
            const float shift = to_float(p.norm_bias[term.index][c]) - group.mean * scale;
            parts[c] = scale;
            parts[channels + c] = shift + to_float(p.bias[term.index][c]) * scale;
            of_term[c] = of_term[c] * scale + shift;
        }
        __syncthreads();
        const float logit = dot(of_term, p.attention, channels, scratch) + to_float(p.attention_bias[0]);
        const float weight = h_sigmoid(fmaxf(logit, 0.0f)) / static_cast<float>(terms);
        for (int c = thread; c < channels; c += threads) {
            out[kind * channels + c] = weight * parts[c];
            shifts[c] += weight * parts[channels + c];
            of_level[c] += weight * of_term[c];
        }
        __syncthreads();
    }

    constexpr int kEach = 16 / sizeof(T);
    const int hidden = channels / 4;
    float* const between = parts;
    for (int h = thread / 32; h < hidden; h += threads / 32) {  // a warp a row
        float sum = 0.0f;
        for (int c = thread % 32; c < channels; c += 32) {
            sum += to_float(p.first_weight[h * channels + c]) * of_level[c];
        }
        sum = sum_over<31>(sum);
        if (thread % 32 == 0) between[h] = fmaxf(sum + to_float(p.first_bias[h]), 0.0f);
    }
    __syncthreads();
    for (int i = thread; i < 4 * channels; i += threads) {
        float sum = to_float(p.last_bias[i]);
        for (int h = 0; h < hidden; h += kEach) {
            const auto weights = load_as<Pack<T, kEach>>(p.last_weight + i * hidden + h);
#pragma unroll
            for (int n = 0; n < kEach; ++n) sum += to_float(weights.value[n]) * between[h + n];
        }
        const float y = h_sigmoid(sum) - 0.5f;
        const int line = i / channels;  // first slope, first offset, second slope, second offset
        out[(kTerms + 1 + line) * channels + i % channels] = line == 0 ? 2.0f * y + 1.0f : line == 2 ? 2.0f * y : y;
    }
}

// Grid: x over groups of positions of all levels, none of two levels; y over images.
template <typename T>
__device__ __forceinline__ void combine_terms(const Levels& levels, int channels, const T* __restrict__ terms,
                                              const float* __restrict__ coefficients, const OfLevels<T>& out) {
    using Values = Pack<T, kCombineEach>;
    const int across = channels / kCombineEach, down = kCombineThreads / across;
    const int thread = static_cast<int>(threadIdx.x), row = thread / across, channel = thread % across * kCombineEach;
    if (row >= down) return;
    int group = static_cast<int>(blockIdx.x), level = 0;
    const int of_group = down * kCombineRows;
    for (; level + 1 < levels.count; ++level) {
        const int groups = (size_of(levels, level) + of_group - 1) / of_group;
        if (group < groups) break;
        group -= groups;
    }
    const long long image = static_cast<long long>(blockIdx.y) * levels.rows;
    const auto results_of = [&](int kind) {
        const Term term = find_term(levels, [=](const Term& at) { return at.level == level && at.kind == kind; });
        return terms + (image + term.first_row) * channels + channel;
    };
    const bool has_larger = level > 0, has_smaller = level + 1 < levels.count;
    const T* const own = results_of(kOwn);
    const T* const larger = has_larger ? results_of(kLarger) : own;
    const T* const smaller = has_smaller ? results_of(kSmaller) : own;

    float c[kCoefficients][kCombineEach];
    const float* const of_level =
        coefficients + (static_cast<long long>(blockIdx.y) * levels.count + level) * kCoefficients * channels + channel;
#pragma unroll
    for (int i = 0; i < kCoefficients; ++i) {
#pragma unroll
        for (int n = 0; n < kCombineEach; ++n) c[i][n] = of_level[i * channels + n];
    }

    const int width = levels.width[level], positions = size_of(levels, level);
    T* const target = map_of(levels, out, level, channels) + channel;
#pragma unroll 2
    for (int i = 0; i < kCombineRows; ++i) {
        const int position = group * of_group + i * down + row;
        if (position >= positions) return;
        float sum[kCombineEach];
        const auto add = [&](const T* results, long long at, const float(&scale)[kCombineEach], float share) {
            const Values values = load_as<Values>(results + at * channels);
#pragma unroll
            for (int n = 0; n < kCombineEach; ++n) sum[n] += share * (scale[n] * to_float(values.value[n]));
        };
#pragma unroll
        for (int n = 0; n < kCombineEach; ++n) sum[n] = c[kTerms][n];
        add(own, position, c[kOwn], 1.0f);
        if (has_larger) add(larger, position, c[kLarger], 1.0f);
        if (has_smaller) {
            const int narrow = levels.width[level + 1];
            const Between y(position / width, levels.height[level + 1], levels.height[level]);
            const Between x(position % width, narrow, width);
            const long long corner = static_cast<long long>(y.low) * narrow + x.low;
            add(smaller, corner, c[kSmaller], (1.0f - y.share) * (1.0f - x.share));
            add(smaller, corner + x.next, c[kSmaller], (1.0f - y.share) * x.share);
            add(smaller, corner + y.next * narrow, c[kSmaller], y.share * (1.0f - x.share));
            add(smaller, corner + y.next * narrow + x.next, c[kSmaller], y.share * x.share);
        }
        Values result;
#pragma unroll
        for (int n = 0; n < kCombineEach; ++n) {
            result.value[n] = from_float<T>(
                fmaxf(sum[n] * c[kTerms + 1][n] + c[kTerms + 2][n], sum[n] * c[kTerms + 3][n] + c[kTerms + 4][n]));
        }
        store_as(target + static_cast<long long>(position) * channels, result);
    }
}

}  // namespace glip

#define GLIP_DYCONV_FINISH(suffix, T)                                                                            \
    extern "C" __global__ void __launch_bounds__(glip::kFinishThreads) glip_dyconv_coefficients_##suffix(        \
        glip::Levels levels, int channels, int groups, float epsilon0, float epsilon1, float epsilon2,           \
        const float* statistics, const T* bias0, const T* norm_weight0, const T* norm_bias0, const T* bias1,     \
        const T* norm_weight1, const T* norm_bias1, const T* bias2, const T* norm_weight2, const T* norm_bias2,  \
        const T* attention, const T* attention_bias, const T* first_weight, const T* first_bias,                 \
        const T* last_weight, const T* last_bias, float* coefficients) {                                         \
        const float epsilon[3] = {epsilon0, epsilon1, epsilon2};                                                 \
        const glip::FinishParameters<T> parameters{{bias0, bias1, bias2},                                        \
                                                   {norm_weight0, norm_weight1, norm_weight2},                   \
                                                   {norm_bias0, norm_bias1, norm_bias2},                         \
                                                   attention, attention_bias,                                    \
                                                   first_weight, first_bias, last_weight, last_bias};            \
        glip::find_coefficients<T>(levels, channels, groups, epsilon, statistics, parameters, coefficients);     \
    }                                                                                                            \
    extern "C" __global__ void __launch_bounds__(glip::kCombineThreads) glip_dyconv_combine_##suffix(            \
        glip::Levels levels, int channels, const T* terms, const float* coefficients, GLIP_OF_LEVELS(T, out)) {  \
        glip::combine_terms<T>(levels, channels, terms, coefficients, GLIP_GATHERED(T, out));                    \
    }

GLIP_DYCONV_FINISH(f32, float)
GLIP_DYCONV_FINISH(f16, __half)

#undef GLIP_DYCONV_FINISH
