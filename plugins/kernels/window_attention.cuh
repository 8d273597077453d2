// Attention within Swin's windows, from the map's queries, keys and values to the map of results, in one pass.
//
//   qkv (B, H, W, 3 * C), what a linear layer gives of the map; its bias (3 * C)
//   relative (heads, strips, strips, 32, 8), added to the scores
//   -> out (B, H, W, C)
//
// Where a window reaches over the map's end, it has zeros in the place of the layer's input: their query, key and value
// are the bias. They take part and are not written. Windows begin `shift` positions further on, and go on at the map's
// other end, where -100 stands between what does not belong together. C = heads * depth, the depth 16, 32, 48 or 64.
//
// `relative` of n = window^2 positions is cut into squares of 16 queries and 16 keys, the last filled up. Of a square
// lane 4 * g + t has queries g and g + 8: keys 2t and 2t + 1 of both, then 2t + 8 and 2t + 9, as its sums.
//
// One block a window and head, next to each other the heads of a window. Grid: x over windows and heads, y over images.

#pragma once

#include "samples.cuh"
#include "warp.cuh"

namespace glip {

constexpr int kAttendWarps = 16;  // at most
constexpr int kAttendFloatWarps = 4;
constexpr int kWindowChunk = 64;      // keys whose scores a warp has at once
constexpr int kWindowValues = 4608;   // window^2 * depth at most
constexpr float kApart = -100.0f;

// Where a position of a window stands in the map, or kPadded, or kNone behind the window's last one; and which part of
// the map it is of, where a shifted window has several.
struct WindowPlace {
    static constexpr int kPadded = -1, kNone = -2;

    int position, part;
};

struct Windows {
    int height, width, heads, window, shift;
    float scale;

    __device__ __forceinline__ int count() const { return window * window; }
    __device__ __forceinline__ int strips() const { return (count() + 15) / 16; }
    __device__ __forceinline__ int down() const { return (height + window - 1) / window; }
    __device__ __forceinline__ int across() const { return (width + window - 1) / window; }
    __device__ __forceinline__ int head() const { return static_cast<int>(blockIdx.x) % heads; }
    __device__ __forceinline__ int row() const { return static_cast<int>(blockIdx.x) / heads / across(); }
    __device__ __forceinline__ int column() const { return static_cast<int>(blockIdx.x) / heads % across(); }
    __device__ __forceinline__ bool has_parts() const {
        return shift > 0 && (row() == down() - 1 || column() == across() - 1);
    }

    __device__ __forceinline__ WindowPlace place(int i) const {
        if (i >= count()) return {WindowPlace::kNone, 0};
        const int in_row = i / window, in_column = i % window, rows = down() * window, columns = across() * window;
        int y = row() * window + in_row + shift, x = column() * window + in_column + shift;
        y -= y >= rows ? rows : 0;
        x -= x >= columns ? columns : 0;
        const bool below = row() == down() - 1 && in_row >= window - shift;
        const bool right = column() == across() - 1 && in_column >= window - shift;
        return {y < height && x < width ? y * width + x : WindowPlace::kPadded, (below ? 1 : 0) | (right ? 2 : 0)};
    }
};

// Warps that a block has at most, one for 16 queries: 48 KB have room for so many keys and values.
template <int kDepth>
constexpr int kWindowWarps = (kWindowValues / kDepth + 15) / 16 < kAttendWarps ? (kWindowValues / kDepth + 15) / 16
                                                                              : kAttendWarps;

// A warp has 16 queries, whose scores and shares stay in registers; keys and values of all are in shared memory.
// Threads: 32 for 16 positions. Shared memory: of 16 * strips positions a place, and query, key and value of 16 bytes
// more than they have, so that eight rows lie in different banks.
template <int kDepth>
__device__ __forceinline__ void attend_in_window(const Windows& windows, const __half* __restrict__ qkv,
                                                 const __half* __restrict__ bias, const __half* __restrict__ relative,
                                                 __half* __restrict__ out) {
    constexpr int kVectors = kDepth / 8, kRow = 2 * kDepth + 16, kPairs = kWindowChunk / 16;
    GLIP_DYNAMIC_SHARED(shared);
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x), lane = thread % 32;
    const int count = windows.count(), head = windows.head(), channels = windows.heads * kDepth;
    const int strips = threads / 32, rows = 16 * strips, first_row = thread / 32 * 16;
    WindowPlace* const places = reinterpret_cast<WindowPlace*>(shared);
    unsigned char* const queries = shared + rows * sizeof(WindowPlace);
    unsigned char *const keys = queries + rows * kRow, *const values = keys + rows * kRow;
    const long long image = static_cast<long long>(blockIdx.y) * windows.height * windows.width;

    if (thread < rows) places[thread] = windows.place(thread);
    __syncthreads();
    for (int item = thread; item < rows * kVectors; item += threads) {
        const int row = item / kVectors, vector = item % kVectors, position = places[row].position;
        unsigned char* const to = queries + row * kRow + vector * 16;
        const __half* const of_row = position < 0 ? bias : qkv + (image + position) * 3 * channels;
        const __half* const from = of_row + head * kDepth + vector * 8;
#pragma unroll
        for (int part = 0; part < 3; ++part) {
            if (position == WindowPlace::kNone) {
                store_as(to + part * rows * kRow, Bytes16{});
            } else {
                copy_async(to + part * rows * kRow, from + part * channels);
            }
        }
    }

    // The products are added to what stands in the scores before: all that is added to them, in their own unit.
    const float nothing = __uint_as_float(0xff800000u);  // -infinity
    const float unit = 1.0f / windows.scale, apart = kApart * unit, exponent = windows.scale * kLog2OfE;
    const bool has_parts = windows.has_parts();
    const int own_part[2] = {places[first_row + lane / 4].part, places[first_row + lane / 4 + 8].part};
    const __half* const of_lane =
        relative + (static_cast<long long>(head * strips + thread / 32) * strips * 32 + lane) * 8;
    float scores[2 * kPairs][4];
    const auto start = [&](int first) {
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
            const int key = first + pair * 16;
            Pack<__half, 8> added{};
            if (key < count) added = load_as<Pack<__half, 8>>(of_lane + key / 16 * 32 * 8);
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const int column = key + i / 4 * 8 + lane % 4 * 2 + i % 2;
                float& score = scores[2 * pair + i / 4][i % 4];
                score = column < count ? to_float(added.value[i]) * unit : nothing;
                if (has_parts && column < count && places[column].part != own_part[i / 2 % 2]) score += apart;
            }
        }
    };
    start(0);
    wait_for_copies();
    __syncthreads();

    const SharedAddress keys_from = shared_address(keys + (lane / 16 * 8 + lane % 8) * kRow + lane / 8 % 2 * 16);
    const SharedAddress values_from = shared_address(values + lane % 16 * kRow + lane / 16 * 16);
    unsigned left[kDepth / 16][4];
    float sums[kVectors][4], largest[2] = {nothing, nothing}, total[2] = {0.0f, 0.0f};
#pragma unroll
    for (int d = 0; d < kDepth / 16; ++d) {
        load_matrices(left[d], shared_address(queries + (first_row + lane % 16) * kRow + lane / 16 * 16) + d * 32);
    }
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[j][k] = 0.0f;
    }

    for (int first = 0; first < count; first += kWindowChunk) {
        if (first > 0) start(first);
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
            const int key = first + pair * 16;
            if (key >= count) continue;
#pragma unroll
            for (int d = 0; d < kDepth / 16; ++d) {
                unsigned right[4];  // of eight keys two halves, then of the next eight
                load_matrices(right, keys_from + key * kRow + d * 32);
                multiply_tile(scores[2 * pair], left[d], {right[0], right[1]});
                multiply_tile(scores[2 * pair + 1], left[d], {right[2], right[3]});
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = largest[half];
#pragma unroll
            for (int j = 0; j < 2 * kPairs; ++j) top = fmaxf(top, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
            top = max_over<3>(top);
            const float factor = power_of_two((largest[half] - top) * exponent);
            largest[half] = top;
            total[half] *= factor;
#pragma unroll
            for (int j = 0; j < kVectors; ++j) {
                sums[j][2 * half] *= factor;
                sums[j][2 * half + 1] *= factor;
            }
#pragma unroll
            for (int j = 0; j < 2 * kPairs; ++j) {
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    float& score = scores[j][2 * half + n];
                    score = power_of_two((score - top) * exponent);
                    total[half] += score;
                }
            }
        }
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
            const int key = first + pair * 16;
            if (key >= count) continue;
            unsigned shares[4];  // the sums of a product are another's left side, but for their type
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float* const of_row = scores[2 * pair + i / 2] + i % 2 * 2;
                shares[i] = pair_of_halves(of_row[0], of_row[1]);
            }
#pragma unroll
            for (int j = 0; j < kVectors; j += 2) {
                unsigned right[4];
                load_transposed(right, values_from + key * kRow + j * 16);
                multiply_tile(sums[j], shares, {right[0], right[1]});
                multiply_tile(sums[j + 1], shares, {right[2], right[3]});
            }
        }
    }

    // Its queries' room is free, and gives results back 16 bytes at a time.
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float share = 1.0f / sum_over<3>(total[half]);
        unsigned char* const to = queries + (first_row + lane / 4 + 8 * half) * kRow + lane % 4 * 4;
#pragma unroll
        for (int j = 0; j < kVectors; ++j) {
            store_as(to + j * 16, pair_of_halves(sums[j][2 * half] * share, sums[j][2 * half + 1] * share));
        }
    }
    __syncwarp();
    for (int item = lane; item < 16 * kVectors; item += 32) {
        const int row = first_row + item / kVectors, vector = item % kVectors, position = places[row].position;
        if (position < 0) continue;
        store_as(out + (image + position) * channels + head * kDepth + vector * 8,
                 load_as<Bytes16>(queries + row * kRow + vector * 16));
    }
}

// Float32, one product after another. Threads: kAttendFloatWarps warps. Shared memory: of 16 * strips positions a
// place, a key of depth + 4 floats, and the warps' shares.
__device__ __forceinline__ void attend_in_window(const Windows& windows, int depth, const float* __restrict__ qkv,
                                                 const float* __restrict__ bias, const float* __restrict__ relative,
                                                 float* __restrict__ out) {
    constexpr int kFloatRows = 4;                       // queries of a warp at once
    constexpr int kFloatKeys = kAttendWarps * 16 / 32;  // at most, of a lane
    GLIP_DYNAMIC_SHARED(shared);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int count = windows.count(), head = windows.head(), channels = windows.heads * depth;
    const int strips = windows.strips(), rows = 16 * strips, key_floats = depth + 4;
    WindowPlace* const places = reinterpret_cast<WindowPlace*>(shared);
    float* const keys = reinterpret_cast<float*>(places + rows);
    float* const shares = keys + rows * key_floats + warp * rows * kFloatRows;
    const long long image = static_cast<long long>(blockIdx.y) * windows.height * windows.width;
    const auto find = [&](int i, int part) {  // a position's query, key or value
        const int position = places[i].position;
        return (position < 0 ? bias : qkv + (image + position) * 3 * channels) + part * channels + head * depth;
    };

    for (int i = thread; i < rows; i += 32 * kAttendFloatWarps) places[i] = windows.place(i);
    __syncthreads();
    for (int item = thread; item < count * depth / 4; item += 32 * kAttendFloatWarps) {
        const int row = item / (depth / 4), at = item % (depth / 4) * 4;
        copy_async(keys + row * key_floats + at, find(row, 1) + at);
    }
    wait_for_copies();
    __syncthreads();

    const bool has_parts = windows.has_parts();
    for (int first = warp * kFloatRows; first < count; first += kAttendFloatWarps * kFloatRows) {
        float scores[kFloatKeys][kFloatRows];
#pragma unroll
        for (int i = 0; i < kFloatKeys; ++i) {
#pragma unroll
            for (int r = 0; r < kFloatRows; ++r) scores[i][r] = 0.0f;
        }
        const float* query[kFloatRows];
#pragma unroll
        for (int r = 0; r < kFloatRows; ++r) query[r] = find(first + r < count ? first + r : count - 1, 0);
        for (int d = 0; d < depth; d += 4) {
            Pack<float, 4> left[kFloatRows];
#pragma unroll
            for (int r = 0; r < kFloatRows; ++r) left[r] = load_as<Pack<float, 4>>(query[r] + d);
#pragma unroll
            for (int i = 0; i < kFloatKeys; ++i) {
                const int key = i * 32 + lane;
                if (key >= count) continue;
                const auto right = load_as<Pack<float, 4>>(keys + key * key_floats + d);
#pragma unroll
                for (int r = 0; r < kFloatRows; ++r) {
#pragma unroll
                    for (int n = 0; n < 4; ++n) scores[i][r] += left[r].value[n] * right.value[n];
                }
            }
        }
#pragma unroll
        for (int r = 0; r < kFloatRows; ++r) {
            const int row = first + r < count ? first + r : count - 1;
            float top = __uint_as_float(0xff800000u), total = 0.0f;
#pragma unroll
            for (int i = 0; i < kFloatKeys; ++i) {
                const int key = i * 32 + lane;
                if (key >= count) continue;
                const int square = (head * strips + row / 16) * strips + key / 16;
                const int of_lane = row % 8 * 4 + key % 8 / 2, place = key / 8 % 2 * 4 + row / 8 % 2 * 2 + key % 2;
                scores[i][r] = scores[i][r] * windows.scale + relative[(square * 32 + of_lane) * 8 + place];
                if (has_parts && places[key].part != places[row].part) scores[i][r] += kApart;
                top = fmaxf(top, scores[i][r]);
            }
            top = max_over<31>(top);
#pragma unroll
            for (int i = 0; i < kFloatKeys; ++i) {
                if (i * 32 + lane >= count) continue;
                scores[i][r] = power_of_two((scores[i][r] - top) * kLog2OfE);
                total += scores[i][r];
            }
            total = sum_over<31>(total);
#pragma unroll
            for (int i = 0; i < kFloatKeys; ++i) {
                if (i * 32 + lane < count) shares[(i * 32 + lane) * kFloatRows + r] = scores[i][r] / total;
            }
        }
        __syncwarp();
        for (int d = lane; d < depth; d += 32) {
            float sums[kFloatRows] = {};
            for (int key = 0; key < count; ++key) {
                const float value = find(key, 2)[d];
                const auto of_key = load_as<Pack<float, kFloatRows>>(shares + key * kFloatRows);
#pragma unroll
                for (int r = 0; r < kFloatRows; ++r) sums[r] += of_key.value[r] * value;
            }
#pragma unroll
            for (int r = 0; r < kFloatRows; ++r) {
                const int position = first + r < count ? places[first + r].position : WindowPlace::kNone;
                if (position >= 0) out[(image + position) * channels + head * depth + d] = sums[r];
            }
        }
        __syncwarp();
    }
}

}  // namespace glip

#define GLIP_WINDOW_ATTENTION(depth)                                                                               \
    extern "C" __global__ void __launch_bounds__(32 * glip::kWindowWarps<depth>) glip_window_attention_f16_##depth( \
        glip::Windows windows, const __half* qkv, const __half* bias, const __half* relative, __half* out) {       \
        glip::attend_in_window<depth>(windows, qkv, bias, relative, out);                                          \
    }

GLIP_WINDOW_ATTENTION(16)
GLIP_WINDOW_ATTENTION(32)
GLIP_WINDOW_ATTENTION(48)
GLIP_WINDOW_ATTENTION(64)

#undef GLIP_WINDOW_ATTENTION

extern "C" __global__ void __launch_bounds__(32 * glip::kAttendFloatWarps)
    glip_window_attention_f32(glip::Windows windows, int depth, const float* qkv, const float* bias,
                              const float* relative, float* out) {
    glip::attend_in_window(windows, depth, qkv, bias, relative, out);
}
