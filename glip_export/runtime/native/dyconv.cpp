// One DyConv block of the dynamic head on the CPU (glip_export/model/dyconv.py), all five levels in one call.
//
// The samples of a deformable convolution are gathered one tap at a time for a tile of positions, into a small matrix
// that stays in the cache, and multiplied by that tap's weights at once: no column matrix is ever written. GroupNorm,
// the terms' own attention and their mean are one scale and shift a channel each, found from sums over the
// convolutions' results, so that the maps are read twice more and not a dozen times. Maps are kept channels last.

#include <cmath>

#include "product.hpp"

namespace glip {
namespace {

constexpr int kTaps = 9;
constexpr int kOffsets = 2 * kTaps;
constexpr int kPredicted = 3 * kTaps;  // of each position: offsets and masks
constexpr int kNarrow = 32;            // a panel for those

struct Map {
    int64_t height, width;
    int64_t size() const { return height * width; }
    int64_t padded() const { return round_up(size(), kTile); }
};

struct Corners {  // of one sample: where its four pixels begin, in floats, and what each weighs
    int64_t at[4];
    float weight[4];
};

// A corner outside the map counts as 0, the mask multiplies after the interpolation: GLIP's rule.
Corners corners_of(const Map& map, int64_t channels, float y, float x, float mask) {
    // Beyond this every corner is outside anyway; NaN becomes the first bound.
    y = std::min(std::max(-2.f, y), float(map.height + 1));
    x = std::min(std::max(-2.f, x), float(map.width + 1));
    const float top = std::floor(y), left = std::floor(x);
    const float rows[2] = {top + 1 - y, y - top}, columns[2] = {left + 1 - x, x - left};
    Corners corners;
    for (int corner = 0; corner < 4; ++corner) {
        const int64_t row = int64_t(top) + corner / 2, column = int64_t(left) + corner % 2;
        const bool inside = row >= 0 && row < map.height && column >= 0 && column < map.width;
        corners.at[corner] = inside ? (row * map.width + column) * channels : 0;
        corners.weight[corner] = inside ? rows[corner / 2] * columns[corner % 2] * mask : 0.f;
    }
    return corners;
}

template <typename T>
void gather(const float* pixels, int64_t channels, const Corners& corners, T* sample) {
    const float *a = pixels + corners.at[0], *b = pixels + corners.at[1];
    const float *c = pixels + corners.at[2], *d = pixels + corners.at[3];
    const float wa = corners.weight[0], wb = corners.weight[1], wc = corners.weight[2], wd = corners.weight[3];
    for (int64_t k = 0; k < channels; k += kLanes)
        store(sample + k, wa * load(a + k) + wb * load(b + k) + wc * load(c + k) + wd * load(d + k));
}

// What every block is made of; C is a multiple of kPanel.
struct Parameters {
    int64_t channels, groups;
    const void* weight[3];                                  // packed, of DyConv 0..2
    const float *offset_weight, *offset_bias;               // packed, and padded, to kNarrow
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
    int64_t stride;
    Map in, out;
    const float *pixels, *offset, *mask;  // (H*W, C), (18, Ho*Wo), (9, Ho*Wo)
    float *result, *tile_mean, *tile_square;
    std::vector<float> scale, shift, mean;  // GroupNorm as scale and shift; the result's means before it
    int64_t tiles() const { return out.padded() / kTile; }
};

void note_statistics(const float* rows, int64_t count, int64_t channels, float* mean, float* square) {
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

template <typename T>
void convolve_tile(const Parameters& p, const Convolution& conv, int64_t tile, T* samples) {
    const int64_t first = tile * kTile, positions = conv.out.size(), channels = p.channels;
    const int64_t count = std::min<int64_t>(kTile, positions - first);
    float* const sums = conv.result + first * channels;
    for (int64_t i = 0; i < kTile; ++i) std::memcpy(sums + i * channels, p.bias[conv.index], channels * sizeof(float));
    for (int64_t tap = 0; tap < kTaps; ++tap) {
        for (int64_t i = 0; i < count; ++i) {
            const int64_t at = first + i, row = at / conv.out.width, column = at % conv.out.width;
            const float y = row * conv.stride - 1 + tap / 3 + conv.offset[2 * tap * positions + at];
            const float x = column * conv.stride - 1 + tap % 3 + conv.offset[(2 * tap + 1) * positions + at];
            const Corners corners = corners_of(conv.in, channels, y, x, conv.mask[tap * positions + at]);
            gather(conv.pixels, channels, corners, samples + i * channels);
        }
        const T* weights = static_cast<const T*>(p.weight[conv.index]) + tap * channels * channels;
        for (int64_t panel = 0; panel < channels; panel += kPanel)
            for (int64_t i = 0; i < count; i += kRows)
                multiply(samples + i * channels, channels, weights + panel * channels, sums + i * channels + panel,
                         channels, channels);
    }
    note_statistics(sums, count, channels, conv.tile_mean + tile * channels, conv.tile_square + tile * channels);
}

// The offset convolution, an ordinary one and always fp32: offsets and masks as planes (27, H*W), as the original keeps
// them in memory. samples (kTile, C), sums (kTile, kNarrow).
void predict_tile(const Parameters& p, const Map& map, const float* pixels, int64_t tile, float* samples, float* sums,
                  float* planes) {
    const int64_t first = tile * kTile, count = std::min<int64_t>(kTile, map.size() - first), channels = p.channels;
    constexpr int rows = kLanes == 16 ? 12 : 3;  // with so few columns, more rows fill the registers
    static_assert(kPredicted <= kNarrow && kTile % rows == 0, "a tile is whole calls");
    for (int64_t i = 0; i < kTile; ++i) std::memcpy(sums + i * kNarrow, p.offset_bias, kNarrow * sizeof(float));
    for (int64_t tap = 0; tap < kTaps; ++tap) {
        for (int64_t i = 0; i < count; ++i) {
            const int64_t row = (first + i) / map.width + tap / 3 - 1, column = (first + i) % map.width + tap % 3 - 1;
            const bool inside = row >= 0 && row < map.height && column >= 0 && column < map.width;
            float* const sample = samples + i * channels;
            if (inside)
                std::memcpy(sample, pixels + (row * map.width + column) * channels, channels * sizeof(float));
            else
                std::memset(sample, 0, channels * sizeof(float));
        }
        for (int64_t i = 0; i < count; i += rows)
            multiply<rows, kNarrow / kLanes>(samples + i * channels, channels,
                                             p.offset_weight + tap * channels * kNarrow, sums + i * kNarrow, kNarrow,
                                             channels);
    }
    for (int64_t plane = 0; plane < kPredicted; ++plane)
        for (int64_t i = 0; i < count; ++i) {
            const float value = sums[i * kNarrow + plane];
            planes[plane * map.size() + first + i] = plane < kOffsets ? value : 1.f / (1.f + std::exp(-value));
        }
}

// GroupNorm of a convolution's result as one scale and one shift a channel.
void find_norm(const Parameters& p, Convolution& conv) {
    const int64_t channels = p.channels, members = channels / p.groups;
    const double positions = double(conv.out.size());
    std::vector<double> mean(channels), square(channels);
    for (int64_t tile = 0; tile < conv.tiles(); ++tile) {
        const double count = double(std::min<int64_t>(kTile, conv.out.size() - tile * kTile)), before = tile * kTile;
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

float h_sigmoid(float x) { return std::min(std::max(x + 3.f, 0.f), 6.f) / 6.f; }

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
    std::vector<double> weights(int64_t from) const {  // what every input contributes to the sum of the outputs
        std::vector<double> sums(from);
        for (size_t i = 0; i < low.size(); ++i) {
            sums[low[i]] += 1 - share[i];
            if (share[i] > 0) sums[low[i] + 1] += share[i];
        }
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
    float* tile_mean = nullptr;       // (tiles, C), of that mean
    std::vector<float> lines;         // DyReLU's two lines: (4, C), slope and offset of each
    const Convolution& enlarged() const { return terms.back(); }
};

// The means of the normalised terms as they enter the level's mean give each its attention.
void weigh_terms(const Parameters& p, Level& level) {
    const int64_t channels = p.channels;
    level.scale.assign(level.terms.size() * channels, 0.f), level.shift.assign(channels, 0.f);
    for (size_t term = 0; term < level.terms.size(); ++term) {
        Convolution& conv = level.terms[term];
        std::vector<double> mean(conv.mean.begin(), conv.mean.end());
        if (level.enlarges && term + 1 == level.terms.size()) {
            mean.assign(channels, 0.);
            const auto rows = level.rows->weights(conv.out.height), columns = level.columns->weights(conv.out.width);
            for (int64_t y = 0; y < conv.out.height; ++y)
                for (int64_t x = 0; x < conv.out.width; ++x) {
                    const double weight = rows[y] * columns[x] / double(level.map.size());
                    const float* const values = conv.result + (y * conv.out.width + x) * channels;
                    for (int64_t c = 0; c < channels; ++c) mean[c] += weight * values[c];
                }
        }
        double logit = *p.attention_bias;
        for (int64_t c = 0; c < channels; ++c)
            logit += p.attention_weight[c] * (mean[c] * conv.scale[c] + conv.shift[c]);
        const float weight = h_sigmoid(std::max(0.f, float(logit))) / float(level.terms.size());
        for (int64_t c = 0; c < channels; ++c) {
            level.scale[term * channels + c] = weight * conv.scale[c];
            level.shift[c] += weight * conv.shift[c];
        }
    }
}

// The weighted mean of the terms, in place of the first one's result, and its means over the tile.
void combine_tile(const Parameters& p, const Level& level, int64_t tile) {
    const int64_t channels = p.channels, first = tile * kTile, last = std::min(first + kTile, level.map.size());
    const size_t plain = level.terms.size() - (level.enlarges ? 1 : 0);
    for (int64_t at = first; at < last; ++at) {
        float* const out = level.terms[0].result + at * channels;
        for (int64_t k = 0; k < channels; k += kLanes) {
            Vector sum = load(level.shift.data() + k);
            for (size_t term = 0; term < plain; ++term)
                sum += load(level.terms[term].result + at * channels + k) *
                       load(level.scale.data() + term * channels + k);
            store(out + k, sum);
        }
        if (!level.enlarges) continue;
        const Convolution& conv = level.enlarged();
        const int64_t row = at / level.map.width, column = at % level.map.width;
        const int64_t y = level.rows->low[row], x = level.columns->low[column];
        const float down = level.rows->share[row], right = level.columns->share[column];
        const float* const corner = conv.result + (y * conv.out.width + x) * channels;
        const int64_t next_row = down > 0 ? conv.out.width * channels : 0, next = right > 0 ? channels : 0;
        const float weights[4] = {(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right};
        const float* const scale = level.scale.data() + plain * channels;
        for (int64_t k = 0; k < channels; k += kLanes) {
            const Vector value = weights[0] * load(corner + k) + weights[1] * load(corner + next + k) +
                                 weights[2] * load(corner + next_row + k) +
                                 weights[3] * load(corner + next_row + next + k);
            store(out + k, load(out + k) + value * load(scale + k));
        }
    }
    float* const mean = level.tile_mean + tile * channels;
    for (int64_t k = 0; k < channels; k += kLanes) {
        Vector sum{};
        for (int64_t at = first; at < last; ++at) sum += load(level.terms[0].result + at * channels + k);
        store(mean + k, sum / float(level.map.size()));
    }
}

// DyReLU's two lines from the map's means.
void find_lines(const Parameters& p, Level& level) {
    const int64_t channels = p.channels, hidden = channels / 4;
    std::vector<double> mean(channels);
    for (int64_t tile = 0; tile < level.map.padded() / kTile; ++tile)
        for (int64_t c = 0; c < channels; ++c) mean[c] += level.tile_mean[tile * channels + c];
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

// DyReLU to out: (H*W, C), or as planes (C, H*W).
void write_tile(const Parameters& p, const Level& level, int64_t tile, bool planes, float* out) {
    const int64_t channels = p.channels, positions = level.map.size(), first = tile * kTile;
    const int64_t last = std::min(first + kTile, positions);
    const float* const lines = level.lines.data();
    for (int64_t at = first; at < last; ++at) {
        float* const values = level.terms[0].result + at * channels;
        float* const target = planes ? values : out + at * channels;
        for (int64_t k = 0; k < channels; k += kLanes) {
            const Vector x = load(values + k);
            const Vector one = x * load(lines + k) + load(lines + channels + k);
            const Vector other = x * load(lines + 2 * channels + k) + load(lines + 3 * channels + k);
            store(target + k, one > other ? one : other);
        }
    }
    if (!planes) return;
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t at = first; at < last; ++at) out[c * positions + at] = level.terms[0].result[at * channels + c];
}

void channels_last(const Map& map, int64_t channels, const float* x, float* pixels, int64_t tile) {
    const int64_t first = tile * kTile, last = std::min(first + kTile, map.size());
    for (int64_t c = 0; c < channels; c += kLanes)
        for (int64_t at = first; at < last; ++at)
            for (int64_t k = c; k < c + kLanes; ++k) pixels[at * channels + k] = x[k * map.size() + at];
}

// All tiles of several maps as one list of work.
struct Tiles {
    std::vector<std::pair<int64_t, int64_t>> items;  // map, tile
    void add(int64_t map, int64_t tiles) {
        for (int64_t tile = 0; tile < tiles; ++tile) items.emplace_back(map, tile);
    }
};

template <typename Work>
void for_tiles(const Tiles& tiles, int threads, const Work& work) {
    in_parallel(threads, int64_t(tiles.items.size()),
                [&](int64_t item, int thread) { work(tiles.items[item].first, tiles.items[item].second, thread); });
}

// Of one picture. Features and results of each level as (H*W, C), or in planes (C, H*W).
template <typename T>
void run_block(const Parameters& p, const std::vector<Map>& maps, const std::vector<const float*>& features,
               bool planes_in, const std::vector<float*>& out, bool planes_out, int threads) {
    thread_local Scratch<float> floats;
    thread_local Scratch<T> operands;
    const int64_t count = int64_t(maps.size()), channels = p.channels;

    std::vector<Level> levels(count);
    int64_t total = 0;
    const auto reserve = [&total](int64_t size) { return std::exchange(total, total + round_up(size, 16)); };
    std::vector<int64_t> pixels(count), predicted(count), means(count);
    std::vector<std::vector<int64_t>> results(count), statistics(count);
    for (int64_t l = 0; l < count; ++l) {
        levels[l].map = maps[l];
        const auto add = [&](int index, int64_t stride, int64_t from, int64_t to) {
            Convolution conv{};
            conv.index = index, conv.stride = stride, conv.in = maps[from], conv.out = maps[to];
            results[l].push_back(reserve(maps[to].padded() * channels));
            statistics[l].push_back(reserve(2 * conv.tiles() * channels));
            levels[l].terms.push_back(std::move(conv));
        };
        add(1, 1, l, l);
        if (l > 0) add(2, 2, l - 1, l);
        if (l + 1 < count) {
            add(0, 1, l + 1, l + 1);
            levels[l].enlarges = true;
            levels[l].rows = std::make_unique<Enlarged>(maps[l + 1].height, maps[l].height);
            levels[l].columns = std::make_unique<Enlarged>(maps[l + 1].width, maps[l].width);
        }
        if (planes_in) pixels[l] = reserve(maps[l].size() * channels);
        predicted[l] = reserve(maps[l].size() * kPredicted);
        means[l] = reserve(maps[l].padded() / kTile * channels);
    }
    const int64_t own = kTile * (channels + kNarrow), scratch = reserve(threads * own);
    float* const memory = floats.at_least(total);
    T* const samples = operands.at_least(threads * kTile * channels);
    const auto pixels_of = [&](int64_t l) { return planes_in ? memory + pixels[l] : features[l]; };

    Tiles level_tiles, convolution_tiles;
    std::vector<Convolution*> convolutions;
    for (int64_t l = 0; l < count; ++l) {
        Level& level = levels[l];
        level.tile_mean = memory + means[l];
        level_tiles.add(l, maps[l].padded() / kTile);
        for (size_t term = 0; term < level.terms.size(); ++term) {
            Convolution& conv = level.terms[term];
            conv.pixels = pixels_of(conv.index == 1 ? l : conv.index == 2 ? l - 1 : l + 1);
            // Of a smaller map the original reads its own level's offsets by that map's size: the raw-memory rule.
            conv.offset = memory + predicted[l], conv.mask = conv.offset + kOffsets * maps[l].size();
            conv.result = memory + results[l][term];
            conv.tile_mean = memory + statistics[l][term];
            conv.tile_square = conv.tile_mean + conv.tiles() * channels;
            convolution_tiles.add(int64_t(convolutions.size()), conv.tiles());
            convolutions.push_back(&conv);
        }
    }
    if (planes_in)
        for_tiles(level_tiles, threads, [&](int64_t l, int64_t tile, int) {
            channels_last(maps[l], channels, features[l], memory + pixels[l], tile);
        });
    for_tiles(level_tiles, threads, [&](int64_t l, int64_t tile, int thread) {
        float* const work = memory + scratch + thread * own;
        predict_tile(p, maps[l], pixels_of(l), tile, work, work + kTile * channels, memory + predicted[l]);
    });
    for_tiles(convolution_tiles, threads, [&](int64_t conv, int64_t tile, int thread) {
        convolve_tile(p, *convolutions[conv], tile, samples + thread * kTile * channels);
    });
    in_parallel(threads, count, [&](int64_t l, int) {
        for (Convolution& conv : levels[l].terms) find_norm(p, conv);
        weigh_terms(p, levels[l]);
    });
    for_tiles(level_tiles, threads, [&](int64_t l, int64_t tile, int) { combine_tile(p, levels[l], tile); });
    in_parallel(threads, count, [&](int64_t l, int) { find_lines(p, levels[l]); });
    for_tiles(level_tiles, threads,
              [&](int64_t l, int64_t tile, int) { write_tile(p, levels[l], tile, planes_out, out[l]); });
}

template <typename T, int Panel = kPanel>
void pack(const float* weight, int64_t out_channels, int64_t channels, T* packed) {
    const int64_t columns = round_up(out_channels, Panel);
    std::memset(static_cast<void*>(packed), 0, kTaps * channels * columns * sizeof(T));
    for (int64_t out = 0; out < out_channels; ++out)
        for (int64_t row = 0; row < channels; ++row)
            for (int64_t tap = 0; tap < kTaps; ++tap) {
                const float value = weight[(out * channels + row) * kTaps + tap];
                T& to = packed[tap * channels * columns + packed_index<T, Panel>(channels, row, out)];
                if constexpr (sizeof(T) == 2) to = to_bf16(value); else to = value;
            }
}

Parameters parameters_of(const int64_t* sizes, const void* const* parameters, const float* epsilon) {
    Parameters p{};
    p.channels = sizes[1], p.groups = sizes[2];
    const auto floats = [&](int index) { return static_cast<const float*>(parameters[index]); };
    for (int i = 0; i < 3; ++i) {
        p.weight[i] = parameters[4 * i];
        p.bias[i] = floats(4 * i + 1), p.norm_weight[i] = floats(4 * i + 2), p.norm_bias[i] = floats(4 * i + 3);
        p.epsilon[i] = epsilon[i];
    }
    p.attention_weight = floats(12), p.attention_bias = floats(13);
    p.first_weight = floats(14), p.first_bias = floats(15), p.last_weight = floats(16), p.last_bias = floats(17);
    p.offset_weight = floats(18), p.offset_bias = floats(19);
    return p;
}

// As glip_dyconv.
void run_batch(const int64_t* sizes, const float* const* features, float* const* out, const void* const* parameters,
               const float* epsilon, int bf16, int threads) {
    const int64_t batch = sizes[0], count = sizes[3];
    const bool planes_in = sizes[4], planes_out = sizes[5];
    const Parameters p = parameters_of(sizes, parameters, epsilon);
    std::vector<Map> levels(count);
    std::vector<int64_t> before(count);  // positions of the levels in front
    int64_t positions = 0;
    for (int64_t l = 0; l < count; ++l) {
        levels[l] = {sizes[6 + 2 * l], sizes[7 + 2 * l]};
        before[l] = std::exchange(positions, positions + levels[l].size());
    }
    for (int64_t image = 0; image < batch; ++image) {
        const auto of_level = [&](auto* const* maps, bool planes, int64_t l) {
            return planes ? maps[l] + image * p.channels * levels[l].size()
                          : maps[0] + (image * positions + before[l]) * p.channels;
        };
        std::vector<const float*> from(count);
        std::vector<float*> to(count);
        for (int64_t l = 0; l < count; ++l)
            from[l] = of_level(features, planes_in, l), to[l] = of_level(out, planes_out, l);
#ifdef __AVX512BF16__
        if (bf16) {
            run_block<uint16_t>(p, levels, from, planes_in, to, planes_out, threads);
            continue;
        }
#endif
        (void)bf16;
        run_block<float>(p, levels, from, planes_in, to, planes_out, threads);
    }
}

}  // namespace
}  // namespace glip

extern "C" {

// weight (C, C, 3, 3) f32 -> 9*C*C packed values of 4 bytes, or of 2 in bf16.
void glip_deform_conv_pack(const float* weight, int64_t channels, int bf16, void* packed) {
    if (bf16)
        glip::pack(weight, channels, channels, static_cast<uint16_t*>(packed));
    else
        glip::pack(weight, channels, channels, static_cast<float*>(packed));
}

// weight (27, C, 3, 3) f32 -> 9*C*32 packed values.
void glip_offset_conv_pack(const float* weight, int64_t channels, float* packed) {
    glip::pack<float, glip::kNarrow>(weight, glip::kPredicted, channels, packed);
}

// sizes: batch, C, groups, levels, whether the features are planes, whether the results are, then H, W of each level,
// none larger than the one before. features, out: of each level f32 planes (B, C, H, W), or all levels' positions in one
// array (B, N, C), of which the first pointer counts. parameters: of DyConv 0, 1, 2 each its packed weights, bias,
// GroupNorm weight and bias, then AttnConv's weight and bias, then DyReLU's two layers' weights and biases, then the
// offset convolution's weights, packed, and its bias, padded to 32. epsilon: of the three GroupNorms. C is a multiple of
// glip_panel and of groups. bf16, for the deformable convolutions, only where glip_has_bf16. 1 if there was not the
// memory.
int glip_dyconv(const int64_t* sizes, const float* const* features, float* const* out, const void* const* parameters,
                const float* epsilon, int bf16, int threads) {
    return glip::reported([&] { glip::run_batch(sizes, features, out, parameters, epsilon, bf16, threads); });
}

int64_t glip_panel() { return glip::kPanel; }
}
