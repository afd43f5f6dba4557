"""Verification of a deployable file with onnxruntime and numpy; nothing here imports torch.

Empty on purpose: `process.py` starts fresh interpreters whose memory is measured, so importing
this package must cost nothing. The way in is `fggp_deploy.verify.report.verify`.
"""
