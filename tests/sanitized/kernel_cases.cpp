// Runs the CPU kernels on cases from a file and compares: for sanitizers, and for other processors under emulation.
//
//   kernel_cases FILE          every case, from several threads at once too; 1 if one is wrong
//   kernel_cases FILE FAULT    a fault on purpose, which a sanitizer must find: freed, short, misaligned, race

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <thread>

#include "case_file.hpp"

extern "C" {
int glip_has_int16();
int glip_has_int8();
std::int64_t glip_panel();
void glip_layer_pack(const float*, std::int64_t, std::int64_t, int, void*);
int glip_patch_embed(const std::int64_t*, const float*, const void*, const float*, const float*, const float*, float, float*,
                     int);
int glip_swin_block(const std::int64_t*, const float*, const void* const*, const float*, float*, int, int);
int glip_bert_layer(const std::int64_t*, const float*, const float*, const void* const*, const float*, float*, int, int);
void glip_deform_conv_pack(const float*, std::int64_t, int, void*);
void glip_offset_conv_pack(const float*, std::int64_t, float*);
int glip_dyconv(const std::int64_t*, const float* const*, float* const*, const void* const*, const float*, int, int);
int glip_bi_attention(const std::int64_t*, const float*, const float*, const float*, const float*, const float*,
                      const float*, float*, float*, float, float, float, int, int);
}

namespace {

using Floats = std::vector<float>;
using Sizes = std::vector<std::int64_t>;
using Bytes = std::unique_ptr<char[]>;

struct Case {
    std::string kind;
    Sizes sizes;
    Floats numbers;              // the tolerances in fp32 and in less, then the kind's own
    std::vector<Floats> inputs;  // the kind's order
    std::vector<Floats> expected;
};

const float kUnwritten = std::numeric_limits<float>::quiet_NaN();

std::int64_t padded(std::int64_t width) { return (width + glip_panel() - 1) / glip_panel() * glip_panel(); }

// The largest error as a part of the expected values' root mean square.
bool near(const Floats& got, const Floats& expected, float tolerance) {
    double square = 0, largest = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        square += double(expected[i]) * expected[i];
        const double error = std::fabs(double(got[i]) - expected[i]);
        if (!(error <= largest)) largest = error;  // NaN too
    }
    return largest <= tolerance * std::sqrt(square / double(expected.size()));
}

// Four layers (qkv, projection, MLP) as both kinds of blocks take them after their norms; weights, then biases.
struct Block {
    std::vector<Bytes> packed;
    std::vector<Floats> biases;
    std::vector<const void*> parameters;
};

// inputs from `first` on: the norms' weights and biases, then the layers'.
Block pack_block(const Case& c, std::size_t first, std::int64_t channels, std::int64_t hidden, int precision) {
    const std::pair<std::int64_t, std::int64_t> layers[] = {
        {channels, 3 * channels}, {channels, channels}, {channels, hidden}, {hidden, channels}};
    Block block;
    for (std::size_t i = 0; i < 4; ++i) block.parameters.push_back(c.inputs[first + i].data());
    for (std::size_t layer = 0; layer < 4; ++layer) {
        const auto [depth, width] = layers[layer];
        const std::int64_t unit[] = {1, 2, 4}, size[] = {4, 2, 1};
        const auto rows = (depth + unit[precision] - 1) / unit[precision] * unit[precision];
        block.packed.emplace_back(new char[std::size_t((rows * size[precision] + (precision ? 4 : 0)) * padded(width))]);
        glip_layer_pack(c.inputs[first + 4 + 2 * layer].data(), depth, width, precision, block.packed.back().get());
        block.biases.emplace_back(c.inputs[first + 5 + 2 * layer]);
        block.biases.back().resize(std::size_t(padded(width)));
    }
    for (std::size_t layer = 0; layer < 4; ++layer) {
        block.parameters.push_back(block.packed[layer].get());
        block.parameters.push_back(block.biases[layer].data());
    }
    return block;
}

// sizes: as glip_patch_embed's. numbers: the norm's epsilon. inputs: images, the projection and its bias, the norm's.
std::vector<Floats> patch_embed(const Case& c, int threads) {
    const auto channels = c.sizes[3], depth = 3 * c.sizes[4] * c.sizes[4];
    const Bytes packed(new char[std::size_t(depth * padded(channels) * 4)]);
    glip_layer_pack(c.inputs[1].data(), depth, channels, 0, packed.get());
    Floats bias = c.inputs[2];
    bias.resize(std::size_t(padded(channels)));
    std::vector<Floats> result{Floats(c.expected[0].size(), kUnwritten)};
    if (glip_patch_embed(c.sizes.data(), c.inputs[0].data(), packed.get(), bias.data(), c.inputs[3].data(),
                         c.inputs[4].data(), c.numbers[2], result[0].data(), threads))
        CaseFile::fail("no memory");
    return result;
}

// sizes: as glip_swin_block's. numbers: the norms' epsilons. inputs: x, the norms' weights and biases, the four layers'
// and the relative biases (heads, window^2, window^2).
std::vector<Floats> swin_block(const Case& c, int precision, int threads) {
    const auto heads = c.sizes[4], positions = c.sizes[5] * c.sizes[5];
    Block block = pack_block(c, 1, c.sizes[3], c.sizes[7], precision);
    Floats relative(std::size_t(heads * positions * padded(positions)), -3e38f);
    for (std::int64_t row = 0; row < heads * positions; ++row)
        std::copy_n(c.inputs[13].begin() + row * positions, positions, relative.begin() + row * padded(positions));
    block.parameters.push_back(relative.data());
    std::vector<Floats> result{Floats(c.inputs[0].size(), kUnwritten)};
    if (glip_swin_block(c.sizes.data(), c.inputs[0].data(), block.parameters.data(), c.numbers.data() + 2,
                        result[0].data(), precision, threads))
        CaseFile::fail("no memory");
    return result;
}

// sizes, numbers: as glip_bert_layer's. inputs: x, mask, the norms' weights and biases, the four layers'.
std::vector<Floats> bert_layer(const Case& c, int precision, int threads) {
    const Block block = pack_block(c, 2, c.sizes[2], c.sizes[4], precision);
    std::vector<Floats> result{Floats(c.inputs[0].size(), kUnwritten)};
    if (glip_bert_layer(c.sizes.data(), c.inputs[0].data(), c.inputs[1].data(), block.parameters.data(),
                        c.numbers.data() + 2, result[0].data(), precision, threads))
        CaseFile::fail("no memory");
    return result;
}

// One picture's maps as planes (C, H*W) a level, or as positions (N, C) of all levels, and back.
Floats as_positions(const Sizes& sizes, const std::vector<Floats>& planes) {
    const auto batch = sizes[0], channels = sizes[1], levels = sizes[3];
    Floats positions;
    for (std::int64_t image = 0; image < batch; ++image)
        for (std::int64_t l = 0; l < levels; ++l) {
            const auto area = sizes[6 + 2 * l] * sizes[7 + 2 * l];
            for (std::int64_t at = 0; at < area; ++at)
                for (std::int64_t k = 0; k < channels; ++k)
                    positions.push_back(planes[l][(image * channels + k) * area + at]);
        }
    return positions;
}

struct DyConv {
    std::vector<Bytes> packed;
    std::vector<const void*> parameters;
    Floats offset_bias;
};

std::int64_t packed_bytes(std::int64_t channels, int precision) {
    const std::int64_t weights = 9 * channels * channels;
    return precision == 2   ? weights + 40 * channels
           : precision == 1 ? 2 * weights + 4 * channels
                            : 4 * weights;
}

DyConv pack_dyconv(const Case& c, int precision) {
    const std::int64_t channels = c.sizes[1], levels = c.sizes[3];
    const Floats* const given = c.inputs.data() + levels;  // 20, in dyconv.cpp's order, none packed
    DyConv made;
    for (int place = 0; place < 20; ++place) {
        const bool convolution = place == 0 || place == 4 || place == 8, offset = place == 18;
        if (convolution || offset) {
            const auto bytes = convolution ? packed_bytes(channels, precision) : 9 * channels * 32 * 4;
            made.packed.emplace_back(new char[std::size_t(bytes)]);
            if (convolution)
                glip_deform_conv_pack(given[place].data(), channels, precision, made.packed.back().get());
            else
                glip_offset_conv_pack(given[place].data(), channels, reinterpret_cast<float*>(made.packed.back().get()));
            made.parameters.push_back(made.packed.back().get());
        } else if (place == 19) {
            made.offset_bias = given[place];
            made.offset_bias.resize(32);
            made.offset_bias.shrink_to_fit();
            made.parameters.push_back(made.offset_bias.data());
        } else {
            made.parameters.push_back(given[place].data());
        }
    }
    return made;
}

// sizes as glip_dyconv's, with 0 for both kinds of maps. inputs: the levels' maps, then 20 parameters. numbers: three
// epsilons. All four ways of giving and taking the maps.
std::vector<Floats> dyconv(const Case& c, int precision, int threads) {
    const auto levels = std::size_t(c.sizes[3]);
    const DyConv block = pack_dyconv(c, precision);
    const std::vector<Floats> maps(c.inputs.begin(), c.inputs.begin() + std::ptrdiff_t(levels));
    const Floats positions = as_positions(c.sizes, maps);
    std::vector<Floats> first;
    for (int way = 0; way < 4; ++way) {
        Sizes sizes = c.sizes;
        sizes[4] = way & 1, sizes[5] = way >> 1;
        std::vector<Floats> out;
        std::vector<const float*> from;
        std::vector<float*> to;
        for (std::size_t l = 0; l < levels; ++l) {
            if (sizes[4]) from.push_back(maps[l].data());
            if (sizes[5]) out.emplace_back(maps[l].size(), kUnwritten);
        }
        if (!sizes[4]) from.push_back(positions.data());
        if (!sizes[5]) out.emplace_back(positions.size(), kUnwritten);
        for (Floats& array : out) to.push_back(array.data());
        if (glip_dyconv(sizes.data(), from.data(), to.data(), block.parameters.data(), c.numbers.data() + 2, precision,
                        threads))
            CaseFile::fail("no memory");
        if (sizes[5]) out = {as_positions(c.sizes, out)};
        if (way == 0)
            first = out;
        else if (!near(out[0], first[0], 1e-5f))
            return {};
    }
    return first;
}

// sizes: batch, N, C, heads, T. inputs: image, keys, bias, values, mask. numbers: low, high.
std::vector<Floats> bi_attention(const Case& c, int precision, int threads) {
    std::vector<Floats> out{Floats(c.inputs[1].size(), kUnwritten), Floats(c.inputs[0].size(), kUnwritten)};
    if (glip_bi_attention(c.sizes.data(), c.inputs[0].data(), c.inputs[1].data(), c.inputs[2].data(),
                          c.inputs[3].data(), c.inputs[4].data(), c.inputs[5].data(), out[0].data(), out[1].data(),
                          c.numbers[2], c.numbers[3], c.numbers[4], precision, threads))
        CaseFile::fail("no memory");
    return out;
}

struct Precision {  // by the kernels' number for it
    const char *name, *kinds;
    int (*is_there)();
    bool is_of(const std::string& kind) const { return std::strstr(kinds, kind.c_str()) != nullptr; }
};
const Precision kPrecisions[] = {
    {"fp32", "patch_embed swin_block bert_layer dyconv bi_attention", [] { return 1; }},
    {"int16", "swin_block bert_layer dyconv bi_attention", glip_has_int16},
    {"int8", "swin_block bert_layer dyconv bi_attention", glip_has_int8},
};

std::vector<Floats> run(const Case& c, int precision, int threads) {
    if (!kPrecisions[precision].is_of(c.kind)) precision = 0;
    if (c.kind == "patch_embed") return patch_embed(c, threads);
    if (c.kind == "swin_block") return swin_block(c, precision, threads);
    if (c.kind == "bert_layer") return bert_layer(c, precision, threads);
    if (c.kind == "dyconv") return dyconv(c, precision, threads);
    return bi_attention(c, precision, threads);
}

std::vector<Floats> expected_of(const Case& c) {
    return c.kind == "dyconv" ? std::vector<Floats>{as_positions(c.sizes, c.expected)} : c.expected;
}

int check(const Case& c, std::size_t number, int precision, int threads) {
    const auto got = run(c, precision, threads), expected = expected_of(c);
    for (std::size_t i = 0; i < expected.size(); ++i)
        if (got.size() != expected.size() || !near(got[i], expected[i], c.numbers[precision ? 1 : 0])) {
            std::fprintf(stderr, "case %zu, %s in %s on %d threads: result %zu is wrong\n", number,
                         c.kind.c_str(), kPrecisions[precision].name, threads, i);
            return 1;
        }
    return 0;
}

int check_all(const std::vector<Case>& cases, int precision, int threads) {
    int wrong = 0;
    for (std::size_t i = 0; i < cases.size(); ++i) wrong += check(cases[i], i, precision, threads);
    return wrong;
}

const Case& first_of(const std::vector<Case>& cases, const char* kind) {
    for (const Case& c : cases)
        if (c.kind == kind) return c;
    CaseFile::fail("no such case");
    return cases[0];
}

// Each is what a caller may do wrong; the kernels themselves are as they are.
int plant(const std::vector<Case>& cases, const std::string& fault) {
    if (fault == "race") {  // one result, written by two calls at once
        const Case& c = first_of(cases, "bi_attention");
        Floats to_text(c.inputs[1].size()), to_image(c.inputs[0].size());
        const auto call = [&] {
            glip_bi_attention(c.sizes.data(), c.inputs[0].data(), c.inputs[1].data(), c.inputs[2].data(),
                              c.inputs[3].data(), c.inputs[4].data(), c.inputs[5].data(), to_text.data(), to_image.data(),
                              c.numbers[2], c.numbers[3], c.numbers[4], 0, 1);
        };
        std::thread other(call);
        call();
        other.join();
        return 0;
    }
    const Case& c = first_of(cases, "dyconv");
    DyConv block = pack_dyconv(c, 0);
    const Floats positions = as_positions(c.sizes, c.inputs);
    Floats out(positions.size());
    const float* const from[] = {positions.data()};
    float* const to[] = {out.data()};
    auto sizes = std::make_unique<Sizes>(c.sizes);
    const std::int64_t* const numbers = sizes->data();
    if (fault == "freed") sizes.reset();  // as Python frees an array that nothing refers to
    const Floats& norm = c.inputs[std::size_t(c.sizes[3]) + 6];
    const Floats shorter(norm.begin() + 1, norm.end());
    if (fault == "short") block.parameters[6] = shorter.data();
    std::vector<char> shifted(8);
    if (fault == "misaligned") block.parameters[13] = shifted.data() + 1;  // one value, as a file may hold it anywhere
    return glip_dyconv(numbers, from, to, block.parameters.data(), c.numbers.data() + 2, 0, 1);
}

}  // namespace

int main(int count, char** words) {
    if (count < 2) CaseFile::fail("kernel_cases FILE [FAULT]");
    std::vector<Case> cases;
    for (CaseFile file(words[1]); !file.at_end();) {
        Case c;
        c.kind = file.word();
        c.sizes = file.values<std::int64_t>();
        c.numbers = file.values<float>();
        for (auto* arrays : {&c.inputs, &c.expected})
            for (std::int64_t left = file.values<std::int64_t>().at(0); left > 0; --left)
                arrays->push_back(file.values<float>());
        cases.push_back(std::move(c));
    }
    if (count > 2) return plant(cases, words[2]);
    int wrong = 0;
    std::string names;
    for (int precision = 0; precision < 3; ++precision) {
        if (!kPrecisions[precision].is_there()) continue;
        names += std::string(" ") + kPrecisions[precision].name;
        for (const int threads : {1, 3}) wrong += check_all(cases, precision, threads);
        std::vector<int> found(3);  // calls at once, as OpenVINO's streams make them
        std::vector<std::thread> callers;
        for (int& mine : found) callers.emplace_back([&] { mine = check_all(cases, precision, 2); });
        for (std::thread& caller : callers) caller.join();
        for (const int theirs : found) wrong += theirs;
    }
    std::printf("%zu cases, panel %d, in%s: %d wrong\n", cases.size(), int(glip_panel()), names.c_str(), wrong);
    return wrong != 0;
}
