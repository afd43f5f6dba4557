"""Step three, judge: the checks that every file must pass, then the limits of gates.py."""

from __future__ import annotations

from fggp_deploy.verification import gates, verdict
from fggp_deploy.verification.gates import Gates
from fggp_deploy.verification.measurements import Measurements
from fggp_deploy.verification.model_under_test import KERNELS, MODEL
from fggp_deploy.verification.verdict import Verdict


def judge(measured: Measurements, limits: Gates) -> tuple[Verdict, ...]:
    """The verdicts of the checks that always hold, then those of the gates that are set."""
    return (*_checks(measured), *gates.verdicts(limits, _figures(measured)))


def _checks(measured: Measurements) -> list[Verdict]:
    found = [verdict.parity(name, d) for name, d in measured.checks.items()]
    certificate = measured.certificate
    if certificate.revived is not None:
        found.append(verdict.nothing_revived(certificate.revived))
    if certificate.n_removed is not None and certificate.n_removed_recorded is not None:
        found.append(
            verdict.claimed_sparsity(certificate.n_removed, certificate.n_removed_recorded)
        )
    if measured.inputs is not None:
        found.append(verdict.preprocessing(measured.inputs))
    return found


def _figures(measured: Measurements) -> gates.Figures:
    """The figures that gates judge: the latency is that of the kernels if the file runs on them."""
    accuracy, latency = measured.predictions.accuracy, measured.latency
    pairs = (accuracy.paired, accuracy.kernels_paired) if accuracy else ()
    best = KERNELS if KERNELS in latency.timings else MODEL
    return gates.Figures(
        paired=tuple(p for p in pairs if p is not None),
        speedup=latency.speedups.get(best),
        timing=latency.timings[best],
        file_bytes=measured.size.file_bytes,
        robustness=measured.robustness,
        too_busy=latency.why_too_busy,
    )
