"""Verification of a deployable file with onnxruntime and numpy; nothing here imports torch.

`verification.verify` is the entry point. This file imports nothing, because `measure.process`
starts fresh interpreters whose memory is measured.
"""
