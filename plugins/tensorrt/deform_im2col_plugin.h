// GlipDeformIm2Col: x (B, C, H, W), offset (B, 18, Ho, Wo), mask (B, 9, Ho, Wo) -> columns (B, C * 9, Ho * Wo).
// All float32 or all float16, linear; field `stride` int32, 1 or 2. See kernels/deform_im2col.cuh for the rule.

#pragma once

#include "plugin.h"

namespace glip {

class DeformIm2Col final : public Plugin {
public:
    static constexpr char const* kName = "GlipDeformIm2Col";
    static Fields field_names();
    static nvinfer1::IPluginV3* create(nvinfer1::PluginFieldCollection const& fields) noexcept;

    explicit DeformIm2Col(int32_t stride);

    nvinfer1::AsciiChar const* getPluginName() const noexcept override { return kName; }
    nvinfer1::IPluginV3* clone() noexcept override;
    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, nvinfer1::DataType const* inputs,
                               int32_t input_count) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count, nvinfer1::DimsExprs const*,
                            int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                            nvinfer1::IExprBuilder& build) noexcept override;
    bool supportsFormatCombination(int32_t place, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                   int32_t input_count, int32_t output_count) noexcept override;
    char const* getTimingCacheID() noexcept override { return state_.c_str(); }
    char const* getMetadataString() noexcept override { return state_.c_str(); }
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputs, nvinfer1::PluginTensorDesc const* outputs,
                    void const* const* sources, void* const* targets, void* workspace,
                    cudaStream_t stream) noexcept override;

protected:
    Fields fields() const override;

private:
    int32_t stride_;
    std::string state_;
};

}  // namespace glip
