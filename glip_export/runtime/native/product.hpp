// Matrix products on the CPU: a small tile of rows, in the cache, times weights that were packed beforehand.
//
// Written with GCC's vector extensions, which become AVX-512, AVX2 or NEON as the compiler's flags say.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "vector.hpp"

namespace glip {

constexpr int kVectors = kLanes == 16 ? 4 : 2;  // of a panel's row: with kRows, what the registers hold
constexpr int kPanel = kLanes * kVectors;       // columns of a panel of weights
constexpr int kRows = kLanes == 16 ? 6 : 4;     // rows of one call of `multiply`
constexpr int kTile = 96;                       // rows whose operands and sums stay in the cache
static_assert(kTile % kRows == 0, "a tile is whole calls");

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Where element (row, column) of a matrix lies once packed: panels of kPanel columns, all rows of one panel together.
template <int Panel = kPanel>
int64_t packed_index(int64_t rows, int64_t row, int64_t column) {
    return (column / Panel * rows + row) * Panel + column % Panel;
}

// sums (Rows, Vectors) += rows (Rows, depth) times one panel (depth, Vectors); strides count elements.
template <int Rows = kRows, int Vectors = kVectors>
inline void multiply(const float* rows, int64_t row_stride, const float* panel, float* sums, int64_t sum_stride,
                     int64_t depth) {
    Vector sum[Rows][Vectors];
    for (int r = 0; r < Rows; ++r)
        for (int v = 0; v < Vectors; ++v) sum[r][v] = load(sums + r * sum_stride + v * kLanes);
    for (int64_t k = 0; k < depth; ++k) {
        Vector weight[Vectors];
        for (int v = 0; v < Vectors; ++v) weight[v] = load(panel + (k * Vectors + v) * kLanes);
        for (int r = 0; r < Rows; ++r) {
            const float value = rows[r * row_stride + k];
            for (int v = 0; v < Vectors; ++v) sum[r][v] += value * weight[v];
        }
    }
    for (int r = 0; r < Rows; ++r)
        for (int v = 0; v < Vectors; ++v) store(sums + r * sum_stride + v * kLanes, sum[r][v]);
}

// Memory that a thread keeps from call to call, aligned to a cache line: fresh pages cost a tenth of a call.
template <typename T>
class Scratch {
public:
    T* at_least(int64_t count) {
        if (count > count_) {
            count_ = 0;  // of nothing, should there not be so much
            data_.reset(static_cast<T*>(std::aligned_alloc(64, round_up(count * sizeof(T), 64))));
            if (!data_) throw std::bad_alloc();
            std::memset(data_.get(), 0, count * sizeof(T));
            count_ = count;
        }
        return data_.get();
    }

private:
    struct Free {
        void operator()(T* data) const { std::free(data); }
    };
    std::unique_ptr<T[], Free> data_;
    int64_t count_ = 0;
};

// work(item, thread) for every item, in no order, on so many threads, or as many as there are to be had. What one of them
// throws is thrown here, when all have ended.
template <typename Work>
void in_parallel(int threads, int64_t items, const Work& work) {
    std::atomic<int64_t> next{0};
    std::exception_ptr failure;
    std::mutex failing;
    const auto loop = [&](int thread) {
        try {
            for (int64_t item; (item = next.fetch_add(1)) < items;) work(item, thread);
        } catch (...) {
            next = items;
            const std::lock_guard<std::mutex> lock(failing);
            failure = std::current_exception();
        }
    };
    const int64_t wanted = std::min<int64_t>(threads, items);
    std::vector<std::thread> others;
    others.reserve(std::max<int64_t>(wanted, 0));
    try {
        for (int thread = 1; thread < wanted; ++thread) others.emplace_back(loop, thread);
    } catch (const std::system_error&) {  // the limit on processes, say
    }
    loop(0);
    for (std::thread& other : others) other.join();
    if (failure) std::rethrow_exception(failure);
}

// What a C function gives back of its work: 0, or 1 if there was not the memory for it.
template <typename Work>
int reported(const Work& work) noexcept {
    try {
        work();
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

}  // namespace glip
