/* Launches the kernels on a CUDA stream. C ABI.

   Pointers are device memory, contiguous, in the layouts of the kernels' headers; `stream` is a cudaStream_t. The
   functions return at once, with a cudaError_t (0 is success); 1, cudaErrorInvalidValue, for sizes the kernels cannot
   count or pointers that are not aligned to a value (boxes, and what DyConv reads: to 16 bytes). */

#ifndef GLIP_LAUNCHERS_H
#define GLIP_LAUNCHERS_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define GLIP_API __declspec(dllexport)
#else
#define GLIP_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* x (B, C, H, W), offset (B, 18, Ho, Wo), mask (B, 9, Ho, Wo) -> columns (B, C * 9, Ho * Wo); stride 1 or 2. */
GLIP_API int glip_launch_deform_im2col_f32(const void* x, const void* offset, const void* mask, void* columns,
                                           int32_t batch, int32_t channels, int32_t height, int32_t width,
                                           int32_t out_height, int32_t out_width, int32_t stride, void* stream);

/* The same on half precision values. */
GLIP_API int glip_launch_deform_im2col_f16(const void* x, const void* offset, const void* mask, void* columns,
                                           int32_t batch, int32_t channels, int32_t height, int32_t width,
                                           int32_t out_height, int32_t out_width, int32_t stride, void* stream);

/* boxes (B, M, 4) f32, scores (B, M) f32, labels (B, M) int32 -> boxes (B, D, 4), scores (B, D), labels (B, D),
   count (B) int32. workspace: glip_launch_nms_workspace_bytes(B, M) bytes. */
GLIP_API int glip_launch_nms(const void* boxes, const void* scores, const void* labels, void* out_boxes,
                             void* out_scores, void* out_labels, void* out_count, void* workspace, int32_t batch,
                             int32_t candidates, int32_t detections, float iou_threshold, void* stream);

GLIP_API size_t glip_launch_nms_workspace_bytes(int32_t batch, int32_t candidates);

/* A DyConv block. maps, outs: the addresses, on the host, of each level's map (B, H, W, C), the largest first;
   parameters: those of the 20 that glip_export/graphs/dyconv_node.py names, in its order; sides: H, W of each level;
   epsilon: of the three norms. No two of maps and outs share memory; all addresses are aligned to 16 bytes but those of
   parameters of fewer than 16 values. workspace: glip_launch_dyconv_workspace_bytes, of values of so many bytes. */
GLIP_API int glip_launch_dyconv_f32(const void* const* maps, const void* const* parameters, void* const* outs,
                                    void* workspace, int32_t batch, int32_t channels, int32_t groups, int32_t levels,
                                    const int32_t* sides, const float* epsilon, void* stream);

/* The same on half precision values. */
GLIP_API int glip_launch_dyconv_f16(const void* const* maps, const void* const* parameters, void* const* outs,
                                    void* workspace, int32_t batch, int32_t channels, int32_t groups, int32_t levels,
                                    const int32_t* sides, const float* epsilon, void* stream);

/* 0 for sizes that the kernels do not take. */
GLIP_API size_t glip_launch_dyconv_workspace_bytes(int32_t value_bytes, int32_t batch, int32_t channels,
                                                   int32_t groups, int32_t levels, const int32_t* sides);

#ifdef __cplusplus
}
#endif

#endif
