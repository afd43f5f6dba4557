"""Estimate the speed of the Arm kernels' inner loops with llvm-mca: no Arm processor is needed.

    python benchmarks/estimate_arm.py [--llvm-mca llvm-mca-19]

Compiles the kernels to assembly, finds the inner loop of each convolution block, and prints the
cycles per stored weight for sixteen outputs, as a Markdown table. A stored weight of int8x4 is four
int8 weights. The estimate assumes that all data is in the L1 cache and that a row of weights never
ends. None of these cores has i8mm: the rows of usdot are for a core that is the same otherwise.

Needs aarch64-linux-gnu-g++ and llvm-mca 17 or newer, which has a model of the Neoverse N1.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).resolve().parents[1] / "fggp_deploy" / "kernels" / "csrc"
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fvisibility=hidden", "-DFGGP_ARM64"]
KERNELS = {  # source file: compiler option, instruction that multiplies
    "neon": ("-march=armv8-a", "fmla"),
    "int8x4_neon": ("-march=armv8.2-a+dotprod", "sdot"),
    "int8x4_neon_i8mm": ("-march=armv8.2-a+i8mm", "usdot"),
}
# LLVM has no model of the A76, from which the N1 is derived, and uses the Cyclone's for the M1.
CORES = {"Cortex-A55": "cortex-a55", "A76, Neoverse N1": "neoverse-n1", "Apple M1": "apple-m1"}
ITERATIONS = 200
LANES = 4  # of a register
_TILE = re.compile(r"_tileI\w*?LanesILi(\d+)E+" + r"Li(\d+)E" * 5)
_PAIR = re.compile(r"\s+ldp\tq(\d+), q(\d+), \[(\w+)(?:, (-?\d+))?\]$")


class Block(NamedTuple):
    """Lanes of a vector, output channels, rows and columns of vectors, column stride."""

    lanes: int
    channels: int
    rows: int
    cols: int
    stride: int

    def __str__(self) -> str:
        return f"{self.channels} × {self.rows} × {self.cols}, {self.lanes} lanes"


def assembly(kernel: str, compiler: str) -> str:
    """The compiled kernels of one source file."""
    command = [compiler, *FLAGS, KERNELS[kernel][0], f"-I{SOURCES}", "-S", "-o", "-"]
    source = str(SOURCES / "isa" / f"{kernel}.cpp")
    return subprocess.run([*command, source], check=True, capture_output=True, text=True).stdout


def functions(text: str) -> dict[Block, list[str]]:
    """The lines of each convolution block."""
    found: dict[Block, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if re.match(r"_Z\w+:", line):
            lines = []
            if match := _TILE.search(line):
                found[Block(*(int(n) for n in match.groups()[:5]))] = lines
        lines.append(line)
    return found


def inner_loop(lines: list[str], instruction: str) -> list[str]:
    """The loop without inner loops that has the most of these instructions."""
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if line.startswith(".L")}
    best: list[str] = []
    for i, line in enumerate(lines):
        target = line.rsplit(maxsplit=1)[-1] if line.startswith("\t") else ""
        start = labels.get(target, i)
        if start >= i or any(label.startswith(".L") for label in lines[start + 1 : i]):
            continue
        body = [x for x in lines[start + 1 : i + 1] if x.startswith("\t") and x[1] != "."]
        if n_of(instruction, body) > n_of(instruction, best):
            best = body
    return best


def n_of(instruction: str, body: list[str]) -> int:
    """How often an instruction occurs."""
    return sum(x.split()[0] == instruction for x in body)


def split_pairs(body: list[str]) -> list[str]:
    """Two loads for each pair: the A55's model charges six cycles for a pair, one for a load."""
    out: list[str] = []
    for line in body:
        if match := _PAIR.match(line):
            first, second, base, at = match.groups(default="0")
            out.append(f"\tldr\tq{first}, [{base}, {at}]")
            out.append(f"\tldr\tq{second}, [{base}, {int(at) + 16}]")
        else:
            out.append(line)
    return out


def cycles(body: list[str], core: str, llvm_mca: str) -> float:
    """Cycles per iteration of a loop."""
    body = split_pairs(body) if core == "cortex-a55" else body
    command = [llvm_mca, "-march=aarch64", f"-mcpu={core}", "-mattr=+dotprod,+i8mm", "-json"]
    done = subprocess.run(
        [*command, f"-iterations={ITERATIONS}"],
        input="\n".join(body), check=True, capture_output=True, text=True,
    )  # fmt: skip
    report = json.loads(done.stdout[done.stdout.index("{") :])
    return float(report["CodeRegions"][0]["SummaryView"]["TotalCycles"]) / ITERATIONS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", default="aarch64-linux-gnu-g++")
    parser.add_argument("--llvm-mca", default="llvm-mca")
    options = parser.parse_args()
    print(f"| kernel | block | {' | '.join(CORES)} |")
    print("|---" * (2 + len(CORES)) + "|")
    for kernel, (_, instruction) in KERNELS.items():
        for block, lines in sorted(functions(assembly(kernel, options.compiler)).items()):
            if block.stride > 1:
                continue
            body = inner_loop(lines, instruction)
            # for each weight, a multiplication computes LANES outputs
            units = n_of(instruction, body) * LANES / 16
            row = [cycles(body, core, options.llvm_mca) / units for core in CORES.values()]
            print(f"| {instruction} | {block} | {' | '.join(f'{c:.1f}' for c in row)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
