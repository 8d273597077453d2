// Swin's patches (glip_export/model/swin.py) on the CPU: a convolution whose windows do not overlap, and its LayerNorm, a
// few patches at a time, so that no map is made between them. In fp32.

#include "layer_norm.hpp"
#include "linear.hpp"

namespace glip {
namespace {

constexpr int64_t kColors = 3;
constexpr int64_t kPatches = 48;  // at once
static_assert(kPatches % kTogether == 0);

struct Sizes {
    int64_t batch, height, width, channels, patch;
    int64_t rows() const { return height / patch; }
    int64_t columns() const { return width / patch; }
    int64_t depth() const { return kColors * patch * patch; }
};

// A row of patches of one picture (3, H, W) -> out (columns, C).
void embed_row(const Sizes& s, const Linear<float>& layer, const Norm& norm, const float* picture, int64_t row, float* out,
               float* memory) {
    const int64_t depth = s.depth(), channels = s.channels;
    float *const values = memory, *const sums = values + (kPatches + kMoreRows) * depth;
    float* const lines = sums + (kPatches + kMoreRows) * channels;
    for (int64_t first = 0; first < s.columns(); first += kPatches) {
        const int64_t count = std::min(kPatches, s.columns() - first);
        for (int64_t line = 0; line < kColors * s.patch; ++line) {
            const int64_t y = line / s.patch * s.height + row * s.patch + line % s.patch;
            const float* const from = picture + y * s.width + first * s.patch;
            float* const to = values + line * s.patch;
            for (int64_t patch = 0; patch < count; ++patch)
                if (s.patch == 4)  // every published model's: one instruction
                    std::memcpy(to + patch * depth, from + patch * 4, 4 * sizeof(float));
                else
                    std::memcpy(to + patch * depth, from + patch * s.patch, s.patch * sizeof(float));
        }
        apply(layer, Rows<float>{values, nullptr, nullptr, depth}, count,
              [=](int64_t patch, int64_t column, Vector v) { store(sums + patch * channels + column, v); });
        for (int64_t patch = 0; patch < count; patch += kTogether) {
            const float* together[kTogether];
            for (int r = 0; r < kTogether; ++r) together[r] = sums + (patch + r) * channels;
            Vector largest[kTogether];
            normalize(norm, together, channels, lines, largest);
            const int64_t whole = std::min<int64_t>(kTogether, count - patch);
            std::memcpy(out + (first + patch) * channels, lines, whole * channels * sizeof(float));
        }
    }
}

}  // namespace
}  // namespace glip

extern "C" {

// sizes: batch, H, W, C, the patch's side. images (B, 3, H, W) -> out (B, H / side, W / side, C). weight: of depth 3 * side
// * side, packed in fp32; its bias padded to whole panels. C is a multiple of 32. 1 if there was not the memory.
int glip_patch_embed(const int64_t* sizes, const float* images, const void* weight, const float* bias,
                     const float* norm_weight, const float* norm_bias, float epsilon, float* out, int threads) {
    return glip::reported([&] {
        thread_local glip::Scratch<float> scratch;
        const glip::Sizes s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
        const glip::Linear<float> layer(weight, bias, s.depth(), s.channels);
        const int64_t own = glip::round_up(
            (glip::kPatches + glip::kMoreRows) * (s.depth() + s.channels) + glip::kTogether * s.channels, 16);
        float* const memory = scratch.at_least(threads * own);
        glip::in_parallel(threads, s.batch * s.rows(), [&](int64_t item, int thread) {
            const int64_t picture = item / s.rows(), row = item % s.rows();
            glip::embed_row(s, layer, {norm_weight, norm_bias, epsilon},
                            images + picture * glip::kColors * s.height * s.width, row,
                            out + item * s.columns() * s.channels, memory + thread * own);
        });
    });
}
}
