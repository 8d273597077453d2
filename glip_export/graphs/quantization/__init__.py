"""Post-training int8: what of the graphs is quantized, the activations' ranges, and the graphs in QDQ form."""
