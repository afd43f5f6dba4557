"""A model against its rivals in ONNX Runtime; `report.bench` runs them."""
