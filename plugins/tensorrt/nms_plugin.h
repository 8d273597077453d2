// GlipNms: boxes (B, M, 4) f32, scores (B, M) f32, labels (B, M) int32 -> the best D after class-wise NMS:
// boxes (B, D, 4) f32, scores (B, D) f32, labels (B, D) int32, count (B) int32. Fields `iou_threshold` float32 and
// `max_detections` int32, which is D. See kernels/box_selection.cuh for the rule.

#pragma once

#include "plugin.h"

namespace glip {

class Nms final : public Plugin {
public:
    static constexpr char const* kName = "GlipNms";
    static Fields field_names();
    static nvinfer1::IPluginV3* create(nvinfer1::PluginFieldCollection const& fields) noexcept;

    Nms(float iou_threshold, int32_t max_detections);

    nvinfer1::AsciiChar const* getPluginName() const noexcept override { return kName; }
    nvinfer1::IPluginV3* clone() noexcept override;
    int32_t getNbOutputs() const noexcept override { return 4; }
    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, nvinfer1::DataType const* inputs,
                               int32_t input_count) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count, nvinfer1::DimsExprs const*,
                            int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                            nvinfer1::IExprBuilder& build) noexcept override;
    bool supportsFormatCombination(int32_t place, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                   int32_t input_count, int32_t output_count) noexcept override;
    size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t input_count,
                            nvinfer1::DynamicPluginTensorDesc const* outputs,
                            int32_t output_count) const noexcept override;
    char const* getTimingCacheID() noexcept override { return state_.c_str(); }
    char const* getMetadataString() noexcept override { return state_.c_str(); }
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputs, nvinfer1::PluginTensorDesc const* outputs,
                    void const* const* sources, void* const* targets, void* workspace,
                    cudaStream_t stream) noexcept override;

protected:
    Fields fields() const override;

private:
    float iou_threshold_;
    int32_t max_detections_;
    std::string state_;
};

}  // namespace glip
