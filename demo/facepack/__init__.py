"""The face pack of the demo: its four networks, what they learn from, and how they become ONNX files."""
