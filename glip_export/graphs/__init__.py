"""The three graphs: their contract, their export to ONNX, their precisions."""
