// How the kernels are launched: plain arithmetic, the same as glip_export/trt/launches.py (a test holds them equal).

#pragma once

#include <cstddef>
#include <cstdint>

namespace glip {

constexpr int kThreads = 256;            // a block, of every kernel
constexpr long long kMaxGrid = 65535;    // of y and z; the kernels go on in strides from there
constexpr long long kEnoughThreads = 1 << 16;

struct Im2ColPlan {
    unsigned grid[3];
    int slab;   // channels that a thread goes through
    bool pair;  // a thread makes two positions
};

struct NmsPlan {
    unsigned rank_grid[3];
    unsigned select_grid[3];
};

inline long long up(long long value, long long unit) { return (value + unit - 1) / unit; }
inline unsigned capped(long long blocks) { return static_cast<unsigned>(blocks < kMaxGrid ? blocks : kMaxGrid); }
inline bool is_aligned(const void* pointer, std::size_t bytes) {
    return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

// Sizes the im2col kernels can count: all at least 1, planes below 2^31 values, no more channels than grid.y has room.
inline bool im2col_fits(int batch, int channels, int height, int width, int out_height, int out_width, int stride) {
    const long long plane = static_cast<long long>(height) * width;
    const long long positions = static_cast<long long>(out_height) * out_width;
    return batch > 0 && channels > 0 && height > 0 && width > 0 && out_height > 0 && out_width > 0 &&
           (stride == 1 || stride == 2) && plane <= INT32_MAX && positions <= INT32_MAX &&
           9 * up(channels, 8) <= kMaxGrid;
}

// The largest slab, for its fewer position sums, that still gives the device enough threads.
inline Im2ColPlan plan_im2col(int batch, int channels, int out_height, int out_width, bool pairs_aligned) {
    const long long positions = static_cast<long long>(out_height) * out_width;
    const bool pair = pairs_aligned && positions % 2 == 0;
    const long long threads = pair ? positions / 2 : positions;
    int slab = 32;
    while (slab > 8 && threads * 9 * batch * up(channels, slab) < kEnoughThreads) slab /= 2;
    return {{capped(up(threads, kThreads)), static_cast<unsigned>(9 * up(channels, slab)), capped(batch)}, slab, pair};
}

inline bool nms_fits(int batch, int candidates, int detections, float threshold) {
    return batch > 0 && candidates >= 0 && candidates <= 1 << 30 && detections > 0 && threshold >= 0.0f;
}

inline NmsPlan plan_nms(int batch, int candidates) {
    return {{capped(up(candidates, kThreads)), capped(batch), 1}, {capped(batch), 1, 1}};
}

// Room for the order of the candidates.
inline std::size_t nms_workspace_bytes(int batch, int candidates) {
    return sizeof(std::int32_t) * static_cast<std::size_t>(batch) * static_cast<std::size_t>(candidates);
}

}  // namespace glip
