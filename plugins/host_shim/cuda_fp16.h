// The part of CUDA's cuda_fp16.h that the kernels use, for a machine without CUDA: IEEE binary16, nearest even.

#pragma once

#include "cuda_on_host.h"

struct __half {
    std::uint16_t bits;
};

inline float __half2float(__half half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half.bits & 0x8000u) << 16;
    const std::uint32_t exponent = half.bits >> 10 & 0x1fu, fraction = half.bits & 0x3ffu;
    if (exponent == 0) {  // zero and subnormals: fraction units of 2^-24
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    const std::uint32_t wide = exponent == 31 ? 0xffu : exponent + 127 - 15;
    const std::uint32_t bits = sign | wide << 23 | fraction << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline __half __float2half_rn(float value) {
    const std::uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
    std::uint32_t half;
    if (magnitude > 0x7f800000u) {
        half = 0x7fffu;  // NaN
    } else if (magnitude >= 0x477ff000u) {
        half = 0x7c00u;  // 65520 and more round to infinity
    } else if (magnitude < 0x38800000u) {
        half = static_cast<std::uint32_t>(std::nearbyint(std::fabs(value) * 0x1p24f));  // subnormal
    } else {
        const std::uint32_t rebased = magnitude - ((127u - 15u) << 23);
        half = (rebased + 0xfffu + (rebased >> 13 & 1u)) >> 13;
    }
    return {static_cast<std::uint16_t>(sign | half)};
}
