// Runs the CPU kernels on cases from a file and compares: for sanitizers, and for other processors under emulation.
//
//   kernel_cases FILE          every case, from several threads at once too; 1 if one is wrong
//   kernel_cases FILE FAULT    a fault on purpose, which a sanitizer must find: freed, short, misaligned, race

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <thread>

#include "case_file.hpp"

extern "C" {
int glip_has_bf16();
std::int64_t glip_panel();
void glip_linear_pack(const float*, std::int64_t, std::int64_t, int, void*);
int glip_mlp(const std::int64_t*, const float*, const void*, const float*, const void*, const float*, float*, int, int);
void glip_deform_conv_pack(const float*, std::int64_t, int, void*);
void glip_offset_conv_pack(const float*, std::int64_t, float*);
int glip_dyconv(const std::int64_t*, const float* const*, float* const*, const void* const*, const float*, int, int);
int glip_bi_attention(const std::int64_t*, const float*, const float*, const float*, const float*, const float*, float*,
                      float*, float, float, int, int);
}

namespace {

using Floats = std::vector<float>;
using Sizes = std::vector<std::int64_t>;
using Bytes = std::unique_ptr<char[]>;

struct Case {
    std::string kind;
    Sizes sizes;
    Floats numbers;              // the tolerances in fp32 and bf16, then the kind's own
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

struct Linear {
    Bytes weight;
    Floats bias;
};

Linear pack_linear(const Floats& weight, const Floats& bias, std::int64_t in, std::int64_t out, bool bf16) {
    Linear layer{Bytes(new char[std::size_t(padded(in) * padded(out) * 4)]), bias};
    glip_linear_pack(weight.data(), in, out, bf16, layer.weight.get());
    Floats padded_bias(std::size_t(padded(out)), 0.f);
    std::copy(bias.begin(), bias.end(), padded_bias.begin());
    layer.bias = std::move(padded_bias);
    return layer;
}

// sizes: rows, in, hidden, out. inputs: x, then the two layers' weights and biases.
std::vector<Floats> mlp(const Case& c, bool bf16, int threads) {
    const auto rows = c.sizes[0], in = c.sizes[1], hidden = c.sizes[2], out = c.sizes[3];
    const Linear first = pack_linear(c.inputs[1], c.inputs[2], in, hidden, bf16);
    const Linear last = pack_linear(c.inputs[3], c.inputs[4], hidden, out, bf16);
    const Sizes sizes{rows, in, padded(hidden), out};
    std::vector<Floats> result{Floats(std::size_t(rows * out), kUnwritten)};
    if (glip_mlp(sizes.data(), c.inputs[0].data(), first.weight.get(), first.bias.data(), last.weight.get(),
                 last.bias.data(), result[0].data(), bf16, threads))
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

DyConv pack_dyconv(const Case& c, bool bf16) {
    const std::int64_t channels = c.sizes[1], levels = c.sizes[3];
    const Floats* const given = c.inputs.data() + levels;  // 20, in dyconv.cpp's order, none packed
    DyConv made;
    for (int place = 0; place < 20; ++place) {
        const bool convolution = place == 0 || place == 4 || place == 8, offset = place == 18;
        if (convolution || offset) {
            const auto bytes = convolution ? 9 * channels * channels * (bf16 ? 2 : 4) : 9 * channels * 32 * 4;
            made.packed.emplace_back(new char[std::size_t(bytes)]);
            if (convolution)
                glip_deform_conv_pack(given[place].data(), channels, bf16, made.packed.back().get());
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
std::vector<Floats> dyconv(const Case& c, bool bf16, int threads) {
    const auto levels = std::size_t(c.sizes[3]);
    const DyConv block = pack_dyconv(c, bf16);
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
        if (glip_dyconv(sizes.data(), from.data(), to.data(), block.parameters.data(), c.numbers.data() + 2, bf16,
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
std::vector<Floats> bi_attention(const Case& c, bool bf16, int threads) {
    std::vector<Floats> out{Floats(c.inputs[1].size(), kUnwritten), Floats(c.inputs[0].size(), kUnwritten)};
    if (glip_bi_attention(c.sizes.data(), c.inputs[0].data(), c.inputs[1].data(), c.inputs[2].data(),
                          c.inputs[3].data(), c.inputs[4].data(), out[0].data(), out[1].data(), c.numbers[2],
                          c.numbers[3], bf16, threads))
        CaseFile::fail("no memory");
    return out;
}

std::vector<Floats> run(const Case& c, bool bf16, int threads) {
    if (c.kind == "mlp") return mlp(c, bf16, threads);
    if (c.kind == "dyconv") return dyconv(c, bf16, threads);
    return bi_attention(c, bf16, threads);
}

std::vector<Floats> expected_of(const Case& c) {
    return c.kind == "dyconv" ? std::vector<Floats>{as_positions(c.sizes, c.expected)} : c.expected;
}

int check(const Case& c, std::size_t number, bool bf16, int threads) {
    const auto got = run(c, bf16, threads), expected = expected_of(c);
    for (std::size_t i = 0; i < expected.size(); ++i)
        if (got.size() != expected.size() || !near(got[i], expected[i], c.numbers[bf16 ? 1 : 0])) {
            std::fprintf(stderr, "case %zu, %s%s on %d threads: result %zu is wrong\n", number, c.kind.c_str(),
                         bf16 ? " in bf16" : "", threads, i);
            return 1;
        }
    return 0;
}

int check_all(const std::vector<Case>& cases, bool bf16, int threads) {
    int wrong = 0;
    for (std::size_t i = 0; i < cases.size(); ++i) wrong += check(cases[i], i, bf16, threads);
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
                              c.inputs[3].data(), c.inputs[4].data(), to_text.data(), to_image.data(), c.numbers[2],
                              c.numbers[3], 0, 1);
        };
        std::thread other(call);
        call();
        other.join();
        return 0;
    }
    const Case& c = first_of(cases, "dyconv");
    DyConv block = pack_dyconv(c, false);
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
    for (const bool bf16 : {false, true}) {
        if (bf16 && !glip_has_bf16()) continue;
        for (const int threads : {1, 3}) wrong += check_all(cases, bf16, threads);
        std::vector<int> found(3);  // calls at once, as OpenVINO's streams make them
        std::vector<std::thread> callers;
        for (int& mine : found) callers.emplace_back([&] { mine = check_all(cases, bf16, 2); });
        for (std::thread& caller : callers) caller.join();
        for (const int theirs : found) wrong += theirs;
    }
    std::printf("%zu cases, panel %d, bf16 %d: %d wrong\n", cases.size(), int(glip_panel()), glip_has_bf16(), wrong);
    return wrong != 0;
}
