#include <cuda_runtime_api.h>

#include "../kernels/box_selection.cuh"
#include "glip_launchers.h"
#include "launch_plan.h"

static_assert(glip::kThreads == glip::kSelectThreads, "the plan counts in the kernels' blocks");

int glip_launch_nms(const void* boxes, const void* scores, const void* labels, void* out_boxes, void* out_scores,
                    void* out_labels, void* out_count, void* workspace, int32_t batch, int32_t candidates,
                    int32_t detections, float iou_threshold, void* stream) {
    if (!glip::nms_fits(batch, candidates, detections, iou_threshold) || !glip::is_aligned(boxes, sizeof(float4)) ||
        !glip::is_aligned(out_boxes, sizeof(float4)) || !glip::is_aligned(workspace, sizeof(int))) {
        return cudaErrorInvalidValue;
    }
    const auto plan = glip::plan_nms(batch, candidates);
    const auto on = static_cast<cudaStream_t>(stream);
    const auto dim = [](const unsigned (&grid)[3]) { return dim3(grid[0], grid[1], grid[2]); };
    auto* order = static_cast<int*>(workspace);
    if (candidates > 0) {
        glip_nms_rank<<<dim(plan.rank_grid), glip::kThreads, 0, on>>>(static_cast<const float*>(scores), order, batch,
                                                                     candidates);
    }
    glip_nms_select<<<dim(plan.select_grid), glip::kThreads, 0, on>>>(
        static_cast<const float4*>(boxes), static_cast<const float*>(scores), static_cast<const int*>(labels), order,
        static_cast<float4*>(out_boxes), static_cast<float*>(out_scores), static_cast<int*>(out_labels),
        static_cast<int*>(out_count), batch, candidates, detections, iou_threshold);
    return cudaPeekAtLastError();
}

size_t glip_launch_nms_workspace_bytes(int32_t batch, int32_t candidates) {
    return glip::nms_workspace_bytes(batch, candidates);
}
