// Linear layers of a few rows at a time, in fp32, int16 or int8: rows are taken as the precision has them, then
// multiplied by weights that were packed beforehand.
//
// In whole numbers a weight is a number times its output channel's scale, and a row's values are numbers times the row's
// own scale, found from its largest value: nothing is calibrated, nothing is clipped. Of 8 bits the instruction multiplies
// unsigned by signed, so 128 is added to the weights, and 128 times the sum of the row's numbers taken away again.

#pragma once

#include <cmath>
#include <type_traits>

#include "integers.hpp"
#include "product.hpp"

namespace glip {

constexpr int64_t kMoreRows = 28;  // than asked for, that a call may compute

enum class Precision { kFp32 = 0, kInt16 = 1, kInt8 = 2 };

// call(T{}) with the type of a precision's numbers.
template <typename Call>
auto of_precision(int precision, const Call& call) {
    switch (Precision(precision)) {
        case Precision::kInt8: return call(int8_t{});
        case Precision::kInt16: return call(int16_t{});
        default: return call(float{});
    }
}

template <typename T>
constexpr bool is_whole = !std::is_same<T, float>::value;

// The largest number of a row and of a weight: so many products of two fit the 32 bits that they are summed up in.
template <typename T>
float largest_of_depth(int64_t depth) {
    constexpr float sums = 2147483647.f - 128.f;  // of 32 bits, as a float below it
    return sizeof(T) == 1 ? 127.f : std::min(32767.f, std::floor(std::sqrt(sums / float(depth))));
}

// That one call computes, of so many vectors of columns: what the registers hold, and of whole numbers no more than fill
// Swin's windows of 49.
template <typename T>
constexpr int rows_of_a_product(int vectors = kVectors) {
    return is_whole<T> ? (kLanes == 16 || sizeof(T) == 1 ? 7 : kRows) * kVectors / vectors : kRows;
}

template <typename T>
constexpr int64_t padded_depth(int64_t depth) {  // as the instruction takes values: in pairs, in fours
    return round_up(depth, sizeof(T) == 1 ? 4 : sizeof(T) == 2 ? 2 : 1);
}

// A layer's packed weights, (depth, columns) with whole panels of columns; whole numbers' scales, one a column, come after.
template <typename T>
struct Linear {
    Linear(const void* packed, const float* bias, int64_t depth, int64_t width)
        : weight(static_cast<const T*>(packed)), bias(bias), depth(depth), width(width), columns(round_up(width, kPanel)) {}
    const float* scales() const { return reinterpret_cast<const float*>(weight + padded_depth<T>(depth) * columns); }
    const T* weight;
    const float* bias;  // columns
    int64_t depth, width, columns;
};

template <typename T>
int64_t linear_bytes(int64_t depth, int64_t width) {
    const int64_t columns = round_up(width, kPanel);
    return padded_depth<T>(depth) * columns * int64_t(sizeof(T)) + (is_whole<T> ? columns * 4 : 0);
}

// Rows as a layer takes them, with whole numbers' scale of each and, of 8 bits, 128 times the sum of its numbers.
template <typename T>
struct Rows {
    T* values;
    float* scale;
    int32_t* sum;
    int64_t stride;
};

// A row of values, of which none is larger than `largest`.
inline void take_row(const Rows<float>& rows, int64_t row, const float* values, int64_t depth, float) {
    std::memcpy(rows.values + row * rows.stride, values, depth * sizeof(float));
}

#ifdef GLIP_INT16
inline void store(int8_t* to, Integers v) {  // the low bits
    typedef int8_t Bytes __attribute__((vector_size(kLanes)));
    const Bytes bytes = __builtin_convertvector(v, Bytes);
    std::memcpy(to, &bytes, sizeof bytes);
}

template <typename T>
void take_row(const Rows<T>& rows, int64_t row, const float* values, int64_t depth, float largest) {
    const float most = largest_of_depth<T>(depth), factor = most * inverse(largest);
    T* const to = rows.values + row * rows.stride;
    Integers sum{};
    for (int64_t k = 0; k < depth; k += kLanes) {
        const Integers whole = rounded(load(values + k) * factor);
        if constexpr (sizeof(T) == 1) sum += whole;
        store(to + k, whole);
    }
    rows.scale[row] = largest / most;
    if constexpr (sizeof(T) == 1) rows.sum[row] = 128 * sum_of(sum);
}
#endif

// Rows times the first columns of one panel, with the bias: finish(row, column, Vector) of rows_of_a_product, Vectors.
// A function of its own, or what is around it takes registers that the sums need.
#ifdef GLIP_INT16
template <int Vectors, typename T, typename Finish>
__attribute__((noinline)) void multiply_panel(const Rows<T>& rows, int64_t row, const Linear<T>& layer, int64_t panel, const Finish& finish) {
    constexpr int group = 4 / sizeof(T);
    const int64_t depth = padded_depth<T>(layer.depth);
    const float *const scales = layer.scales() + panel, *const bias = layer.bias + panel;
    const float* const row_scale = rows.scale + row;
    const int32_t* const row_sum = rows.sum + row;
    multiply_groups<Vectors, kVectors, rows_of_a_product<T>(Vectors)>(
        rows.values + row * rows.stride, rows.stride, group, layer.weight + panel * depth, depth,
        [=](int r, int v, Integers sum) {
            const Vector scale = row_scale[r] * load(scales + v * kLanes);
            if constexpr (sizeof(T) == 1) sum -= row_sum[r];
            finish(row + r, panel + v * kLanes, to_float(sum) * scale + load(bias + v * kLanes));
        });
}
#endif

template <int Vectors, typename Finish>
void multiply_panel(const Rows<float>& rows, int64_t row, const Linear<float>& layer, int64_t panel,
                    const Finish& finish) {
    alignas(64) float sums[kRows * kPanel];
    for (int r = 0; r < kRows; ++r) std::memcpy(sums + r * kPanel, layer.bias + panel, kPanel * sizeof(float));
    multiply(rows.values + row * rows.stride, rows.stride, layer.weight + panel * layer.depth, sums, kPanel, layer.depth);
    const int64_t columns = std::min<int64_t>(kPanel, round_up(layer.width - panel, kLanes));
    for (int r = 0; r < kRows; ++r)
        for (int64_t k = 0; k < columns; k += kLanes) finish(row + r, panel + k, load(sums + r * kPanel + k));
}

template <int Vectors, typename T, typename Finish>
void apply_panel(const Linear<T>& layer, const Rows<T>& rows, int64_t count, int64_t panel, const Finish& finish) {
    for (int64_t row = 0; row < count; row += rows_of_a_product<T>(Vectors))
        multiply_panel<Vectors>(rows, row, layer, panel, finish);
}

// layer(rows): finish(row, column, Vector) for count rows and up to kMoreRows after them, of a width of even vectors.
template <typename T, typename Finish>
void apply(const Linear<T>& layer, const Rows<T>& rows, int64_t count, const Finish& finish) {
    for (int64_t panel = 0; panel < layer.columns; panel += kPanel) {
        if (is_whole<T> && kVectors == 4 && layer.width - panel <= 2 * kLanes)
            apply_panel<2>(layer, rows, count, panel, finish);
        else
            apply_panel<kVectors>(layer, rows, count, panel, finish);
    }
}

// weight (width, depth) f32 -> linear_bytes.
template <typename T>
void pack_linear(const float* weight, int64_t depth, int64_t width, T* packed) {
    std::memset(static_cast<void*>(packed), 0, linear_bytes<T>(depth, width));
    const int64_t columns = round_up(width, kPanel), padded = padded_depth<T>(depth);
    if constexpr (is_whole<T>) {
        constexpr int unit = 4 / sizeof(T), added = sizeof(T) == 1 ? 128 : 0;
        float* const scales = reinterpret_cast<float*>(packed + padded * columns);
        if (added) std::memset(static_cast<void*>(packed), added, padded * columns);
        const float most = largest_of_depth<T>(depth);
        for (int64_t column = 0; column < width; ++column) {
            float largest = 0;
            for (int64_t k = 0; k < depth; ++k) largest = std::max(largest, std::fabs(weight[column * depth + k]));
            const float scale = scales[column] = largest / most;
            for (int64_t k = 0; k < depth; ++k) {
                const float whole = scale > 0 ? std::nearbyint(weight[column * depth + k] / scale) : 0.f;
                const int64_t at = (column / kPanel * padded + k / unit * unit) * kPanel + column % kPanel * unit + k % unit;
                packed[at] = T(int(std::min(std::max(whole, -most), most)) + added);
            }
        }
    } else {
        for (int64_t column = 0; column < width; ++column)
            for (int64_t k = 0; k < depth; ++k) packed[packed_index(padded, k, column)] = weight[column * depth + k];
    }
}

}  // namespace glip
