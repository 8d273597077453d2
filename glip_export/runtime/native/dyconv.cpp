// One DyConv block of the dynamic head on the CPU (glip_export/model/dyconv.py), all five levels in one call.
//
// Maps are kept channels last. Every phase runs over tiles of all levels at once.

#include "dyconv_level.hpp"

namespace glip {
namespace {

template <typename T>
void convolve_tile(const Parameters& p, const Convolution& conv, int64_t tile, T* samples) {
    const int64_t first = tile * kTile, channels = p.channels;
    const int64_t count = std::min<int64_t>(kTile, conv.sampled.out.size() - first);
    float* const sums = conv.result + first * channels;
    if constexpr (is_whole<T>)
        convolve_whole(conv.sampled, p.weight[conv.index], p.bias[conv.index], first, count, samples, sums);
    else
        convolve(conv.sampled, p.weight[conv.index], p.bias[conv.index], first, count, samples, sums);
    note_statistics(sums, count, channels, conv.tile_mean + tile * channels, conv.tile_square + tile * channels);
    if (conv.row_weight.empty()) return;
    float* const enlarged = conv.tile_enlarged + tile * channels;
    float weight[kTile];
    for (int64_t i = 0; i < count; ++i) {
        const int64_t width = conv.sampled.out.width;
        weight[i] = float(conv.row_weight[(first + i) / width] * conv.column_weight[(first + i) % width]);
    }
    for (int64_t k = 0; k < channels; k += kLanes) {
        Vector sum{};
        for (int64_t i = 0; i < count; ++i) sum += weight[i] * load(sums + i * channels + k);
        store(enlarged + k, sum);
    }
}

// Of one tile: pixels (kTile, C).
void channels_last(const Map& map, int64_t channels, const float* x, float* pixels, int64_t tile) {
    const int64_t first = tile * kTile, count = std::min<int64_t>(kTile, map.size() - first);
    for (int64_t c = 0; c < channels; c += kLanes)
        for (int64_t i = 0; i < count; ++i)
            for (int64_t k = c; k < c + kLanes; ++k) pixels[i * channels + k] = x[k * map.size() + first + i];
}

#ifdef GLIP_INT16
// One tile of a level in whole numbers: values (kTile, C).
void take_tile(const Map& map, int64_t channels, const float* values, int64_t tile, int16_t* numbers, float* largest) {
    const int64_t first = tile * kTile, count = std::min<int64_t>(kTile, map.size() - first);
    for (int64_t i = 0; i < count; ++i)
        largest[first + i] = to_pixel(values + i * channels, channels, numbers + (first + i) * channels);
}
#endif

// Offsets move what is sampled: only where samples have 8 bits are theirs predicted in 16.
template <typename T>
constexpr bool whole_offsets = std::is_same_v<T, uint8_t>;

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
    std::vector<int64_t> pixels(count), predicted(count), largest(count), numbers(count);
    int64_t sixteens = 0;
    std::vector<std::vector<int64_t>> results(count), statistics(count);
    for (int64_t l = 0; l < count; ++l) {
        levels[l].map = maps[l];
        const auto add = [&](int index, int64_t stride, int64_t from, int64_t to) {
            Convolution conv{};
            conv.index = index;
            conv.sampled.channels = channels, conv.sampled.stride = stride;
            conv.sampled.in = maps[from], conv.sampled.out = maps[to];
            results[l].push_back(reserve(maps[to].padded() * channels));
            statistics[l].push_back(reserve(3 * conv.tiles() * channels));
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
        if (planes_in && !whole_offsets<T>) pixels[l] = reserve(maps[l].size() * channels);
        predicted[l] = reserve(maps[l].size() * kPredicted + kLanes);  // and what is read after them
        if (is_whole<T>) {
            const int64_t around = maps[l].width + 1;  // pixels that count nothing, and the rest of a call
            largest[l] = reserve(maps[l].size());
            numbers[l] = sixteens + around * channels;
            sixteens += (maps[l].padded() + 2 * around) * channels;
        }
    }
    const int64_t own = kTile * (channels + kNarrow), scratch = reserve(threads * own);
    [[maybe_unused]] const int64_t offset_scale = reserve(kNarrow);  // of whole numbers, as is what follows of a tile
    float* const memory = floats.at_least(total);
    const int64_t samples_of_tile = kTile * channels * kGathered<T>;
    T* const samples = operands.at_least(threads * samples_of_tile);
    thread_local Scratch<int16_t> whole;
    int16_t* const offset_numbers = whole.at_least(is_whole<T> ? kTaps * channels * kNarrow + sixteens : 0);
    int16_t* const whole_pixels = offset_numbers + (is_whole<T> ? kTaps * channels * kNarrow : 0);
    const auto pixels_of = [&](int64_t l) { return planes_in ? memory + pixels[l] : features[l]; };

    Tiles level_tiles, convolution_tiles;
    std::vector<Convolution*> convolutions;
    for (int64_t l = 0; l < count; ++l) {
        Level& level = levels[l];
        level_tiles.add(l, maps[l].padded() / kTile);
        for (size_t term = 0; term < level.terms.size(); ++term) {
            Convolution& conv = level.terms[term];
            const int64_t from = conv.index == 1 ? l : conv.index == 2 ? l - 1 : l + 1;
            conv.sampled.pixels = pixels_of(from);
            conv.sampled.numbers = whole_pixels + numbers[from], conv.sampled.largest = memory + largest[from];
            // Of a smaller map the original reads its own level's offsets by that map's size: the raw-memory rule.
            conv.sampled.offset = memory + predicted[l];
            conv.sampled.mask = conv.sampled.offset + kOffsets * maps[l].size();
            conv.result = memory + results[l][term];
            conv.tile_mean = memory + statistics[l][term];
            conv.tile_square = conv.tile_mean + conv.tiles() * channels;
            conv.tile_enlarged = conv.tile_square + conv.tiles() * channels;
            if (conv.index == 0) {
                conv.row_weight = level.rows->weights(conv.sampled.out.height);
                conv.column_weight = level.columns->weights(conv.sampled.out.width);
            }
            convolution_tiles.add(int64_t(convolutions.size()), conv.tiles());
            convolutions.push_back(&conv);
        }
    }
    const auto work_of = [&](int thread) { return memory + scratch + thread * own; };
    for_tiles(level_tiles, threads, [&](int64_t l, int64_t tile, int thread) {
        const int64_t before = tile * kTile * channels;
        [[maybe_unused]] const float* values = features[l] + before;
        if (planes_in) {
            float* const room = whole_offsets<T> ? work_of(thread) : memory + pixels[l] + before;
            channels_last(maps[l], channels, features[l], room, tile);
            values = room;
        }
#ifdef GLIP_INT16
        if constexpr (is_whole<T>)
            take_tile(maps[l], channels, values, tile, whole_pixels + numbers[l], memory + largest[l]);
#endif
    });
#ifdef GLIP_INT16
    if constexpr (whole_offsets<T>) pack_offsets(p.offsets, offset_numbers, memory + offset_scale);
#endif
    for_tiles(level_tiles, threads, [&](int64_t l, int64_t tile, int thread) {
        float *const work = work_of(thread), *const planes = memory + predicted[l];
#ifdef GLIP_INT16
        if constexpr (whole_offsets<T>)
            return predict_tile_whole(p.offsets, maps[l], whole_pixels + numbers[l], memory + largest[l], tile, offset_numbers,
                                      memory + offset_scale, work, planes);
#endif
        predict_tile(p.offsets, maps[l], pixels_of(l), tile, work, work + kTile * channels, planes);
    });
    for_tiles(convolution_tiles, threads, [&](int64_t conv, int64_t tile, int thread) {
        convolve_tile(p, *convolutions[conv], tile, samples + thread * samples_of_tile);
    });
    in_parallel(threads, count, [&](int64_t l, int) {
        for (Convolution& conv : levels[l].terms) find_norm(p, conv);
        find_lines(p, weigh_terms(p, levels[l]), levels[l]);
    });
    for_tiles(level_tiles, threads,
              [&](int64_t l, int64_t tile, int) { write_tile(p, levels[l], tile, planes_out, out[l]); });
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
    p.offsets = {p.channels, floats(18), floats(19)};
    return p;
}

// As glip_dyconv.
void run_batch(const int64_t* sizes, const float* const* features, float* const* out, const void* const* parameters,
               const float* epsilon, int precision, int threads) {
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
        const auto run = [&](auto block) { block(p, levels, from, planes_in, to, planes_out, threads); };
#ifdef GLIP_INT16
        if (precision == 1) {
            run(run_block<int16_t>);
            continue;
        }
#endif
#ifdef GLIP_INT8
        if (precision == 2) {
            run(run_block<uint8_t>);
            continue;
        }
#endif
        (void)precision;
        run(run_block<float>);
    }
}

}  // namespace
}  // namespace glip

extern "C" {


// weight (C, C, 3, 3) f32 -> 9*C*C packed values, of 4 bytes in fp32 (precision 0), of 2 in int16 (1), of 1 in int8 (2);
// in int16 then 4*C bytes, in int8 8*C.
void glip_deform_conv_pack(const float* weight, int64_t channels, int precision, void* packed) {
#ifdef GLIP_INT16
    if (precision == 1) return glip::pack_whole<int16_t>(weight, channels, packed);
    if (precision == 2) return glip::pack_whole<uint8_t>(weight, channels, packed);
#endif
    (void)precision;
    glip::pack(weight, channels, channels, static_cast<float*>(packed));
}

// weight (27, C, 3, 3) f32 -> 9*C*32 packed values.
void glip_offset_conv_pack(const float* weight, int64_t channels, float* packed) {
    glip::pack<glip::kNarrow>(weight, glip::kPredicted, channels, packed);
}

// sizes: batch, C, groups, levels, whether the features are planes, whether the results are, then H, W of each level,
// none larger than the one before. features, out: of each level f32 planes (B, C, H, W), or all levels' positions in one
// array (B, N, C), of which the first pointer counts. parameters: of DyConv 0, 1, 2 each its packed weights, bias,
// GroupNorm weight and bias, then AttnConv's weight and bias, then DyReLU's two layers' weights and biases, then the
// offset convolution's weights, packed, and its bias, padded to 32. epsilon: of the three GroupNorms. C is a multiple of
// glip_panel and of groups. precision, of the deformable convolutions: 1, int16, only where glip_has_int16; 2,
// int8, where glip_has_int8. 1 if there was not the memory.
int glip_dyconv(const int64_t* sizes, const float* const* features, float* const* out, const void* const* parameters,
                const float* epsilon, int precision, int threads) {
    return glip::reported([&] { glip::run_batch(sizes, features, out, parameters, epsilon, precision, threads); });
}

int64_t glip_panel() { return glip::kPanel; }
}
