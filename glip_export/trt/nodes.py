"""Names of the two plugin nodes and of the forms of a lowered graph, for the lowering, the plugins and the build."""

DOMAIN = "glip"
OPSET = 1
VERSION = "1"
NAMESPACE = ""

DEFORM_IM2COL = "GlipDeformIm2Col"
NMS = "GlipNms"

DEFORM_CONV_FORMS = ("plugin", "gridsample")
NMS_FORMS = ("plugin", "native", "host")
