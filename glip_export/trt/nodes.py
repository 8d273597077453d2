"""Names of our own nodes and of the forms of a lowered graph, for the lowering, the plugins and the build."""

DOMAIN = "glip"
OPSET = 1
VERSION = "1"
NAMESPACE = ""

DEFORM_IM2COL = "GlipDeformIm2Col"
NMS = "GlipNms"
DYCONV = "GlipDyConv"  # graphs/contracts.py's
CANDIDATES = "GlipCandidates"  # candidates_node.py's, of torch:cuda alone
SWIN_BLOCK = "GlipSwinBlock"  # graphs/swin_node.py's, of torch:cuda alone
BI_ATTENTION = "GlipBiAttention"  # graphs/bi_attention_node.py's, of torch:cuda alone
TEXT_LAYER = "GlipTextLayer"  # graphs/text_layer_node.py's, of torch:cuda alone
TEXT_TO_IMAGE, TEXT_FROM_IMAGE = "GlipTextToImage", "GlipTextFromImage"  # graphs/text_side_node.py's, the same

FUSED = "fused"
DEFORM_CONV_FORMS = ("plugin", "gridsample", FUSED)
FUSED_PRECISIONS = ("fp16", "fp32")
NMS_FORMS = ("plugin", "native", "host")
