// Whether bf16 is worth it on this CPU. No kernel of ours multiplies it, for whole numbers of 16 bits are as fast where
// there is bf16, or faster, and nearer to fp32; OpenVINO's own operators may.

#include <algorithm>
#include <chrono>

#include "vector.hpp"

namespace glip {
namespace {

#ifdef __AVX512BF16__
constexpr int kSums = 16;  // enough that none waits for another

inline __m512 add_products(__m512 sum, __m512 values) { return _mm512_fmadd_ps(values, values, sum); }

inline __m512 add_products(__m512 sum, __m512bh values) { return _mm512_dpbf16_ps(sum, values, values); }

// The least time of several: 0.1 ms in all.
template <typename Values>
double seconds_of_instructions(int count) {
    const Values values{};
    double least = 1;
    for (int turn = 0; turn < 50; ++turn) {
        __m512 sums[kSums]{};
        const auto start = std::chrono::steady_clock::now();
        for (int i = 0; i < count; ++i)
            for (__m512& sum : sums) {
                sum = add_products(sum, values);
                asm volatile("" : "+v"(sum));  // every one of them is computed
            }
        least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return least;
}
#endif

}  // namespace
}  // namespace glip

extern "C" {

int glip_has_bf16() {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

// Whether as many products come faster in bf16 than in fp32, by more than a measurement's chance: CPUs have half as many,
// as many or twice as many.
int glip_bf16_pays() {
#ifdef __AVX512BF16__
    constexpr int count = 200;  // an instruction of bf16 has twice as many products
    return 1.3 * glip::seconds_of_instructions<__m512bh>(count) < glip::seconds_of_instructions<__m512>(2 * count);
#else
    return 0;
#endif
}
}
