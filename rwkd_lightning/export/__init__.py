"""Ship a finished student: ``python -m rwkd_lightning.export RUN --onnx``; see docs/deployment.md."""
