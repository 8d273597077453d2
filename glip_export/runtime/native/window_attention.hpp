// The attention of Swin inside one window, a head at a time, in fp32. In whole numbers: window_attention_int16.hpp.

#pragma once

#include "linear.hpp"

namespace glip {

constexpr int64_t kSpare = kMoreRows;  // rows
constexpr float kApart = -100.f;       // added to a score of positions that the shift brought together

struct Shape {
    int64_t height, width, channels, heads, window, shift, hidden;
    int64_t rows() const { return (height + window - 1) / window; }  // of windows
    int64_t columns() const { return (width + window - 1) / window; }
    int64_t positions() const { return window * window; }  // of one
    int64_t keys() const { return round_up(positions(), kPanel); }
    int64_t head() const { return channels / heads; }
};

// A window's positions that lie in the map, which are rows of their own; the others have none: zeros, of which queries,
// keys and values are the layer's bias.
struct Window {
    Window(const Shape& s, int64_t window, int64_t first_row) : first_row(first_row) {
        const int64_t top = window / s.columns() * s.window + s.shift, left = window % s.columns() * s.window + s.shift;
        const int64_t height = s.rows() * s.window, width = s.columns() * s.window;
        row_of.reserve(s.positions()), positions.reserve(s.positions()), places.reserve(s.positions());
        for (int64_t y = 0; y < s.window; ++y)
            for (int64_t x = 0; x < s.window; ++x) {
                const int64_t row = top + y < height ? top + y : top + y - height;
                const int64_t column = left + x < width ? left + x : left + x - width;
                const bool inside = row < s.height && column < s.width;
                row_of.push_back(inside ? first_row + rows() : -1);
                if (!inside) continue;
                positions.push_back(y * s.window + x);
                places.push_back(row * s.width + column);
            }
        const bool last_row = window / s.columns() == s.rows() - 1, last_column = window % s.columns() == s.columns() - 1;
        if (!s.shift || !(last_row || last_column)) return;
        const int64_t before = s.window - s.shift;  // positions along a side that the shift left together
        for (int64_t i = 0; i < s.positions(); ++i)
            regions.push_back(2 * (last_row && i / s.window >= before) + (last_column && i % s.window >= before));
        regions.resize(s.keys());
    }
    int64_t rows() const { return int64_t(places.size()); }
    // Of a position: its row, or one of the spare ones after all rows.
    int64_t row_to(int64_t position) const {
        const bool inside = position < int64_t(row_of.size()) && row_of[position] >= 0;
        return inside ? row_of[position] : first_row + int64_t(row_of.size());
    }
    int64_t first_row;
    std::vector<int64_t> row_of;             // of each position, -1 where it lies in the padding
    std::vector<int64_t> positions, places;  // of each row: in the window, in the map
    // Which part of the map each position came from before the shift: only those of one part attend to each other.
    // Empty where all came from one.
    std::vector<int> regions;
};

template <typename T>
class Attention;  // in numbers of T: its memory is a thread's own

template <>
class Attention<float> {
public:
    // relative: (heads, positions, keys), beyond the positions never reached.
    static int64_t shared_floats(const Shape&) { return 0; }
    static const float* share(const Shape&, const float* relative, float*) { return relative; }
    static int64_t floats(const Shape& s) {
        return round_up(s.keys() * s.head() * 2 + (s.positions() + kSpare) * s.keys(), kLanes);
    }
    Attention(const Shape& s, const float* relative, float* memory)
        : relative(relative), keys(memory), values(keys + s.keys() * s.head()), scores(values + s.keys() * s.head()) {}
    void of_head(const Shape& s, const Window& window, const float* qkv, int64_t part, const float* bias, int64_t head,
                 float* out) const;

private:
    static constexpr int kChunk = 32;  // channels of a head that are read at once
    const float* relative;
    float *keys, *values, *scores;  // of one head: (head, keys), (positions, head), (positions, keys)
};

// The head's queries (rows, head) with keys and values each `part` after the other -> its columns of out (rows, C).
inline void Attention<float>::of_head(const Shape& s, const Window& window, const float* qkv, int64_t part,
                                      const float* bias, int64_t head, float* out) const {
    const int64_t n = s.positions(), width = s.keys(), size = s.head(), rows = window.rows();
    const float* const queries = qkv + window.first_row * size;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t row = window.row_of[i];
        const float* const key = row < 0 ? bias + s.channels + head * size : qkv + part + row * size;
        const float* const value = row < 0 ? bias + 2 * s.channels + head * size : qkv + 2 * part + row * size;
        for (int64_t k = 0; k < size; ++k) keys[(i / kPanel * size + k) * kPanel + i % kPanel] = key[k];
        for (int64_t k = 0; k < size; k += kChunk)
            std::memcpy(values + (k * n) + i * kChunk, value + k, kChunk * sizeof(float));
    }
    for (int64_t row = 0; row < rows; ++row)
        std::memcpy(scores + row * width, relative + (head * n + window.positions[row]) * width, width * sizeof(float));
    if (!window.regions.empty())
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t j = 0; j < n; ++j)
                if (window.regions[window.positions[row]] != window.regions[j]) scores[row * width + j] += kApart;
    for (int64_t panel = 0; panel < width; panel += kPanel)
        for (int64_t row = 0; row < rows; row += kRows)
            multiply(queries + row * size, size, keys + panel * size, scores + row * width + panel, width, size);
    for (int64_t i = 0; i < rows; ++i) {
        float* const row = scores + i * width;
        Vector largest = load(row);
        for (int64_t j = kLanes; j < width; j += kLanes) {
            const Vector score = load(row + j);
            largest = score > largest ? score : largest;
        }
        const float most = largest_lane(largest);
        Vector sum{};
        for (int64_t j = 0; j < width; j += kLanes) {
            const Vector weight = exponential(load(row + j) - most);
            store(row + j, weight);
            sum += weight;
        }
        const float share = 1.f / sum_of(sum);
        for (int64_t j = 0; j < width; j += kLanes) store(row + j, load(row + j) * share);
    }
    out += window.first_row * s.channels;
    for (int64_t i = 0; i < rows; i += kRows)
        for (int64_t k = 0; k < size; k += kChunk) {
            float read[kRows * kChunk]{};
            multiply<kRows, kChunk / kLanes>(scores + i * width, width, values + k * n, read, kChunk, n);
            for (int64_t r = 0; r < std::min<int64_t>(kRows, rows - i); ++r)
                std::memcpy(out + (i + r) * s.channels + head * size + k, read + r * kChunk, kChunk * sizeof(float));
        }
}

}  // namespace glip
