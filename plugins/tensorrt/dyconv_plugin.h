// GlipDyConv: L maps (B, C, H, W), the largest first, then 20 parameters -> L maps of the same shapes. All float32 or
// all float16; the maps channels last (C is a multiple of 32: kHWC8 has no padding), the parameters linear, as
// glip_export/graphs/dyconv_node.py gives them. Fields `levels` int32, which is L, `groups` int32 and `epsilon`
// float32[3]: of the three GroupNorms. See kernels/dyconv_convolve.cuh and dyconv_finish.cuh.

#pragma once

#include "plugin.h"

namespace glip {

class DyConv final : public Plugin {
public:
    static constexpr char const* kName = "GlipDyConv";
    static Fields field_names();
    static nvinfer1::IPluginV3* create(nvinfer1::PluginFieldCollection const& fields) noexcept;

    DyConv(int32_t levels, int32_t groups, float const (&epsilon)[3]);

    nvinfer1::AsciiChar const* getPluginName() const noexcept override { return kName; }
    nvinfer1::IPluginV3* clone() noexcept override;
    int32_t getNbOutputs() const noexcept override { return levels_; }
    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, nvinfer1::DataType const* inputs,
                               int32_t input_count) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count, nvinfer1::DimsExprs const*,
                            int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                            nvinfer1::IExprBuilder& build) noexcept override;
    bool supportsFormatCombination(int32_t place, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                   int32_t input_count, int32_t output_count) noexcept override;
    // Refuses a profile whose largest sizes the kernels do not take.
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t input_count,
                            nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t output_count) noexcept override;
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
    bool has_counts(int32_t input_count, int32_t output_count) const;

    int32_t levels_, groups_;
    float epsilon_[3];
    std::string state_;
};

}  // namespace glip
