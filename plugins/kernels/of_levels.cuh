// One address a level as a kernel's arguments, and the choice among them.

#pragma once

namespace glip {

constexpr int kMostLevels = 6;

template <typename T>
struct OfLevels {
    T* level[kMostLevels];

    // A choice, so that the addresses stay where a kernel's arguments are.
    __device__ __forceinline__ T* operator[](int wanted) const {
        T* chosen = level[0];
#pragma unroll
        for (int l = 1; l < kMostLevels; ++l) chosen = wanted == l ? level[l] : chosen;
        return chosen;
    }
};

}  // namespace glip

// The arguments, in a kernel's signature, and all of them in its body. No two levels share memory.
#define GLIP_OF_LEVELS(T, name)                                                                              \
    T *__restrict__ name##0, T *__restrict__ name##1, T *__restrict__ name##2, T *__restrict__ name##3,      \
        T *__restrict__ name##4, T *__restrict__ name##5
#define GLIP_GATHERED(T, name) \
    glip::OfLevels<T> { \
        { name##0, name##1, name##2, name##3, name##4, name##5 } \
    }
