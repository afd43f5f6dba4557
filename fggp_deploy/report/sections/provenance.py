"""Provenance: the certificate, what made the file, and what made this report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fggp_deploy.pruning.patterns import PATTERNS
from fggp_deploy.report.page import Section, Table
from fggp_deploy.verification.certificate import Certificate
from fggp_deploy.verification.report import Report


def provenance(r: Report) -> Section:
    """The section."""
    m, p = r.machine, r.provenance
    load = "unknown" if m.load_average is None else f"{m.load_average:.2f}"
    caches = ", ".join(f"{name} {n >> 10:,} KiB" for name, n in m.cache_bytes.items())
    rows = [
        ("made by", json.dumps(r.origin, ensure_ascii=False)),
        ("verified by", p.command),
        ("at", f"{p.started}, in {p.seconds:.1f} s"),
        ("options", json.dumps(p.config)),
        ("hardware", ", ".join(f"{key}: {value}" for key, value in p.hardware.items())),
        ("cores", f"{m.physical_cores} physical, {m.usable_cores} usable logical cores"),
        ("caches of a core", caches or "unknown"),
        ("memory", f"{m.memory_bytes / 2**30:.1f} GiB"),
        ("load average at the start", load),
        ("versions", ", ".join(f"{name} {version}" for name, version in p.versions.items())),
    ]
    caption = "Certificate; `fggp-deploy verify FILE --check report.json` checks a file against it."
    return Section(
        "Provenance",
        [
            Table(caption, ["what", "value"], _certificate(r, r.certificate)),
            Table("What made the file and this report.", ["what", "value"], rows),
        ],
    )


def _in_blocks(origin: Mapping[str, Any]) -> str:
    """What the count owes to a pattern of whole blocks, if the file records one."""
    pattern: Any = origin["provenance"]
    for key in ("prune", "config", "pattern"):
        pattern = pattern.get(key) if isinstance(pattern, dict) else None
    known = isinstance(pattern, str) and pattern in PATTERNS
    return f", rounded down to whole blocks of {pattern}" if known else ""


def _certificate(r: Report, c: Certificate) -> list[tuple[str, str]]:
    rows = [("file", f"{r.model.name}, {r.model.file_bytes:,} bytes, sha256 {r.model.sha256}")]
    if r.reference is not None:
        rows.append(("dense model", f"{r.reference.name}, sha256 {r.reference.sha256}"))
    rows.append(("masks", f"sha256 {c.masks_sha256}"))
    if c.parent_masks_sha256 is not None:
        rows.append(("masks of the dense model", f"sha256 {c.parent_masks_sha256}"))
    if c.revived is not None:
        n = sum(c.revived.values())
        within = "yes" if c.masks_are_a_subset else f"no, {n} weights in {len(c.revived)} layers"
        rows.append(("every weight that is zero in the dense model is zero here", within))
    if c.n_removed is not None and c.n_prunable:
        share = f"{c.n_removed:,} of {c.n_prunable:,} prunable weights removed"
        share += f" ({c.n_removed / c.n_prunable:.6%})"
        if c.target is not None:
            share += f"; a target of {c.target:g} means {round(c.target * c.n_prunable):,}"
            share += _in_blocks(r.origin)
        rows.append(("exact sparsity, counted in the file", share))
    if c.checkpoint_recorded is not None:
        state = "not beside the file" if c.checkpoint_found is None else c.checkpoint_found
        rows.append(("checkpoint", f"sha256 {c.checkpoint_recorded}, {state}"))
    rows.append(("preprocessing", json.dumps(r.origin["preprocessing"])))
    return rows
