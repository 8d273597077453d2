// How a DyConv block's kernels are launched: plain arithmetic, the same as glip_export/trt/dyconv_launches.py (a test
// holds them equal).

#pragma once

#include "launch_plan.h"

namespace glip {

constexpr int kDyConvMaxLevels = 6;
constexpr int kDyConvKernels = 4;  // offsets, convolve, coefficients, combine
constexpr int kDyConvParts = 4;    // of the workspace: predictions, results, statistics, coefficients
constexpr int kDyConvParameters = 20;
constexpr int kDyConvAligned = 16;  // bytes that the kernels read at once

struct DyConvSizes {
    int batch, channels, groups, levels;
    const std::int32_t* sides;  // height and width of each level, the largest first

    long long area(int level) const { return static_cast<long long>(sides[2 * level]) * sides[2 * level + 1]; }
    // How often a level's size is one of a convolution's result: its own; of all but the first also the larger
    // neighbour's, and its own for that neighbour.
    int results(int level) const { return level > 0 ? 3 : 1; }
};

struct DyConvPlan {
    long long positions, rows, tiles;  // of an image: see kernels/dyconv_levels.cuh
    unsigned grid[kDyConvKernels][3];
    unsigned threads[kDyConvKernels];
    std::size_t shared_bytes[kDyConvKernels];
    std::size_t part[kDyConvParts];  // where each begins in the workspace
    std::size_t workspace_bytes;
};

inline DyConvPlan plan_dyconv(const DyConvSizes& sizes, std::size_t value_bytes) {
    constexpr long long kTile = 128, kTermColumns = 256, kOffsetColumns = 32, kFinishThreads = 1024;
    const long long channels = sizes.channels, batch = sizes.batch;
    const long long group = 256 / (channels / 4) * 8;  // positions that a block of the last kernel goes through
    DyConvPlan plan{};
    long long offset_tiles = 0, groups = 0;
    for (int level = 0; level < sizes.levels; ++level) {
        const long long area = sizes.area(level);
        plan.positions += area;
        plan.rows += sizes.results(level) * area;
        plan.tiles += sizes.results(level) * up(area, kTile);
        offset_tiles += up(area, kTile);
        groups += up(area, group);
    }
    const long long across[kDyConvKernels] = {offset_tiles, plan.tiles, sizes.levels, groups};
    const unsigned threads[kDyConvKernels] = {512, 512, kFinishThreads, 256};
    const long long slices = kFinishThreads > channels ? kFinishThreads / channels : 1;
    const auto convolve_bytes = [](long long columns) { return 2 * (kTile + columns) * 80; };
    const long long shared[kDyConvKernels] = {convolve_bytes(kOffsetColumns), convolve_bytes(kTermColumns),
                                              4 * ((3 * slices + 4) * channels + 32), 0};
    for (int kernel = 0; kernel < kDyConvKernels; ++kernel) {
        plan.grid[kernel][0] = static_cast<unsigned>(across[kernel]);
        plan.grid[kernel][1] = static_cast<unsigned>(batch);
        plan.grid[kernel][2] = kernel == 1 ? static_cast<unsigned>(up(channels, kTermColumns)) : 1;
        plan.threads[kernel] = threads[kernel];
        plan.shared_bytes[kernel] = static_cast<std::size_t>(shared[kernel]);
    }
    const long long bytes[kDyConvParts] = {
        4 * batch * plan.positions * 27, static_cast<long long>(value_bytes) * batch * plan.rows * channels,
        4 * batch * plan.tiles * 3 * channels, 4 * batch * sizes.levels * 8 * channels};
    for (int part = 0; part < kDyConvParts; ++part) {
        plan.part[part] = plan.workspace_bytes;
        plan.workspace_bytes += static_cast<std::size_t>(up(bytes[part], kDyConvAligned) * kDyConvAligned);
    }
    return plan;
}

// Sizes that the kernels take: channels in 32s up to 1024, each level half as high and wide as the one before.
inline bool dyconv_fits(const DyConvSizes& sizes) {
    if (sizes.batch < 1 || sizes.batch > kMaxGrid || sizes.channels < 32 || sizes.channels > 1024 ||
        sizes.channels % 32 != 0 || sizes.groups < 1 || sizes.channels % sizes.groups != 0 || sizes.levels < 1 ||
        sizes.levels > kDyConvMaxLevels) {
        return false;
    }
    for (int side = 0; side < 2 * sizes.levels; ++side) {
        if (sizes.sides[side] < 1) return false;
        if (side >= 2 && sizes.sides[side] != up(sizes.sides[side - 2], 2)) return false;
    }
    long long rows = 0;
    for (int level = 0; level < sizes.levels; ++level) rows += sizes.results(level) * sizes.area(level);
    return rows <= INT32_MAX / sizes.channels;
}

// How many values the parameters have, in the order of graphs/dyconv_node.py.
inline long long dyconv_parameter_count(int place, long long channels) {
    const long long convolution[] = {9 * channels * channels, channels, channels, channels};
    const long long last[] = {channels, 1, channels / 4 * channels, channels / 4, channels * channels, 4 * channels};
    if (place < 2) return place == 0 ? 27 * 9 * channels : 27;
    return place < 14 ? convolution[(place - 2) % 4] : last[place - 14];
}

}  // namespace glip
