// How the plugins come into TensorRT's registry. One of two ways, chosen when the library is built:
//
// GLIP_STATIC_REGISTRATION: as soon as the library is loaded. For dlopen and LD_PRELOAD, `trtexec --staticPlugins`,
//   Triton's `--backend-config=tensorrt,plugins=...`, ctypes.CDLL.
// Otherwise: through getCreators, which IPluginRegistry::loadLibrary and `trtexec --dynamicPlugins` call. Both at once
//   would register every plugin twice.

#include "deform_im2col_plugin.h"
#include "dyconv_plugin.h"
#include "nms_plugin.h"

#if defined(_WIN32)
#define GLIP_EXPORT __declspec(dllexport)
#else
#define GLIP_EXPORT __attribute__((visibility("default")))
#endif

namespace {

// They live as long as the library: the registry keeps pointers.
glip::Creator<glip::DeformIm2Col> deform_im2col_creator;
glip::Creator<glip::Nms> nms_creator;
glip::Creator<glip::DyConv> dyconv_creator;

nvinfer1::IPluginCreatorInterface* const creators[] = {&deform_im2col_creator, &nms_creator, &dyconv_creator};

}  // namespace

#if defined(GLIP_STATIC_REGISTRATION)

namespace {

bool register_all() {
    bool done = true;
    for (nvinfer1::IPluginCreatorInterface* creator : creators) {
        done = getPluginRegistry()->registerCreator(*creator, glip::kPluginNamespace) && done;
    }
    return done;
}

const bool registered = register_all();

}  // namespace

// Whether all plugins are registered by this library; false if others of their names were there before.
extern "C" GLIP_EXPORT bool glipPluginsRegistered() { return registered; }

#else

extern "C" GLIP_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    count = static_cast<int32_t>(sizeof creators / sizeof creators[0]);
    return creators;
}

extern "C" GLIP_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

#endif
