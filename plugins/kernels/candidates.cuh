// The candidates of the NMS: of each level the k best pairs of a position and a class, best first.
//
//   of each level classes f32 (B, N, K), centerness (B, 1, H, W), logits, and deltas (B, 4, H, W) or (B, H, W, 4)
//   -> boxes f32 (B, M, 4) xyxy, scores f32 (B, M), -1 in empty places, labels int32 (B, M), M = levels * k
//
// A pair's score is its class's times the sigmoid of its position's centerness, if its class is over the threshold; of
// equal scores the smaller index (position * K + class) comes first. The k-th score of a level is found from the top
// bits down: a histogram of the scores' first 11 bits, of the next 11 of those that share the k-th score's first, then
// of the last 9. Of those that equal it, each chunk of the level knows how many stand before it. Scores are computed
// anew in each pass: they are as many as bytes of the classes. No sum depends on the order of blocks or threads, and
// the list that is gathered in any order is put in order by its keys, so every run gives the same bits.

#pragma once

#include "box_selection.cuh"
#include "of_levels.cuh"
#include "samples.cuh"
#include "warp.cuh"

namespace glip {

constexpr int kCandidateThreads = 256;
constexpr int kChunk = 4096;    // pairs of a block
constexpr int kScoresAtOnce = 8;  // that a thread has under way
constexpr int kHistograms = 3;  // of a level
constexpr int kBins = 2048;
constexpr int kCutWords = kCandidateThreads + 16 + 2;  // what find_cut needs of shared memory
constexpr int kFinishedThreads = 64;
constexpr int kKeyTile = 1024;

// The levels of all pictures, from the first to the last; chunks: of one picture, all levels.
struct CandidateLevels {
    int count, classes, chunks;
    int positions[kMostLevels];
    int width[kMostLevels];
    int channels_last[kMostLevels];  // of the deltas
    float stride[kMostLevels];       // of the anchors, pixels
    float low[kMostLevels];          // the first anchor's sides, pixels
    float high[kMostLevels];
    float scale[kMostLevels];  // of the deltas
};

// A block's pairs of one level of one picture: grid x over chunks of all levels, y over pictures.
struct Chunk {
    int level, number, first, end, size;  // pairs: its first and last + 1, and how many the level has
    int task;                             // level and picture
    long long of_picture;                 // the picture's number

    __device__ __forceinline__ explicit Chunk(const CandidateLevels& levels) {
        of_picture = blockIdx.y;
        number = static_cast<int>(blockIdx.x);
        level = 0;
#pragma unroll 1
        for (;; ++level) {
            size = levels.positions[level] * levels.classes;
            const int chunks = (size - 1) / kChunk + 1;
            if (number < chunks || level + 1 == levels.count) break;
            number -= chunks;
        }
        first = number * kChunk;
        end = size - first < kChunk ? size : first + kChunk;
        task = static_cast<int>(blockIdx.y) * levels.count + level;
    }
};

// The top bits of the k-th score, and which of the scores that share them it is; bits is -1 where there are fewer than
// k scores.
struct Cut {
    int bits, remaining;
};

__device__ __forceinline__ int shift_of(int pass) { return pass == 0 ? 20 : pass == 1 ? 9 : 0; }

__device__ __forceinline__ float probability(float logit) { return __fdiv_rn(1.0f, __fadd_rn(1.0f, expf(-logit))); }

// take(place in the chunk, the score's bits) of each pair whose class is over the threshold. Scores are not negative:
// they order as their bits do; adding 0 makes -0 the same as 0.
template <typename T, typename Take>
__device__ __forceinline__ void for_each_score(const CandidateLevels& levels, const Chunk& chunk, float threshold,
                                               const OfLevels<const float>& classes,
                                               const OfLevels<const T>& centerness, const Take& take) {
    const int thread = static_cast<int>(threadIdx.x);
    const float* const of_level = classes[chunk.level] + chunk.of_picture * chunk.size;
    const T* const centres = centerness[chunk.level] + chunk.of_picture * levels.positions[chunk.level];
#pragma unroll 1
    for (int base = thread; base < kChunk; base += kScoresAtOnce * kCandidateThreads) {
        float value[kScoresAtOnce];
#pragma unroll
        for (int i = 0; i < kScoresAtOnce; ++i) {
            const int index = chunk.first + base + i * kCandidateThreads;
            value[i] = index < chunk.end ? of_level[index] : threshold;
        }
#pragma unroll
        for (int i = 0; i < kScoresAtOnce; ++i) {
            if (!(value[i] > threshold)) continue;
            const int place = base + i * kCandidateThreads;
            const float centre = probability(to_float(centres[(chunk.first + place) / levels.classes]));
            const float score = __fmul_rn(value[i], centre);
            if (score >= 0.0f) take(place, static_cast<int>(__float_as_uint(score + 0.0f)));
        }
    }
}

// One pass on from `before`: its bits and the histogram's bin that has the k-th score. All threads call it.
__device__ __forceinline__ Cut find_cut(const Cut& before, const int* __restrict__ histogram, int bits, int* shared) {
    constexpr int kEach = kBins / kCandidateThreads;
    const int thread = static_cast<int>(threadIdx.x), group = thread / 16;
    int *const sums = shared, *const groups = sums + kCandidateThreads, *const found = groups + 16;
    if (before.bits < 0) return before;
    const int top = kBins - 1 - thread * kEach;  // the thread's bins go down from here
    int own[kEach], total = 0;
#pragma unroll
    for (int quad = 0; quad < kEach / 4; ++quad) {
        const auto four = load_as<Bytes16>(histogram + top - 4 * quad - 3);
#pragma unroll
        for (int i = 0; i < 4; ++i) total += own[4 * quad + i] = static_cast<int>(four.word[3 - i]);
    }
    sums[thread] = total;
    if (thread == 0) found[0] = -1;
    __syncthreads();
    if (thread < 16) {
        int sum = 0;
#pragma unroll
        for (int i = 0; i < 16; ++i) sum += sums[thread * 16 + i];
        groups[thread] = sum;
    }
    __syncthreads();
    int above = 0;
    for (int i = 0; i < group; ++i) above += groups[i];
    for (int i = group * 16; i < thread; ++i) above += sums[i];
    if (above < before.remaining && before.remaining <= above + total) {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            if (above < before.remaining && before.remaining <= above + own[i]) {
                found[0] = top - i;
                found[1] = before.remaining - above;
            }
            above += own[i];
        }
    }
    __syncthreads();
    if (found[0] < 0) return {-1, 0};
    return {before.bits << bits | found[0], found[1]};
}

// The cut after `passes` histograms, of which the last is read here and the others' were kept; it is kept in its turn.
__device__ __forceinline__ Cut cut_after(int passes, int k, const Chunk& chunk, const int* __restrict__ histograms,
                                         int* __restrict__ cuts, int* shared) {
    if (passes == 0) return {0, k};
    int* const kept = cuts + (chunk.task * kHistograms + passes - 1) * 2;
    const Cut before = passes == 1 ? Cut{0, k} : Cut{kept[-2], kept[-1]};
    const int bits = passes == 3 ? 9 : 11;
    const long long histogram = (static_cast<long long>(chunk.task) * kHistograms + passes - 1) * kBins;
    const Cut cut = find_cut(before, histograms + histogram, bits, shared);
    if (chunk.number == 0 && threadIdx.x == 0) {
        kept[0] = cut.bits;
        kept[1] = cut.remaining;
    }
    return cut;
}

// A level's histogram of the scores' bits below those that earlier passes settled. Shared memory: kBins + kCutWords.
template <typename T>
__device__ __forceinline__ void count_scores(const CandidateLevels& levels, float threshold, int k, int pass,
                                             const OfLevels<const float>& classes, const OfLevels<const T>& centerness,
                                             int* histograms, int* cuts) {
    GLIP_DYNAMIC_SHARED(shared);
    int* const bins = reinterpret_cast<int*>(shared);
    const int thread = static_cast<int>(threadIdx.x);
    const Chunk chunk(levels);
    const Cut cut = cut_after(pass, k, chunk, histograms, cuts, bins + kBins);
    if (cut.bits < 0) return;
    for (int i = thread; i < kBins; i += kCandidateThreads) bins[i] = 0;
    __syncthreads();
    const int above = pass == 0 ? 31 : shift_of(pass - 1), shift = shift_of(pass), mask = (1 << (above - shift)) - 1;
    for_each_score(levels, chunk, threshold, classes, centerness, [&](int, int bits) {
        if (bits >> above == cut.bits) atomicAdd(&bins[bits >> shift & mask], 1);
    });
    __syncthreads();
    int* const histogram = histograms + (static_cast<long long>(chunk.task) * kHistograms + pass) * kBins;
    for (int i = thread; i < kBins; i += kCandidateThreads) {
        if (bins[i] != 0) atomicAdd(&histogram[i], bins[i]);
    }
}

// How many scores of each chunk equal the k-th: ties (B, chunks). Shared memory: 1 + kCutWords ints.
template <typename T>
__device__ __forceinline__ void count_ties(const CandidateLevels& levels, float threshold, int k,
                                           const OfLevels<const float>& classes, const OfLevels<const T>& centerness,
                                           const int* histograms, int* cuts, int* __restrict__ ties) {
    GLIP_DYNAMIC_SHARED(shared);
    int* const equal = reinterpret_cast<int*>(shared);
    const Chunk chunk(levels);
    if (threadIdx.x == 0) equal[0] = 0;
    __syncthreads();
    const Cut cut = cut_after(kHistograms, k, chunk, histograms, cuts, equal + 1);
    if (cut.bits < 0) return;
    for_each_score(levels, chunk, threshold, classes, centerness, [&](int, int bits) {
        if (bits == cut.bits) atomicAdd(equal, 1);
    });
    __syncthreads();
    if (threadIdx.x == 0) ties[chunk.of_picture * levels.chunks + blockIdx.x] = equal[0];
}

// The keys of the k best, in any order: keys (B, levels, k), found (B, levels). Shared memory: 1 + kChunk / 32 ints.
template <typename T>
__device__ __forceinline__ void collect_best(const CandidateLevels& levels, float threshold, int k,
                                             const OfLevels<const float>& classes, const OfLevels<const T>& centerness,
                                             const int* __restrict__ cuts, const int* __restrict__ ties,
                                             SortKey* __restrict__ keys, int* found) {
    GLIP_DYNAMIC_SHARED(shared);
    int* const before = reinterpret_cast<int*>(shared);                    // of the ties, in the chunks before
    unsigned* const equal = reinterpret_cast<unsigned*>(shared) + 1;       // a bit a pair
    const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
    const Chunk chunk(levels);
    const int* const kept = cuts + (chunk.task * kHistograms + kHistograms - 1) * 2;
    const Cut cut{kept[0], kept[1]};
    const auto take = [&](int place, int bits) {
        const int slot = atomicAdd(&found[chunk.task], 1);
        const float score = load_as<float>(&bits);
        keys[static_cast<long long>(chunk.task) * k + slot] = sort_key(score, chunk.first + place);
    };
    const int* const of_picture = ties + chunk.of_picture * levels.chunks;
    int room = 0;  // for ties of this chunk
    bool some = false;
    if (cut.bits >= 0) {
        if (thread == 0) before[0] = 0;
        __syncthreads();
        for (int i = block - chunk.number + thread; i < block; i += kCandidateThreads) {
            if (of_picture[i] != 0) atomicAdd(before, of_picture[i]);
        }
        __syncthreads();
        room = cut.remaining - before[0];
        some = room > 0 && room < of_picture[block];  // the first of them: in order
    }
    for (int i = thread; some && i < kChunk / 32; i += kCandidateThreads) equal[i] = 0;
    __syncthreads();
    for_each_score(levels, chunk, threshold, classes, centerness, [&](int place, int bits) {
        if (bits == cut.bits && some) atomicOr(&equal[place / 32], 1u << place % 32);
        if (bits > cut.bits || (bits == cut.bits && room > 0 && !some)) take(place, bits);
    });
    if (!some) return;
    __syncthreads();
    for (int word = thread; word < kChunk / 32; word += kCandidateThreads) {
        int rank = 0;
        for (int i = 0; i < word; ++i) rank += __popc(equal[i]);
        for (int bit = 0; bit < 32; ++bit) {
            if ((equal[word] >> bit & 1u) != 0 && rank++ < room) take(word * 32 + bit, cut.bits);
        }
    }
}

// The box of a position: its level's anchor moved by the deltas, within the picture (height, width), as model/boxes.py.
template <typename T>
__device__ __forceinline__ float4 box_at(const CandidateLevels& levels, int level, int position, const T* deltas,
                                         const long long* picture) {
    const int width = levels.width[level], row = position / width, column = position - row * width;
    const bool last = levels.channels_last[level] != 0;
    float low[2], high[2];
#pragma unroll
    for (int axis = 0; axis < 2; ++axis) {
        const auto delta = [&](int channel) {
            const int at = last ? position * 4 + channel : channel * levels.positions[level] + position;
            return __fmul_rn(to_float(deltas[at]), levels.scale[level]);
        };
        const float corner = __fmul_rn(static_cast<float>(axis == 0 ? column : row), levels.stride[level]);
        const float from = corner + levels.low[level], to = corner + levels.high[level];
        const float size = to - from + 1.0f, centre = (to + from) / 2.0f;
        const float moved = __fmul_rn(__fdiv_rn(delta(axis), 10.0f), size) + centre;
        const float growth = __fdiv_rn(delta(2 + axis), 5.0f), most = 4.135166556742356f;  // log(1000 / 16)
        const float half = __fmul_rn(0.5f, __fmul_rn(expf(growth > most ? most : growth), size) - 1.0f);
        const float limit = static_cast<float>(picture[1 - axis]) - 1.0f;
        const auto clipped = [=](float x) {  // what is no number stays so
            const float above = x < 0.0f ? 0.0f : x;
            return above > limit ? limit : above;
        };
        low[axis] = clipped(moved - half);
        high[axis] = clipped(moved + half);
    }
    return make_float4(low[0], low[1], high[0], high[1]);
}

// A thread a key: its rank is the number of smaller ones, which are unique. Grid: x over the k, y over levels, z over
// pictures. Shared memory: kKeyTile keys.
template <typename T>
__device__ __forceinline__ void finish_candidates(const CandidateLevels& levels, int k, const OfLevels<const T>& deltas,
                                                  const long long* __restrict__ image_sizes,
                                                  const SortKey* __restrict__ keys, const int* __restrict__ found,
                                                  float4* __restrict__ boxes, float* __restrict__ scores,
                                                  int* __restrict__ labels) {
    GLIP_DYNAMIC_SHARED(shared);
    SortKey* const tile = reinterpret_cast<SortKey*>(shared);
    const int level = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
    const int mine = static_cast<int>(blockIdx.x) * kFinishedThreads + thread;
    const long long picture = blockIdx.z, task = picture * levels.count + level;
    const SortKey* const of_level = keys + task * k;
    const int count = found[task];
    const SortKey key = mine < count ? of_level[mine] : kAfterAll;
    int rank = 0;
    const bool needed = static_cast<int>(blockIdx.x) * kFinishedThreads < count;  // by any thread of the block
    for (int base = 0; needed && base < count; base += kKeyTile) {
        const int loaded = count - base < kKeyTile ? count - base : kKeyTile;
        __syncthreads();
        for (int i = thread; i < loaded; i += kFinishedThreads) tile[i] = of_level[base + i];
        __syncthreads();
#pragma unroll 8
        for (int i = 0; i < loaded; ++i) rank += tile[i] < key ? 1 : 0;
    }
    if (mine >= k) return;
    if (mine >= count) {
        boxes[task * k + mine] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        scores[task * k + mine] = -1.0f;
        labels[task * k + mine] = 0;
        return;
    }
    const int index = static_cast<int>(key & 0xffffffffu), position = index / levels.classes;
    const unsigned bits = 0x7fffffffu - static_cast<unsigned>(key >> 32);
    const T* const of_picture = deltas[level] + picture * 4 * levels.positions[level];
    boxes[task * k + rank] = box_at(levels, level, position, of_picture, image_sizes + 2 * picture);
    scores[task * k + rank] = sqrtf(load_as<float>(&bits));
    labels[task * k + rank] = index - position * levels.classes;
}

}  // namespace glip

// What the first histogram and the lists begin with.
extern "C" __global__ void __launch_bounds__(glip::kCandidateThreads)
    glip_candidates_clear(int* histograms, int* found, int bins, int lists) {
    const int first = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    const int step = static_cast<int>(gridDim.x * blockDim.x);
    for (int i = first; i < bins; i += step) histograms[i] = 0;
    for (int i = first; i < lists; i += step) found[i] = 0;
}

#define GLIP_CANDIDATES(suffix, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(glip::kCandidateThreads) glip_candidates_histogram_##suffix(       \
        glip::CandidateLevels levels, float threshold, int k, int pass, GLIP_OF_LEVELS(const float, classes),       \
        GLIP_OF_LEVELS(const T, centerness), int* histograms, int* cuts) {                                          \
        glip::count_scores<T>(levels, threshold, k, pass, GLIP_GATHERED(const float, classes),                      \
                              GLIP_GATHERED(const T, centerness), histograms, cuts);                                \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(glip::kCandidateThreads) glip_candidates_ties_##suffix(            \
        glip::CandidateLevels levels, float threshold, int k, GLIP_OF_LEVELS(const float, classes),                 \
        GLIP_OF_LEVELS(const T, centerness), const int* histograms, int* cuts, int* ties) {                         \
        glip::count_ties<T>(levels, threshold, k, GLIP_GATHERED(const float, classes),                              \
                            GLIP_GATHERED(const T, centerness), histograms, cuts, ties);                            \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(glip::kCandidateThreads) glip_candidates_collect_##suffix(         \
        glip::CandidateLevels levels, float threshold, int k, GLIP_OF_LEVELS(const float, classes),                 \
        GLIP_OF_LEVELS(const T, centerness), const int* cuts, const int* ties, glip::SortKey* keys, int* found) {   \
        glip::collect_best<T>(levels, threshold, k, GLIP_GATHERED(const float, classes),                            \
                              GLIP_GATHERED(const T, centerness), cuts, ties, keys, found);                         \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(glip::kFinishedThreads) glip_candidates_finish_##suffix(           \
        glip::CandidateLevels levels, int k, GLIP_OF_LEVELS(const T, deltas), const long long* image_sizes,         \
        const glip::SortKey* keys, const int* found, float4* boxes, float* scores, int* labels) {                   \
        glip::finish_candidates<T>(levels, k, GLIP_GATHERED(const T, deltas), image_sizes, keys, found, boxes,      \
                                   scores, labels);                                                                 \
    }

GLIP_CANDIDATES(f32, float)
GLIP_CANDIDATES(f16, __half)

#undef GLIP_CANDIDATES
