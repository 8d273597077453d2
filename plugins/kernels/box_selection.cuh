// Box selection: candidates in order of score, class-wise non-maximum suppression, the best D.
//
//   boxes (B, M, 4) xyxy, scores (B, M), negative or NaN where there is no candidate, labels (B, M)
//   -> boxes (B, D, 4), scores (B, D) falling, labels (B, D), -1 in empty places, count (B)
//
// GLIP's rule (`ml_nms`): widths and heights are x2 - x1 + 1; a box goes if its IoU with a kept one of its class is
// over the threshold (which is not negative). Highest score first, of equals the smaller index. Both kernels give the
// same result for every grid, and the same bits on every run.

#pragma once

#include <cuda_fp16.h>

namespace glip {

constexpr int kSelectThreads = 256;  // the candidates that a block ranks or suppresses at once
constexpr int kAliveWords = kSelectThreads / 32;

typedef unsigned long long SortKey;
constexpr SortKey kAfterAll = ~0ull;

// Candidates in the order of the rule: the smaller key comes first, no two are equal, what is no candidate comes last.
__device__ __forceinline__ SortKey sort_key(float score, int index) {
    // Floats that are not negative order as their bits do; adding 0 makes -0 the same as 0.
    const unsigned rank = score >= 0.0f ? 0x7fffffffu - __float_as_uint(score + 0.0f) : 0xffffffffu;
    return static_cast<SortKey>(rank) << 32 | static_cast<unsigned>(index);
}

// Whether the IoU is over the threshold. No multiplication may fuse with an addition: a result that is exactly at the
// threshold has to come out as in the reference.
__device__ __forceinline__ float area(const float4& box) {
    return __fmul_rn(box.z - box.x + 1.0f, box.w - box.y + 1.0f);
}

__device__ __forceinline__ bool suppresses(const float4& kept, const float4& box, float threshold) {
    const float width = fminf(kept.z, box.z) - fmaxf(kept.x, box.x) + 1.0f;
    const float height = fminf(kept.w, box.w) - fmaxf(kept.y, box.y) + 1.0f;
    if (!(width > 0.0f && height > 0.0f)) return false;
    const float intersection = __fmul_rn(width, height);
    return __fdiv_rn(intersection, area(kept) + area(box) - intersection) > threshold;
}

// The first thread whose bit is set, or -1.
__device__ __forceinline__ int first_alive(const unsigned* alive) {
    for (int word = 0; word < kAliveWords; ++word) {
        if (alive[word] != 0) return word * 32 + __ffs(static_cast<int>(alive[word])) - 1;
    }
    return -1;
}

}  // namespace glip

// order (B, M): the candidates' indices, best first, then the places without a candidate.
// A candidate's rank is the number of keys smaller than its own: keys are unique, so ranks are a permutation.
// Grid: x over candidates, y over images.
extern "C" __global__ void __launch_bounds__(glip::kSelectThreads)
    glip_nms_rank(const float* __restrict__ scores, int* __restrict__ order, int batch, int candidates) {
    constexpr int kTile = glip::kSelectThreads;
    __shared__ glip::SortKey tile[kTile];
    const int thread = static_cast<int>(threadIdx.x);
    for (int image = blockIdx.y; image < batch; image += gridDim.y) {
        const float* image_scores = scores + static_cast<long long>(image) * candidates;
        int* image_order = order + static_cast<long long>(image) * candidates;
        for (int first = blockIdx.x * kTile; first < candidates; first += gridDim.x * kTile) {
            const int mine = first + thread;
            const glip::SortKey key = mine < candidates ? glip::sort_key(image_scores[mine], mine) : glip::kAfterAll;
            int rank = 0;
            for (int base = 0; base < candidates; base += kTile) {
                const int other = base + thread;
                __syncthreads();
                tile[thread] = other < candidates ? glip::sort_key(image_scores[other], other) : glip::kAfterAll;
                __syncthreads();
#pragma unroll 8
                for (int i = 0; i < kTile; ++i) rank += tile[i] < key ? 1 : 0;
            }
            if (mine < candidates) image_order[rank] = mine;
        }
    }
}

// One block an image, a thread a candidate, in tiles of rising rank. A tile is first held against what earlier tiles
// kept; then its first survivor is kept and suppresses the others, until none is left or D are kept. Nothing after the
// D-th kept candidate can change the result. Grid: x over images.
extern "C" __global__ void __launch_bounds__(glip::kSelectThreads)
    glip_nms_select(const float4* boxes, const float* scores, const int* labels, const int* order, float4* out_boxes,
                    float* out_scores, int* out_labels, int* out_count, int batch, int candidates, int detections,
                    float threshold) {
    constexpr int kTile = glip::kSelectThreads;
    __shared__ float4 tile[kTile];
    __shared__ int tile_labels[kTile];
    __shared__ unsigned alive[glip::kAliveWords];
    const int thread = static_cast<int>(threadIdx.x);
    const float4 nowhere = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int image = blockIdx.x; image < batch; image += gridDim.x) {
        const long long in = static_cast<long long>(image) * candidates;
        const long long out = static_cast<long long>(image) * detections;
        int kept = 0;  // the same in all threads
        for (int first = 0; first < candidates && kept < detections; first += kTile) {
            if (!(scores[in + order[in + first]] >= 0.0f)) break;  // no candidate comes after one that is none
            const int rank = first + thread;
            const int index = rank < candidates ? order[in + rank] : -1;
            const float score = index >= 0 ? scores[in + index] : -1.0f;
            const float4 box = index >= 0 ? boxes[in + index] : nowhere;
            const int label = index >= 0 ? labels[in + index] : -1;
            bool live = score >= 0.0f;

            for (int base = 0; base < kept; base += kTile) {
                const int loaded = kept - base < kTile ? kept - base : kTile;
                __syncthreads();
                if (thread < loaded) {
                    tile[thread] = out_boxes[out + base + thread];
                    tile_labels[thread] = out_labels[out + base + thread];
                }
                __syncthreads();
                for (int i = 0; i < loaded && live; ++i) {
                    live = !(tile_labels[i] == label && glip::suppresses(tile[i], box, threshold));
                }
            }

            __syncthreads();
            tile[thread] = box;
            tile_labels[thread] = label;
            if (thread < glip::kAliveWords) alive[thread] = 0;
            __syncthreads();
            if (live) atomicOr(&alive[thread / 32], 1u << (thread % 32));
            __syncthreads();
            while (kept < detections) {
                const int next = glip::first_alive(alive);
                if (next < 0) break;
                __syncthreads();
                if (thread == next) {
                    out_boxes[out + kept] = box;
                    out_scores[out + kept] = score;
                    out_labels[out + kept] = label;
                }
                if (live && (thread == next || (tile_labels[next] == label &&
                                                glip::suppresses(tile[next], box, threshold)))) {
                    live = false;
                    atomicAnd(&alive[thread / 32], ~(1u << (thread % 32)));
                }
                ++kept;
                __syncthreads();
            }
        }
        for (int empty = kept + thread; empty < detections; empty += kTile) {
            out_boxes[out + empty] = nowhere;
            out_scores[out + empty] = 0.0f;
            out_labels[out + empty] = -1;
        }
        if (thread == 0) out_count[image] = kept;
    }
}
