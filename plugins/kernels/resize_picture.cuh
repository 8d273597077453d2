// A picture as the network's input, to the bit of what Pillow and NumPy make on a CPU.
//
//   picture (h0, w0, 3) uint8 RGB -> across (h0, w, 3) uint8 -> image (3, H, W) float32, zero right of and below (h, w)
//
// Pillow's antialiased bilinear filter: across, rounded to bytes, then down. Its weights are integers in units of
// 2^-22, so that a sum has one value in any order. A filter for n places is int32 (1 + taps, n): where each place's taps
// begin, then their weights; beyond the picture's end weights are 0. What becomes of a byte is looked up: values
// (3, 256), by output channel.

#pragma once

namespace glip {

constexpr int kResizeThreads = 256;
constexpr int kWeightBits = 22;

struct Rgb {
    int channel[3];
};

// One place of the resampled axis: the weighted sum of its taps, `stride` bytes from one to the next.
__device__ __forceinline__ Rgb resampled(const unsigned char* from, long long stride, int length, const int* filter,
                                         int places, int place, int taps) {
    const int first = filter[place];
    int sums[3] = {1 << (kWeightBits - 1), 1 << (kWeightBits - 1), 1 << (kWeightBits - 1)};
    for (int tap = 0; tap < taps && first + tap < length; ++tap) {
        const int weight = filter[(1 + tap) * static_cast<long long>(places) + place];
        const unsigned char* pixel = from + (first + tap) * stride;
#pragma unroll
        for (int c = 0; c < 3; ++c) sums[c] += weight * pixel[c];
    }
    Rgb made;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        const int byte = sums[c] >> kWeightBits;
        made.channel[c] = byte < 255 ? byte : 255;
    }
    return made;
}

}  // namespace glip

// A block: 256 places of one row.
extern "C" __global__ void __launch_bounds__(glip::kResizeThreads)
    glip_resize_across(const unsigned char* picture, const int* filter, int given_width, int width, int taps,
                       unsigned char* across) {
    const int x = blockIdx.y * glip::kResizeThreads + threadIdx.x;
    if (x >= width) return;
    const long long row = blockIdx.x;
    const auto made = glip::resampled(picture + row * given_width * 3, 3, given_width, filter, width, x, taps);
    unsigned char* to = across + (row * width + x) * 3;
    for (int c = 0; c < 3; ++c) to[c] = static_cast<unsigned char>(made.channel[c]);
}

// A block: 256 places of one row of the padded image. bgr: channels go out in reverse.
extern "C" __global__ void __launch_bounds__(glip::kResizeThreads)
    glip_resize_down(const unsigned char* across, const int* filter, const float* values, int given_height, int height,
                     int width, int taps, int padded_height, int padded_width, int bgr, float* image) {
    const int x = blockIdx.y * glip::kResizeThreads + threadIdx.x, y = blockIdx.x;
    if (x >= padded_width) return;
    const long long plane = static_cast<long long>(padded_height) * padded_width;
    float* to = image + static_cast<long long>(y) * padded_width + x;
    if (x >= width || y >= height) {
        for (int c = 0; c < 3; ++c) to[c * plane] = 0.0f;
        return;
    }
    const auto made = glip::resampled(across + 3ll * x, 3ll * width, given_height, filter, height, y, taps);
#pragma unroll
    for (int c = 0; c < 3; ++c) to[c * plane] = values[256 * c + made.channel[bgr ? 2 - c : c]];
}
