#include "dyconv_plugin.h"

#include "../launchers/dyconv_plan.h"
#include "../launchers/glip_launchers.h"

namespace glip {

namespace {

nvinfer1::PluginField levels_field(int32_t const* value) {
    return {"levels", value, nvinfer1::PluginFieldType::kINT32, 1};
}

nvinfer1::PluginField groups_field(int32_t const* value) {
    return {"groups", value, nvinfer1::PluginFieldType::kINT32, 1};
}

nvinfer1::PluginField epsilon_field(float const* value) {
    return {"epsilon", value, nvinfer1::PluginFieldType::kFLOAT32, 3};
}

// Height and width of each level.
struct Sides {
    int32_t values[2 * kDyConvMaxLevels];

    template <typename SizeAt>
    Sides(int32_t levels, SizeAt const& size_at) {
        for (int32_t side = 0; side < 2 * levels; ++side) values[side] = size_at(side / 2, 2 + side % 2);
    }
};

}  // namespace

Fields DyConv::field_names() { return {levels_field(nullptr), groups_field(nullptr), epsilon_field(nullptr)}; }

nvinfer1::IPluginV3* DyConv::create(nvinfer1::PluginFieldCollection const& fields) noexcept {
    int32_t levels = 0, groups = 0;
    float epsilon[3] = {};
    if (!read_field(fields, levels_field(nullptr), &levels) || !read_field(fields, groups_field(nullptr), &groups) ||
        !read_field(fields, epsilon_field(nullptr), epsilon)) {
        return nullptr;
    }
    if (levels < 1 || levels > kDyConvMaxLevels || groups < 1) {
        std::fprintf(stderr, "[glip plugins] %s cannot take %d levels in %d groups\n", kName, static_cast<int>(levels),
                     static_cast<int>(groups));
        return nullptr;
    }
    return new (std::nothrow) DyConv(levels, groups, epsilon);
}

DyConv::DyConv(int32_t levels, int32_t groups, float const (&epsilon)[3])
    : levels_(levels),
      groups_(groups),
      epsilon_{epsilon[0], epsilon[1], epsilon[2]},
      state_("levels=" + std::to_string(levels) + " groups=" + std::to_string(groups)) {}

nvinfer1::IPluginV3* DyConv::clone() noexcept { return new (std::nothrow) DyConv(levels_, groups_, epsilon_); }

Fields DyConv::fields() const { return {levels_field(&levels_), groups_field(&groups_), epsilon_field(epsilon_)}; }

bool DyConv::has_counts(int32_t input_count, int32_t output_count) const {
    return input_count == levels_ + kDyConvParameters && output_count == levels_;
}

int32_t DyConv::getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, nvinfer1::DataType const* inputs,
                                   int32_t input_count) const noexcept {
    if (!has_counts(input_count, output_count)) return 1;
    for (int32_t level = 0; level < levels_; ++level) outputs[level] = inputs[level];
    return 0;
}

int32_t DyConv::getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count, nvinfer1::DimsExprs const*,
                                int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                                nvinfer1::IExprBuilder&) noexcept {
    if (!has_counts(input_count, output_count)) return 1;
    for (int32_t level = 0; level < levels_; ++level) {
        if (inputs[level].nbDims != 4) return 1;
        outputs[level] = inputs[level];
    }
    return 0;
}

bool DyConv::supportsFormatCombination(int32_t place, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                       int32_t input_count, int32_t output_count) noexcept {
    if (!has_counts(input_count, output_count)) return false;
    nvinfer1::PluginTensorDesc const &tensor = tensors[place].desc, &first = tensors[0].desc;
    const bool is_half = tensor.type == nvinfer1::DataType::kHALF;
    if (place > 0 ? tensor.type != first.type : !is_half && tensor.type != nvinfer1::DataType::kFLOAT) return false;
    const bool is_map = place < levels_ || place >= input_count;
    const auto last = is_half ? nvinfer1::TensorFormat::kHWC8 : nvinfer1::TensorFormat::kHWC;
    return tensor.format == (is_map ? last : nvinfer1::TensorFormat::kLINEAR);
}

int32_t DyConv::configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t input_count,
                                nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t output_count) noexcept {
    if (has_counts(input_count, output_count) && getWorkspaceSize(inputs, input_count, outputs, output_count) > 0) {
        return 0;
    }
    std::fprintf(stderr, "[glip plugins] %s does not take maps of these sizes\n", kName);
    return 1;
}

size_t DyConv::getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t,
                                nvinfer1::DynamicPluginTensorDesc const*, int32_t) const noexcept {
    const auto size = [&](int32_t level, int32_t axis) { return static_cast<int32_t>(inputs[level].max.d[axis]); };
    const Sides sides(levels_, size);
    const int32_t bytes = inputs[0].desc.type == nvinfer1::DataType::kHALF ? 2 : 4;
    return glip_launch_dyconv_workspace_bytes(bytes, size(0, 0), size(0, 1), groups_, levels_, sides.values);
}

int32_t DyConv::enqueue(nvinfer1::PluginTensorDesc const* inputs, nvinfer1::PluginTensorDesc const*,
                        void const* const* sources, void* const* targets, void* workspace,
                        cudaStream_t stream) noexcept {
    const Sides sides(levels_, [&](int32_t level, int32_t axis) { return size_at(inputs[level], axis); });
    const auto launch =
        inputs[0].type == nvinfer1::DataType::kHALF ? glip_launch_dyconv_f16 : glip_launch_dyconv_f32;
    return launch(sources, sources + levels_, targets, workspace, size_at(inputs[0], 0), size_at(inputs[0], 1),
                  groups_, levels_, sides.values, epsilon_, stream);
}

}  // namespace glip
