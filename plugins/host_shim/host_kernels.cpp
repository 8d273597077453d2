// The kernels on the CPU, launched by name with CUDA's calling convention: an array of pointers to the arguments.
// C ABI for tests (ctypes). Not for threads: there is one set of built-in variables.

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../kernels/add_norm.cuh"
#include "../kernels/bi_attention_image.cuh"
#include "../kernels/bi_attention_text.cuh"
#include "../kernels/box_selection.cuh"
#include "../kernels/candidates.cuh"
#include "../kernels/deform_im2col.cuh"
#include "../kernels/dyconv_convolve.cuh"
#include "../kernels/dyconv_finish.cuh"
#include "../kernels/resize_picture.cuh"
#include "../kernels/text_layer.cuh"
#include "../kernels/window_attention.cuh"
#include "../launchers/dyconv_plan.h"
#include "../launchers/launch_plan.h"

namespace {

struct Kernel {
    std::string name;
    std::vector<std::size_t> argument_bytes;
    std::function<void(void* const*)> call;
};

template <typename... Arguments, std::size_t... Index>
void apply(void (*kernel)(Arguments...), void* const* arguments, std::index_sequence<Index...>) {
    kernel(*static_cast<Arguments*>(arguments[Index])...);
}

template <typename... Arguments>
Kernel describe(const char* name, void (*kernel)(Arguments...)) {
    return {name, {sizeof(Arguments)...}, [kernel](void* const* arguments) {
                apply(kernel, arguments, std::index_sequence_for<Arguments...>{});
            }};
}

#define GLIP_KERNEL(name) describe(#name, name)

// Writes shared memory, and half of the threads miss the barrier: what the shim's own test runs.
extern "C" void glip_missed_barrier(int* seen) {
    __shared__ int word;
    if (threadIdx.x == 0) seen[0] = word;
    if (threadIdx.x % 2 == 0) __syncthreads();
}

// Lacks the barrier between writing and reading a neighbour's value.
extern "C" void glip_missing_barrier(int* out) {
    __shared__ int values[64];
    values[threadIdx.x] = static_cast<int>(threadIdx.x);
    out[threadIdx.x] = values[(threadIdx.x + 1) % blockDim.x];
}

// Reads what it copies to shared memory before it has waited, and after.
extern "C" void glip_missing_wait(const int* in, int* out) {
    __shared__ glip::Bytes16 place;
    glip::copy_async(&place, in);
    out[0] = glip::load_as<int>(&place);
    glip::wait_for_copies();
    out[1] = glip::load_as<int>(&place);
}

// A shuffle that half of a warp's lanes skip.
extern "C" void glip_missed_shuffle(int* out) {
    if (threadIdx.x % 2 == 0) out[threadIdx.x] = static_cast<int>(glip::sum_over<31>(1.0f));
}

const std::vector<Kernel>& kernels() {
    static const std::vector<Kernel> all = {
        GLIP_KERNEL(glip_add_norm_f32),        GLIP_KERNEL(glip_add_norm_f32_wide),
        GLIP_KERNEL(glip_add_norm_f16),        GLIP_KERNEL(glip_add_norm_f16_wide),
        GLIP_KERNEL(glip_add_norm_f16_of_f16), GLIP_KERNEL(glip_add_norm_f16_of_f16_wide),
        GLIP_KERNEL(glip_deform_im2col_f32), GLIP_KERNEL(glip_deform_im2col_f32_pair),
        GLIP_KERNEL(glip_deform_im2col_f16), GLIP_KERNEL(glip_deform_im2col_f16_pair),
        GLIP_KERNEL(glip_dyconv_offsets_f32),      GLIP_KERNEL(glip_dyconv_offsets_f16),
        GLIP_KERNEL(glip_dyconv_convolve_f32),     GLIP_KERNEL(glip_dyconv_convolve_f16),
        GLIP_KERNEL(glip_dyconv_coefficients_f32), GLIP_KERNEL(glip_dyconv_coefficients_f16),
        GLIP_KERNEL(glip_dyconv_combine_f32),      GLIP_KERNEL(glip_dyconv_combine_f16),
        GLIP_KERNEL(glip_text_attention_f32),      GLIP_KERNEL(glip_text_attention_f16),
        GLIP_KERNEL(glip_text_norm_f32),           GLIP_KERNEL(glip_text_norm_f16),
        GLIP_KERNEL(glip_text_gelu_f32),           GLIP_KERNEL(glip_text_gelu_f16),
        GLIP_KERNEL(glip_candidates_histogram_f32),  GLIP_KERNEL(glip_candidates_histogram_f16),
        GLIP_KERNEL(glip_candidates_ties_f32),       GLIP_KERNEL(glip_candidates_ties_f16),
        GLIP_KERNEL(glip_candidates_collect_f32),    GLIP_KERNEL(glip_candidates_collect_f16),
        GLIP_KERNEL(glip_candidates_finish_f32),     GLIP_KERNEL(glip_candidates_finish_f16),
        GLIP_KERNEL(glip_candidates_clear),
        GLIP_KERNEL(glip_text_reads_f32_64),       GLIP_KERNEL(glip_text_reads_f16_64),
        GLIP_KERNEL(glip_text_reads_f32_256),      GLIP_KERNEL(glip_text_reads_f16_256),
        GLIP_KERNEL(glip_text_combine_f32),        GLIP_KERNEL(glip_text_combine_f16),
        GLIP_KERNEL(glip_image_reads_f32_64),      GLIP_KERNEL(glip_image_reads_f16_64),
        GLIP_KERNEL(glip_image_reads_f32_256),     GLIP_KERNEL(glip_image_reads_f16_256),
        GLIP_KERNEL(glip_image_reads_f16_64_pair), GLIP_KERNEL(glip_image_reads_f16_256_pair),
        GLIP_KERNEL(glip_nms_rank),          GLIP_KERNEL(glip_nms_select),
        GLIP_KERNEL(glip_resize_across),     GLIP_KERNEL(glip_resize_down),
        GLIP_KERNEL(glip_window_attention_f32),
        GLIP_KERNEL(glip_window_attention_f16_16), GLIP_KERNEL(glip_window_attention_f16_32),
        GLIP_KERNEL(glip_window_attention_f16_48), GLIP_KERNEL(glip_window_attention_f16_64),
        GLIP_KERNEL(glip_missed_barrier),    GLIP_KERNEL(glip_missing_barrier),
        GLIP_KERNEL(glip_missing_wait),      GLIP_KERNEL(glip_missed_shuffle),
    };
    return all;
}

const Kernel* find(const char* name) {
    for (const Kernel& kernel : kernels()) {
        if (kernel.name == name) return &kernel;
    }
    return nullptr;
}

}  // namespace

extern "C" {

// Writes the sizes of the kernel's arguments and returns their number; -1 if there is no such kernel or no room.
int glip_host_argument_bytes(const char* name, std::size_t* bytes, int room) {
    const Kernel* kernel = find(name);
    if (kernel == nullptr || kernel->argument_bytes.size() > static_cast<std::size_t>(room)) return -1;
    std::size_t* end = bytes;
    for (const std::size_t size : kernel->argument_bytes) *end++ = size;
    return static_cast<int>(end - bytes);
}

// Returns glip_host::Outcome, or -1 if there is no such kernel.
int glip_host_launch(const char* name, const unsigned* grid, const unsigned* block, std::size_t shared_bytes,
                     void* const* arguments, unsigned order) {
    const Kernel* kernel = find(name);
    if (kernel == nullptr) return -1;
    return static_cast<int>(glip_host::run({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                                           shared_bytes, order, [&] { kernel->call(arguments); }));
}

void glip_host_half_to_float(const std::uint16_t* halves, float* floats, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) floats[i] = __half2float({halves[i]});
}

void glip_host_float_to_half(const float* floats, std::uint16_t* halves, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) halves[i] = __float2half_rn(floats[i]).bits;
}

// The launchers' plan: grid (3), slab, pair. 0 if the sizes do not fit.
int glip_host_plan_im2col(int batch, int channels, int height, int width, int out_height, int out_width, int stride,
                          int pairs_aligned, long long* plan) {
    if (!glip::im2col_fits(batch, channels, height, width, out_height, out_width, stride)) return 0;
    const auto made = glip::plan_im2col(batch, channels, out_height, out_width, pairs_aligned != 0);
    for (int i = 0; i < 3; ++i) plan[i] = made.grid[i];
    plan[3] = made.slab;
    plan[4] = made.pair ? 1 : 0;
    return 1;
}

// The launchers' plan: grid of the ranking (3), grid of the selection (3), workspace bytes. 0 if the sizes do not fit.
int glip_host_plan_nms(int batch, int candidates, int detections, float threshold, long long* plan) {
    if (!glip::nms_fits(batch, candidates, detections, threshold)) return 0;
    const auto made = glip::plan_nms(batch, candidates);
    for (int i = 0; i < 3; ++i) {
        plan[i] = made.rank_grid[i];
        plan[3 + i] = made.select_grid[i];
    }
    plan[6] = static_cast<long long>(glip::nms_workspace_bytes(batch, candidates));
    return 1;
}

// The launchers' plan: positions, rows, tiles; of each kernel grid (3), threads, shared bytes; where the workspace's
// parts begin (4), its bytes; the parameters' values (20). 0 if the sizes do not fit.
int glip_host_plan_dyconv(int batch, int channels, int groups, int levels, const std::int32_t* sides, int value_bytes,
                          long long* plan) {
    const glip::DyConvSizes sizes{batch, channels, groups, levels, sides};
    if (!glip::dyconv_fits(sizes)) return 0;
    const auto made = glip::plan_dyconv(sizes, static_cast<std::size_t>(value_bytes));
    for (const long long count : {made.positions, made.rows, made.tiles}) *plan++ = count;
    for (int kernel = 0; kernel < glip::kDyConvKernels; ++kernel) {
        for (const unsigned blocks : made.grid[kernel]) *plan++ = blocks;
        *plan++ = made.threads[kernel];
        *plan++ = static_cast<long long>(made.shared_bytes[kernel]);
    }
    for (const std::size_t begin : made.part) *plan++ = static_cast<long long>(begin);
    *plan++ = static_cast<long long>(made.workspace_bytes);
    for (int place = 0; place < glip::kDyConvParameters; ++place) {
        *plan++ = glip::dyconv_parameter_count(place, channels);
    }
    return 1;
}
}
