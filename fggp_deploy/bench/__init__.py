"""One model against its rivals in ONNX Runtime; the way in is `fggp_deploy.bench.report.bench`."""
