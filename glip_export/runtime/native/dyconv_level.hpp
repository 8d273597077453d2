// What becomes of a level's convolutions in a DyConv block: GroupNorm, the terms' own attention and their mean are one
// scale and shift a channel each, found from sums over the convolutions' results; DyReLU's lines follow from the means
// of those, so that the results are read once more and not a dozen times.

#pragma once

#include "deform_conv.hpp"
#include "offset_conv.hpp"

namespace glip {

// What every block is made of; C is a multiple of kPanel.
struct Parameters {
    int64_t channels, groups;
    const void* weight[3];                                  // packed, of DyConv 0..2
    OffsetConv offsets;
    const float *bias[3], *norm_weight[3], *norm_bias[3];   // (C)
    float epsilon[3];
    const float *attention_weight, *attention_bias;         // (C), (1)
    const float *first_weight, *first_bias;                 // DyReLU: (C/4, C), (C/4)
    const float *last_weight, *last_bias;                   // (4*C, C/4), (4*C)
};

// One deformable convolution: its operands, its result (positions, C) with a tile's room to spare, and of each tile and
// channel the mean and the sum of squares about it.
struct Convolution {
    int index;  // in DyConv
    Sampled sampled;
    float *result, *tile_mean, *tile_square;
    float* tile_enlarged;  // if it is to be enlarged: of each tile and channel what it adds to the mean of that
    std::vector<double> row_weight, column_weight;  // in that mean
    std::vector<float> scale, shift, mean;  // GroupNorm as scale and shift; the result's means before it
    int64_t tiles() const { return sampled.out.padded() / kTile; }
};

inline void note_statistics(const float* rows, int64_t count, int64_t channels, float* mean, float* square) {
    for (int64_t k = 0; k < channels; k += kLanes) {
        Vector sum{}, squares{};
        for (int64_t i = 0; i < count; ++i) sum += load(rows + i * channels + k);
        const Vector average = sum / float(count);
        for (int64_t i = 0; i < count; ++i) {
            const Vector distance = load(rows + i * channels + k) - average;
            squares += distance * distance;
        }
        store(mean + k, average);
        store(square + k, squares);
    }
}

// GroupNorm of a convolution's result as one scale and one shift a channel.
inline void find_norm(const Parameters& p, Convolution& conv) {
    const int64_t channels = p.channels, members = channels / p.groups;
    const double positions = double(conv.sampled.out.size());
    std::vector<double> mean(channels), square(channels);
    for (int64_t tile = 0; tile < conv.tiles(); ++tile) {
        const double count = double(std::min<int64_t>(kTile, conv.sampled.out.size() - tile * kTile)), before = tile * kTile;
        for (int64_t c = 0; c < channels; ++c) {  // Chan, Golub and LeVeque, 1979
            const double distance = conv.tile_mean[tile * channels + c] - mean[c];
            mean[c] += distance * count / (before + count);
            square[c] += conv.tile_square[tile * channels + c] + distance * distance * before * count / (before + count);
        }
    }
    conv.scale.resize(channels), conv.shift.resize(channels), conv.mean.assign(mean.begin(), mean.end());
    for (int64_t first = 0; first < channels; first += members) {
        double group_mean = 0, variance = 0;
        for (int64_t c = first; c < first + members; ++c) group_mean += mean[c] / members;
        for (int64_t c = first; c < first + members; ++c)
            variance += square[c] + positions * (mean[c] - group_mean) * (mean[c] - group_mean);
        const double scale = 1 / std::sqrt(variance / (positions * members) + p.epsilon[conv.index]);
        for (int64_t c = first; c < first + members; ++c) {
            conv.scale[c] = float(p.norm_weight[conv.index][c] * scale);
            conv.shift[c] = float(p.norm_bias[conv.index][c] - group_mean * p.norm_weight[conv.index][c] * scale);
        }
    }
}

inline float h_sigmoid(float x) { return std::min(std::max(x + 3.f, 0.f), 6.f) / 6.f; }

// How one axis is enlarged with its corners aligned: each output lies between two inputs.
struct Enlarged {
    Enlarged(int64_t from, int64_t to) : low(to), share(to) {
        const double step = to > 1 ? double(from - 1) / double(to - 1) : 0.;
        for (int64_t i = 0; i < to; ++i) {
            const float at = float(i) * float(step);
            low[i] = std::min<int64_t>(int64_t(at), from - 1);
            share[i] = low[i] + 1 < from ? at - float(low[i]) : 0.f;
        }
    }
    std::vector<double> weights(int64_t from) const {  // what every input contributes to the mean of the outputs
        std::vector<double> sums(from);
        for (size_t i = 0; i < low.size(); ++i) {
            sums[low[i]] += 1 - share[i];
            if (share[i] > 0) sums[low[i] + 1] += share[i];
        }
        for (double& sum : sums) sum /= double(low.size());
        return sums;
    }
    std::vector<int64_t> low;
    std::vector<float> share;  // of the input after it
};

struct Level {
    Map map;
    std::vector<Convolution> terms;  // the enlarged one last, if there is one
    bool enlarges = false;
    std::unique_ptr<Enlarged> rows, columns;
    std::vector<float> scale, shift;  // (terms, C), (C): the terms' weighted mean
    std::vector<float> lines;         // DyReLU's two lines: (4, C), slope and offset of each
    const Convolution& enlarged() const { return terms.back(); }
};

// The means of the normalised terms as they enter the level's mean give each its attention. Gives the mean of that.
inline std::vector<double> weigh_terms(const Parameters& p, Level& level) {
    const int64_t channels = p.channels;
    level.scale.assign(level.terms.size() * channels, 0.f), level.shift.assign(channels, 0.f);
    std::vector<double> level_mean(channels);
    for (size_t term = 0; term < level.terms.size(); ++term) {
        Convolution& conv = level.terms[term];
        std::vector<double> mean(conv.mean.begin(), conv.mean.end());
        if (level.enlarges && term + 1 == level.terms.size()) {
            mean.assign(channels, 0.);
            for (int64_t tile = 0; tile < conv.tiles(); ++tile)
                for (int64_t c = 0; c < channels; ++c) mean[c] += conv.tile_enlarged[tile * channels + c];
        }
        double logit = *p.attention_bias;
        for (int64_t c = 0; c < channels; ++c)
            logit += p.attention_weight[c] * (mean[c] * conv.scale[c] + conv.shift[c]);
        const float weight = h_sigmoid(std::max(0.f, float(logit))) / float(level.terms.size());
        for (int64_t c = 0; c < channels; ++c) {
            level.scale[term * channels + c] = weight * conv.scale[c];
            level.shift[c] += weight * conv.shift[c];
            level_mean[c] += weight * (mean[c] * conv.scale[c] + conv.shift[c]);
        }
    }
    return level_mean;
}

// DyReLU's two lines from the means of the terms' weighted mean.
inline void find_lines(const Parameters& p, const std::vector<double>& mean, Level& level) {
    const int64_t channels = p.channels, hidden = channels / 4;
    std::vector<float> between(hidden);
    for (int64_t h = 0; h < hidden; ++h) {
        double sum = p.first_bias[h];
        for (int64_t c = 0; c < channels; ++c) sum += p.first_weight[h * channels + c] * mean[c];
        between[h] = std::max(0.f, float(sum));
    }
    level.lines.resize(4 * channels);
    for (int64_t i = 0; i < 4 * channels; ++i) {
        double sum = p.last_bias[i];
        for (int64_t h = 0; h < hidden; ++h) sum += p.last_weight[i * hidden + h] * between[h];
        const float y = h_sigmoid(float(sum)) - 0.5f;
        const int64_t line = i / channels;  // first slope, first offset, second slope, second offset
        level.lines[i] = line == 0 ? 2 * y + 1 : line == 2 ? 2 * y : y;
    }
}

// give(k, values): kLanes channels of the terms' weighted mean at a position, from k on.
template <typename Give>
inline void combine(const Level& level, int64_t channels, int64_t at, const Give& give) {
    const float* const scale = level.scale.data();
    const float* const shift = level.shift.data();
    const size_t plain = level.terms.size() - (level.enlarges ? 1 : 0);
    const float* const first = level.terms[0].result + at * channels;
    const float* const second = plain > 1 ? level.terms[1].result + at * channels : nullptr;
    const auto of_plain = [&](int64_t k) {
        const Vector sum = load(shift + k) + load(first + k) * load(scale + k);
        return second ? sum + load(second + k) * load(scale + channels + k) : sum;
    };
    if (!level.enlarges) {
        for (int64_t k = 0; k < channels; k += kLanes) give(k, of_plain(k));
        return;
    }
    const Convolution& conv = level.enlarged();
    const int64_t row = at / level.map.width, column = at % level.map.width;
    const int64_t y = level.rows->low[row], x = level.columns->low[column];
    const float down = level.rows->share[row], right = level.columns->share[column];
    const float* const corner = conv.result + (y * conv.sampled.out.width + x) * channels;
    const int64_t next_row = down > 0 ? conv.sampled.out.width * channels : 0, next = right > 0 ? channels : 0;
    const float weights[4] = {(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right};
    for (int64_t k = 0; k < channels; k += kLanes) {
        const Vector value = weights[0] * load(corner + k) + weights[1] * load(corner + next + k) +
                             weights[2] * load(corner + next_row + k) + weights[3] * load(corner + next_row + next + k);
        give(k, of_plain(k) + value * load(scale + plain * channels + k));
    }
}

// DyReLU of the terms' weighted mean to out: (H*W, C), or as planes (C, H*W), by way of the first term's result.
inline void write_tile(const Parameters& p, const Level& level, int64_t tile, bool planes, float* out) {
    const int64_t channels = p.channels, positions = level.map.size(), first = tile * kTile;
    const int64_t last = std::min(first + kTile, positions);
    const float* const lines = level.lines.data();
    for (int64_t at = first; at < last; ++at) {
        float* const target = (planes ? level.terms[0].result : out) + at * channels;
        combine(level, channels, at, [=](int64_t k, Vector x) {
            const Vector one = x * load(lines + k) + load(lines + channels + k);
            const Vector other = x * load(lines + 2 * channels + k) + load(lines + 3 * channels + k);
            store(target + k, one > other ? one : other);
        });
    }
    if (!planes) return;
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t at = first; at < last; ++at) out[c * positions + at] = level.terms[0].result[at * channels + c];
}

}  // namespace glip
