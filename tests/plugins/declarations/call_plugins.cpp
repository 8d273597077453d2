// The C++ plugins for ctypes, as TensorRT would call them: created by name through getCreators.

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "../../../plugins/launchers/glip_launchers.h"

using namespace nvinfer1;

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& count);

// The launchers that are not compiled here.
int glip_launch_deform_im2col_f32(const void*, const void*, const void*, void*, int32_t, int32_t, int32_t, int32_t,
                                  int32_t, int32_t, int32_t, void*) {
    return -1;
}
int glip_launch_deform_im2col_f16(const void*, const void*, const void*, void*, int32_t, int32_t, int32_t, int32_t,
                                  int32_t, int32_t, int32_t, void*) {
    return -1;
}
int glip_launch_nms(const void*, const void*, const void*, void*, void*, void*, void*, void*, int32_t, int32_t,
                    int32_t, float, void*) {
    return -1;
}
size_t glip_launch_nms_workspace_bytes(int32_t batch, int32_t candidates) { return size_t(4) * batch * candidates; }

namespace {

// The shim looks for the section of static shared memory, of which these kernels have none.
[[maybe_unused]] __attribute__((used)) __shared__ int shared_memory;

struct Number final : IDimensionExpr {
    int64_t value;
    explicit Number(int64_t given) : value(given) {}
    int64_t getConstantValue() const noexcept override { return value; }
};

struct Numbers final : IExprBuilder {
    std::vector<std::unique_ptr<Number>> made;
    IDimensionExpr const* constant(int64_t value) noexcept override {
        made.push_back(std::make_unique<Number>(value));
        return made.back().get();
    }
    IDimensionExpr const* operation(DimensionOperation, IDimensionExpr const& first,
                                    IDimensionExpr const& second) noexcept override {
        return constant(first.getConstantValue() * second.getConstantValue());  // they use products alone
    }
};

template <typename Capability>
Capability& as(IPluginV3* plugin, PluginCapabilityType type) {
    return *static_cast<Capability*>(plugin->getCapabilityInterface(type));
}

IPluginV3OneBuild& build_of(IPluginV3* plugin) { return as<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD); }

// dims: nine numbers a tensor, their count and they.
Dims dims_at(const int64_t* dims, int tensor) {
    Dims made{};
    made.nbDims = static_cast<int32_t>(dims[9 * tensor]);
    std::copy_n(dims + 9 * tensor + 1, made.nbDims, made.d);
    return made;
}

std::vector<DynamicPluginTensorDesc> described(int count, const int* types, const int* formats, const int64_t* dims) {
    std::vector<DynamicPluginTensorDesc> made(count);
    for (int i = 0; i < count; ++i) {
        made[i].desc.type = static_cast<DataType>(types[i]);
        made[i].desc.format = static_cast<TensorFormat>(formats[i]);
        made[i].desc.dims = made[i].max = dims_at(dims, i);
    }
    return made;
}

}  // namespace

extern "C" {

IPluginCreatorV3One* find_creator(const char* name) {
    int32_t count = 0;
    IPluginCreatorInterface* const* creators = getCreators(count);
    for (int32_t i = 0; i < count; ++i) {
        auto* const creator = static_cast<IPluginCreatorV3One*>(creators[i]);
        if (std::strcmp(creator->getPluginName(), name) == 0) return creator;
    }
    return nullptr;
}

int count_creators() {
    int32_t count = 0;
    getCreators(count);
    return count;
}

const char* creator_version(IPluginCreatorV3One* creator) { return creator->getPluginVersion(); }
const char* creator_namespace(IPluginCreatorV3One* creator) { return creator->getPluginNamespace(); }
const PluginFieldCollection* creator_fields(IPluginCreatorV3One* creator) { return creator->getFieldNames(); }

IPluginV3* plugin_create(IPluginCreatorV3One* creator, const PluginFieldCollection* fields) {
    return creator->createPlugin("a node", fields, TensorRTPhase::kBUILD);
}

IPluginV3* plugin_clone(IPluginV3* plugin) { return plugin->clone(); }
void plugin_destroy(IPluginV3* plugin) { delete plugin; }

const char* plugin_name(IPluginV3* plugin) {
    return as<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE).getPluginName();
}
const PluginFieldCollection* plugin_serialized(IPluginV3* plugin) {
    return as<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME).getFieldsToSerialize();
}
int plugin_count_outputs(IPluginV3* plugin) { return build_of(plugin).getNbOutputs(); }

int plugin_output_shapes(IPluginV3* plugin, int inputs, const int64_t* dims, int outputs, int64_t* made) {
    Numbers numbers;
    std::vector<DimsExprs> given(inputs), found(outputs);
    for (int i = 0; i < inputs; ++i) {
        given[i].nbDims = static_cast<int32_t>(dims[9 * i]);
        for (int axis = 0; axis < given[i].nbDims; ++axis) given[i].d[axis] = numbers.constant(dims[9 * i + 1 + axis]);
    }
    const int code = build_of(plugin).getOutputShapes(given.data(), inputs, nullptr, 0, found.data(), outputs, numbers);
    for (int i = 0; code == 0 && i < outputs; ++i) {
        made[9 * i] = found[i].nbDims;
        for (int axis = 0; axis < found[i].nbDims; ++axis) {
            made[9 * i + 1 + axis] = found[i].d[axis]->getConstantValue();
        }
    }
    return code;
}

int plugin_output_types(IPluginV3* plugin, int inputs, const int* types, int outputs, int* made) {
    return build_of(plugin).getOutputDataTypes(reinterpret_cast<DataType*>(made), outputs,
                                               reinterpret_cast<const DataType*>(types), inputs);
}

int plugin_supports(IPluginV3* plugin, int place, int inputs, int outputs, const int* types, const int* formats,
                    const int64_t* dims) {
    const auto tensors = described(inputs + outputs, types, formats, dims);
    return build_of(plugin).supportsFormatCombination(place, tensors.data(), inputs, outputs);
}

int plugin_configure(IPluginV3* plugin, int inputs, int outputs, const int* types, const int* formats,
                     const int64_t* dims) {
    const auto tensors = described(inputs + outputs, types, formats, dims);
    return build_of(plugin).configurePlugin(tensors.data(), inputs, tensors.data() + inputs, outputs);
}

size_t plugin_workspace_bytes(IPluginV3* plugin, int inputs, int outputs, const int* types, const int* formats,
                              const int64_t* dims) {
    const auto tensors = described(inputs + outputs, types, formats, dims);
    return build_of(plugin).getWorkspaceSize(tensors.data(), inputs, tensors.data() + inputs, outputs);
}

int plugin_enqueue(IPluginV3* plugin, int inputs, int outputs, const int* types, const int* formats,
                   const int64_t* dims, void const* const* sources, void* const* targets, void* workspace) {
    std::vector<PluginTensorDesc> tensors;
    for (const auto& tensor : described(inputs + outputs, types, formats, dims)) tensors.push_back(tensor.desc);
    return as<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME)
        .enqueue(tensors.data(), tensors.data() + inputs, sources, targets, workspace, nullptr);
}
}
