"""Notes: what a reader of a report must know that no number shows."""

from __future__ import annotations

from fggp_deploy.measure.latency import busy_notes
from fggp_deploy.verification.measurements import Measurements
from fggp_deploy.verification.model_under_test import ModelUnderTest
from fggp_deploy.verification.options import VerifyOptions


def notes(
    under_test: ModelUnderTest, measured: Measurements, options: VerifyOptions
) -> tuple[str, ...]:
    """One sentence for each thing that is missing or limits what the numbers mean."""
    return (
        *measured.no_mismatch,
        *_dense_model(under_test),
        *_data(under_test, options),
        *_kernels(under_test),
        *_others(under_test),
        *busy_notes((measured.latency, *measured.other_latencies)),
        *measured.no_torch,
    )


def _dense_model(under_test: ModelUnderTest) -> list[str]:
    if under_test.dense is None:
        return [
            "No dense model: reference.onnx is not beside the model and no --reference was given, "
            "so there is no accuracy drop and no speed-up."
        ]
    if under_test.dense.sparsity > 0.01:
        return [
            f"The dense model is itself {under_test.dense.sparsity:.1%} sparse; the drop is "
            "counted from it."
        ]
    return []


def _data(under_test: ModelUnderTest, options: VerifyOptions) -> list[str]:
    if under_test.data is None:
        return ["No data was given, so accuracy was not measured."]
    if not options.check_preprocessing:
        return ["The preprocessing was not checked (--no-preprocessing-check)."]
    return []


def _kernels(under_test: ModelUnderTest) -> list[str]:
    plan = under_test.plan
    if under_test.kernels is None:
        return [f"The sparse kernels were not used: {plan.removeprefix('plain: ')}."]
    return [f"The sparse kernels run {plan.removeprefix('kernels: ')}."]


def _others(under_test: ModelUnderTest) -> list[str]:
    found = []
    if under_test.no_int8:
        found.append(f"Dense int8 was not measured: {under_test.no_int8}.")
    if under_test.metadata.unrounded is not None and under_test.fp32 is None:
        found.append(
            "The values are rounded and no file with the same checkpoint's fp32 values lies beside "
            "the model, so the two were compared on the self-test's inputs only."
        )
    if under_test.metadata.selftest is None:
        found.append("The file has no self-test, so no recorded logits were checked.")
    return found
