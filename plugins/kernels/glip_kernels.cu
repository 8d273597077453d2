// All kernels in one translation unit: what NVRTC compiles for the Python plugins.

#include "add_norm.cuh"
#include "bi_attention_image.cuh"
#include "bi_attention_text.cuh"
#include "box_selection.cuh"
#include "candidates.cuh"
#include "deform_im2col.cuh"
#include "dyconv_convolve.cuh"
#include "dyconv_finish.cuh"
#include "resize_picture.cuh"
#include "text_layer.cuh"
#include "window_attention.cuh"
