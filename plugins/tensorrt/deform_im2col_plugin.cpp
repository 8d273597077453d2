#include "deform_im2col_plugin.h"

#include "../launchers/glip_launchers.h"

namespace glip {

namespace {

constexpr int32_t kInputs = 3;

nvinfer1::PluginField stride_field(int32_t const* value) {
    return {"stride", value, nvinfer1::PluginFieldType::kINT32, 1};
}

}  // namespace

Fields DeformIm2Col::field_names() { return {stride_field(nullptr)}; }

nvinfer1::IPluginV3* DeformIm2Col::create(nvinfer1::PluginFieldCollection const& fields) noexcept {
    int32_t stride = 0;
    if (!read_field(fields, stride_field(nullptr), &stride)) return nullptr;
    if (stride != 1 && stride != 2) {
        std::fprintf(stderr, "[glip plugins] %s has stride 1 or 2, not %d\n", kName, static_cast<int>(stride));
        return nullptr;
    }
    return new (std::nothrow) DeformIm2Col(stride);
}

DeformIm2Col::DeformIm2Col(int32_t stride) : stride_(stride), state_("stride=" + std::to_string(stride)) {}

nvinfer1::IPluginV3* DeformIm2Col::clone() noexcept { return new (std::nothrow) DeformIm2Col(stride_); }

Fields DeformIm2Col::fields() const { return {stride_field(&stride_)}; }

int32_t DeformIm2Col::getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count,
                                         nvinfer1::DataType const* inputs, int32_t input_count) const noexcept {
    if (input_count != kInputs || output_count != 1) return 1;
    outputs[0] = inputs[0];
    return 0;
}

int32_t DeformIm2Col::getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count,
                                      nvinfer1::DimsExprs const*, int32_t, nvinfer1::DimsExprs* outputs,
                                      int32_t output_count, nvinfer1::IExprBuilder& build) noexcept {
    if (input_count != kInputs || output_count != 1) return 1;
    for (int32_t i = 0; i < kInputs; ++i) {
        if (inputs[i].nbDims != 4) return 1;
    }
    const auto times = nvinfer1::DimensionOperation::kPROD;
    nvinfer1::DimsExprs const &x = inputs[0], &offset = inputs[1];
    outputs[0].nbDims = 3;
    outputs[0].d[0] = x.d[0];
    outputs[0].d[1] = build.operation(times, *x.d[1], *build.constant(9));
    outputs[0].d[2] = build.operation(times, *offset.d[2], *offset.d[3]);
    return 0;
}

bool DeformIm2Col::supportsFormatCombination(int32_t place, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                             int32_t input_count, int32_t output_count) noexcept {
    if (input_count != kInputs || output_count != 1) return false;
    nvinfer1::PluginTensorDesc const &tensor = tensors[place].desc, &first = tensors[0].desc;
    if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
    if (place > 0) return tensor.type == first.type;
    return tensor.type == nvinfer1::DataType::kFLOAT || tensor.type == nvinfer1::DataType::kHALF;
}

int32_t DeformIm2Col::enqueue(nvinfer1::PluginTensorDesc const* inputs, nvinfer1::PluginTensorDesc const*,
                              void const* const* sources, void* const* targets, void*,
                              cudaStream_t stream) noexcept {
    const auto launch =
        inputs[0].type == nvinfer1::DataType::kHALF ? glip_launch_deform_im2col_f16 : glip_launch_deform_im2col_f32;
    return launch(sources[0], sources[1], sources[2], targets[0], size_at(inputs[0], 0), size_at(inputs[0], 1),
                  size_at(inputs[0], 2), size_at(inputs[0], 3), size_at(inputs[1], 2), size_at(inputs[1], 3), stride_,
                  stream);
}

}  // namespace glip
