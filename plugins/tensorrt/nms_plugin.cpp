#include "nms_plugin.h"

#include "../launchers/glip_launchers.h"

namespace glip {

namespace {

constexpr int32_t kInputs = 3;
constexpr int32_t kOutputs = 4;
constexpr nvinfer1::DataType kTypes[kInputs + kOutputs] = {
    nvinfer1::DataType::kFLOAT, nvinfer1::DataType::kFLOAT, nvinfer1::DataType::kINT32, nvinfer1::DataType::kFLOAT,
    nvinfer1::DataType::kFLOAT, nvinfer1::DataType::kINT32, nvinfer1::DataType::kINT32};

nvinfer1::PluginField threshold_field(float const* value) {
    return {"iou_threshold", value, nvinfer1::PluginFieldType::kFLOAT32, 1};
}

nvinfer1::PluginField detections_field(int32_t const* value) {
    return {"max_detections", value, nvinfer1::PluginFieldType::kINT32, 1};
}

}  // namespace

Fields Nms::field_names() { return {threshold_field(nullptr), detections_field(nullptr)}; }

nvinfer1::IPluginV3* Nms::create(nvinfer1::PluginFieldCollection const& fields) noexcept {
    float threshold = 0;
    int32_t detections = 0;
    if (!read_field(fields, threshold_field(nullptr), &threshold) ||
        !read_field(fields, detections_field(nullptr), &detections)) {
        return nullptr;
    }
    if (!(threshold >= 0) || detections < 1) {
        std::fprintf(stderr, "[glip plugins] %s cannot keep %d detections at IoU %g\n", kName,
                     static_cast<int>(detections), static_cast<double>(threshold));
        return nullptr;
    }
    return new (std::nothrow) Nms(threshold, detections);
}

Nms::Nms(float iou_threshold, int32_t max_detections)
    : iou_threshold_(iou_threshold),
      max_detections_(max_detections),
      state_("iou_threshold=" + std::to_string(iou_threshold) + " max_detections=" + std::to_string(max_detections)) {}

nvinfer1::IPluginV3* Nms::clone() noexcept { return new (std::nothrow) Nms(iou_threshold_, max_detections_); }

Fields Nms::fields() const { return {threshold_field(&iou_threshold_), detections_field(&max_detections_)}; }

int32_t Nms::getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, nvinfer1::DataType const*,
                                int32_t input_count) const noexcept {
    if (input_count != kInputs || output_count != kOutputs) return 1;
    for (int32_t i = 0; i < kOutputs; ++i) outputs[i] = kTypes[kInputs + i];
    return 0;
}

int32_t Nms::getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count, nvinfer1::DimsExprs const*,
                             int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                             nvinfer1::IExprBuilder& build) noexcept {
    if (input_count != kInputs || output_count != kOutputs) return 1;
    if (inputs[0].nbDims != 3 || inputs[1].nbDims != 2 || inputs[2].nbDims != 2) return 1;
    for (int32_t i = 0; i < kOutputs; ++i) {
        outputs[i].nbDims = i == 0 ? 3 : i == 3 ? 1 : 2;
        outputs[i].d[0] = inputs[0].d[0];
        if (i < 3) outputs[i].d[1] = build.constant(max_detections_);
    }
    outputs[0].d[2] = build.constant(4);
    return 0;
}

bool Nms::supportsFormatCombination(int32_t place, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                    int32_t input_count, int32_t output_count) noexcept {
    if (input_count != kInputs || output_count != kOutputs) return false;
    nvinfer1::PluginTensorDesc const& tensor = tensors[place].desc;
    return tensor.format == nvinfer1::TensorFormat::kLINEAR && tensor.type == kTypes[place];
}

size_t Nms::getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t,
                             nvinfer1::DynamicPluginTensorDesc const*, int32_t) const noexcept {
    const nvinfer1::Dims& scores = inputs[1].max;
    return glip_launch_nms_workspace_bytes(static_cast<int32_t>(scores.d[0]), static_cast<int32_t>(scores.d[1]));
}

int32_t Nms::enqueue(nvinfer1::PluginTensorDesc const* inputs, nvinfer1::PluginTensorDesc const*,
                     void const* const* sources, void* const* targets, void* workspace,
                     cudaStream_t stream) noexcept {
    return glip_launch_nms(sources[0], sources[1], sources[2], targets[0], targets[1], targets[2], targets[3],
                           workspace, size_at(inputs[1], 0), size_at(inputs[1], 1), max_detections_, iou_threshold_,
                           stream);
}

}  // namespace glip
