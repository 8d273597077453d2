// What the TensorRT plugins have in common: IPluginV3 with core, build and runtime capabilities, whose whole state
// is a few numbers. The same names, version, fields and serialised form as glip_export/trt/plugins.py.

#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <new>
#include <string>
#include <vector>

namespace glip {

constexpr char const* kPluginVersion = "1";
constexpr char const* kPluginNamespace = "";

using Fields = std::vector<nvinfer1::PluginField>;

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
public:
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        switch (type) {
            case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return kPluginVersion; }
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return kPluginNamespace; }

    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const*, int32_t,
                            nvinfer1::DynamicPluginTensorDesc const*, int32_t) noexcept override {
        return 0;
    }

    int32_t onShapeChange(nvinfer1::PluginTensorDesc const*, int32_t, nvinfer1::PluginTensorDesc const*,
                          int32_t) noexcept override {
        return 0;
    }

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override {
        fields_ = fields();
        serialized_.nbFields = static_cast<int32_t>(fields_.size());
        serialized_.fields = fields_.data();
        return &serialized_;
    }

protected:
    // The plugin's fields, which point at its numbers.
    virtual Fields fields() const = 0;

private:
    Fields fields_;
    nvinfer1::PluginFieldCollection serialized_{};
};

// A tensor's dimension as the kernels count it; -1, which no launcher takes, if it is too large for them.
inline int32_t size_at(nvinfer1::PluginTensorDesc const& tensor, int32_t axis) {
    const auto size = static_cast<int64_t>(tensor.dims.d[axis]);
    return size <= std::numeric_limits<int32_t>::max() ? static_cast<int32_t>(size) : -1;
}

// Copies the values of a field that must be there, and of this type and length.
template <typename T>
bool read_field(nvinfer1::PluginFieldCollection const& given, nvinfer1::PluginField const& wanted, T* values) {
    for (int32_t i = 0; i < given.nbFields; ++i) {
        nvinfer1::PluginField const& field = given.fields[i];
        if (std::string(field.name) == wanted.name && field.type == wanted.type && field.length == wanted.length) {
            std::copy_n(static_cast<T const*>(field.data), field.length, values);
            return true;
        }
    }
    std::fprintf(stderr, "[glip plugins] field '%s' is missing or not of its type and length\n", wanted.name);
    return false;
}

// P has kName, field_names() and create(fields), which gives nullptr for fields it cannot use.
template <typename P>
class Creator : public nvinfer1::IPluginCreatorV3One {
public:
    Creator() : names_(P::field_names()) {
        collection_.nbFields = static_cast<int32_t>(names_.size());
        collection_.fields = names_.data();
    }

    nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const*, nvinfer1::PluginFieldCollection const* fields,
                                      nvinfer1::TensorRTPhase) noexcept override {
        return fields == nullptr ? nullptr : P::create(*fields);
    }

    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &collection_; }
    nvinfer1::AsciiChar const* getPluginName() const noexcept override { return P::kName; }
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return kPluginVersion; }
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return kPluginNamespace; }

private:
    Fields names_;
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace glip
