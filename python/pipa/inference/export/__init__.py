"""A trained network as a file for elsewhere: ``.pth``, safetensors with a model card, ONNX."""
