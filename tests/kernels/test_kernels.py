"""Every instruction set against the naive reference, over named stress cases and random shapes."""

from __future__ import annotations

import dataclasses
import itertools
import platform
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from fggp_deploy import kernels
from fggp_deploy.errors import MachineError, ModelFileError
from fggp_deploy.format.encodings import Rice
from fggp_deploy.kernels.program import (
    ADD,
    AVERAGE_POOL,
    CLAMP,
    CONV,
    DENSE,
    FLATTEN,
    GEMM,
    GLOBAL_AVERAGE,
    MAX_POOL,
    NO_ACTIVATION,
    REFERENCE,
    RELU,
    RICE,
    ROUND,
    Activation,
    Program,
    Step,
    clamp,
    encode,
    variant_shape,
)

try:
    ISAS = kernels.isas()
except MachineError as e:
    pytest.skip(f"no kernel library: {e}", allow_module_level=True)


def weights(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> np.ndarray:
    w = rng.standard_normal(shape).astype(np.float32)
    w[rng.random(shape) >= density] = 0
    return w


def check(program: Program, inputs: list[np.ndarray], isa: str, threads: int = 1) -> None:
    """An instruction set must agree with the reference, and exactly on NaN and infinities."""
    wanted = program.run(inputs, isa=REFERENCE)
    for got, want in zip(program.run(inputs, isa=isa, threads=threads), wanted, strict=True):
        scale = float(np.abs(want).max(initial=1.0, where=np.isfinite(want)))
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * scale)


def with_specials(rng: np.random.Generator, x: np.ndarray, n: int = 3) -> np.ndarray:
    """A copy with NaN or an infinity in up to n places."""
    x = x.copy()
    x.flat[rng.integers(0, x.size, n)] = rng.choice([np.nan, np.inf, -np.inf], n)
    return x


@dataclasses.dataclass(frozen=True)
class Case:
    cin: int = 16
    cout: int = 8
    size: tuple[int, int] = (8, 8)
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    group: int = 1
    density: float = 0.2
    batch: int = 1
    residual: bool = False
    activation: Activation = NO_ACTIVATION
    threads: int = 1
    variant: tuple[int, int] = (-1, 1)
    specials: bool = False  # NaN and infinities among the inputs

    def run(self, rng: np.random.Generator, isa: str) -> None:
        w = weights(rng, (self.cout, self.cin // self.group, *self.kernel), self.density)
        step = Step(
            CONV,
            0,
            cout=self.cout,
            cin=self.cin,
            kernel=self.kernel,
            strides=self.strides,
            dilations=self.dilations,
            pads=self.pads,
            group=self.group,
            format=DENSE,
            activation=self.activation,
            variant=self.variant,
            residual=1 if self.residual else -1,
        )
        bias = rng.standard_normal(self.cout).astype(np.float32)
        inputs = [rng.standard_normal((self.batch, self.cin, *self.size)).astype(np.float32)]
        if self.residual:
            out = self.out_size()
            inputs.append(rng.standard_normal((self.batch, self.cout, *out)).astype(np.float32))
        if self.specials:
            inputs = [with_specials(rng, x) for x in inputs]
        code = encode([step], n_inputs=len(inputs), outputs=[len(inputs)])
        check(Program(code, [w, bias]), inputs, isa, self.threads)

    def out_size(self) -> list[int]:
        return [
            (self.size[i] + self.pads[i] + self.pads[i + 2] - self.dilations[i] * (k - 1) - 1)
            // self.strides[i]
            + 1
            for i, k in enumerate(self.kernel)
        ]


ONE = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
CASES = {
    "k_lt_tile": Case(cin=3, size=(56, 56)),
    "m_tail": Case(cout=7),
    "stride2": Case(strides=(2, 2)),
    "stride2_onebyone": Case(size=(14, 14), strides=(2, 2), **ONE),
    "stride3": Case(size=(19, 19), strides=(3, 3)),
    "onebyone": Case(size=(16, 28), batch=3, residual=True, activation=clamp(0.0, 6.0), **ONE),
    "onebyone_last_vector": Case(size=(14, 14), threads=3, residual=True, **ONE),
    "onebyone_below_a_vector": Case(size=(5, 3), batch=2, **ONE),
    "onebyone_grouped": Case(cin=12, cout=18, group=3, size=(7, 9), **ONE),
    "onebyone_blocks": Case(cin=90, size=(112, 112), variant=(-1, 4), density=0.1, **ONE),
    "uneven_strides": Case(size=(16, 12), strides=(1, 2)),
    "empty_row": Case(cin=2, cout=32, density=0.05),
    "all_zero": Case(density=0.0),
    "dense": Case(density=1.0, cin=24, cout=16, size=(28, 28)),
    "plane7": Case(size=(7, 7)),
    "plane7_stride2": Case(size=(7, 7), strides=(2, 2)),
    "plane14": Case(size=(14, 14)),
    "plane14_to_7": Case(size=(14, 14), strides=(2, 2)),
    "plane2": Case(size=(2, 2), cin=64, cout=64),
    "plane1": Case(size=(1, 1), **ONE),
    "plane4_to_2": Case(size=(4, 4), strides=(2, 2)),
    "batch1": Case(batch=1),
    "batch3": Case(batch=3),
    "batch8": Case(batch=8),
    "no_padding": Case(size=(9, 11), kernel=(5, 3), pads=(0, 0, 0, 0)),
    "uneven_padding": Case(pads=(0, 2, 1, 0)),
    "dilated": Case(size=(20, 20), dilations=(3, 2), pads=(3, 2, 3, 2)),
    "depthwise": Case(cin=24, cout=24, group=24, density=1.0, size=(28, 28)),
    "depthwise_stride2": Case(cin=6, cout=6, group=6, strides=(2, 2), size=(14, 14), density=1.0),
    "depthwise_relu6": Case(
        cin=6, cout=6, group=6, activation=clamp(0.0, 6.0), size=(7, 7), density=1.0
    ),
    "depthwise_5x5": Case(
        cin=5, cout=5, group=5, kernel=(5, 5), pads=(2,) * 4, density=1.0, residual=True
    ),
    "depthwise_dilated": Case(
        cin=5, cout=5, group=5, size=(13, 9), dilations=(2, 3), pads=(2, 3, 2, 3), density=1.0
    ),
    "depthwise_multiplier": Case(cin=7, cout=21, group=7, density=0.6, threads=3, size=(16, 16)),
    "depthwise_plane2": Case(cin=9, cout=9, group=9, size=(2, 2), density=1.0, batch=2),
    "depthwise_empty_row": Case(cin=40, cout=40, group=40, density=0.05),
    "grouped": Case(cin=12, cout=18, group=3, size=(14, 14)),
    "stem": Case(cin=3, cout=16, size=(64, 64), kernel=(7, 7), strides=(2, 2), pads=(3, 3, 3, 3)),
    "residual": Case(residual=True),
    "residual_relu": Case(residual=True, activation=RELU, size=(7, 7)),
    "relu6": Case(activation=clamp(0.0, 6.0), cin=64),
    "threads": Case(cout=64, size=(32, 32), threads=5),
    "offsets_past_16_bits": Case(cin=80, cout=8, size=(120, 120)),
    "stride_past_the_plane": Case(size=(4, 4), strides=(1_000_000, 1), **ONE),
    "stride_past_the_window": Case(cin=3, size=(9, 6), strides=(7, 1000), residual=True),
    "whole_plane": Case(cin=3, size=(20, 7), kernel=(20, 7), pads=(0, 0, 0, 0)),
    "padded_whole_plane": Case(cin=3, size=(5, 3), kernel=(7, 5), pads=(1, 1, 1, 1), batch=2),
    "whole_row": Case(
        cin=2, size=(30, 6), kernel=(11, 6), pads=(0, 0, 0, 0), activation=clamp(0.0, 6.0)
    ),
    "whole_plane_depthwise": Case(
        cin=6, cout=6, group=6, size=(7, 7), kernel=(7, 7), pads=(0, 0, 0, 0), density=1.0
    ),
    "specials": Case(specials=True, size=(14, 14), density=0.05),
    "specials_relu": Case(specials=True, activation=RELU, residual=True, batch=3),
    "specials_relu6": Case(specials=True, activation=clamp(0.0, 6.0), size=(2, 2)),
    "specials_onebyone": Case(specials=True, size=(14, 14), activation=clamp(0.0, 6.0), **ONE),
    "specials_grouped": Case(specials=True, cin=12, cout=18, group=3, size=(14, 14)),
    "specials_depthwise": Case(specials=True, cin=6, cout=6, group=6, activation=clamp(0.0, 6.0)),
    "wide_row": Case(size=(1, 50), kernel=(1, 3), pads=(0, 1, 0, 1)),
    # Taps that only meet padding: rows, columns or both; before the others, behind them or around.
    "one_pixel": Case(size=(1, 1), residual=True, specials=True),
    "one_row": Case(size=(1, 40), specials=True),
    "one_column": Case(size=(40, 1), kernel=(3, 5), pads=(1, 2, 1, 2)),
    "one_pixel_grouped": Case(cin=12, cout=18, group=3, size=(1, 1)),
    "one_pixel_depthwise": Case(cin=6, cout=12, group=6, size=(1, 1), density=1.0),
    "two_by_two_to_one_pixel": Case(size=(2, 2), strides=(2, 2)),
    "taps_before_the_plane": Case(size=(3, 3), kernel=(6, 3), pads=(5, 1, 0, 1), strides=(9, 1)),
    "taps_behind_the_plane": Case(size=(3, 3), kernel=(6, 3), pads=(0, 1, 5, 1), strides=(9, 1)),
    "dilated_past_the_plane": Case(size=(3, 2), dilations=(2, 3), pads=(2, 3, 2, 3)),
    "padding_below_the_dilation": Case(size=(3, 3), dilations=(3, 3), pads=(2, 2, 2, 2)),
    "no_tap_meets_the_plane": Case(size=(1, 1), kernel=(2, 2), dilations=(2, 2), pads=(1,) * 4),
    "much_larger_than_the_plane": Case(
        cin=2, cout=2, size=(4, 4), kernel=(300, 300), pads=(150,) * 4, density=0.001
    ),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CASES)
def test_named_case(name: str, isa: str) -> None:
    CASES[name].run(np.random.default_rng(0), isa)


def n_variants(isa: str) -> int:
    """Variants are numbered from 0 without gaps."""
    for n in itertools.count():
        try:
            variant_shape(n, isa=isa)
        except ModelFileError:
            return n


@pytest.mark.parametrize("isa", ISAS)
def test_every_variant(isa: str) -> None:
    rng = np.random.default_rng(0)
    for variant in range(n_variants(isa)):
        for case in (
            Case(cin=20, size=(112, 112), cout=8, density=0.3, variant=(variant, 2)),
            Case(size=(56, 56), strides=(2, 2), density=0.3, variant=(variant, 1), residual=True),
            Case(size=(16, 31), variant=(variant, 3), activation=clamp(-0.5, 0.5)),
            Case(size=(28, 32), variant=(variant, 2), density=0.3, **ONE),
            # Tiles of 10 x 10 and 15 x 9: all blocks of 3, 5, 9 and 10 vectors divide one of them.
            Case(size=(40, 40), variant=(variant, 2), density=0.3, residual=True),
            Case(size=(80, 80), strides=(2, 2), variant=(variant, 1), density=0.3),
            Case(size=(59, 36), variant=(variant, 1), activation=clamp(-0.5, 0.5)),
            Case(size=(120, 72), strides=(2, 2), variant=(variant, 2), density=0.3),
        ):
            case.run(rng, isa)


def random_case(rng: np.random.Generator) -> Case:
    def pick(*options: int) -> int:
        return int(rng.choice(options))

    group = pick(1, 1, 1, 2, 4, 24)
    per_group = (1, 4) if group == 24 else (20, 12)  # 24: depthwise, with a multiplier
    kernel = (pick(1, 1, 2, 3, 3, 5), pick(1, 1, 2, 3, 3, 5))
    dilations = (pick(1, 1, 1, 2), pick(1, 1, 1, 2))
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    pads = tuple(int(rng.integers(0, r + 1)) for r in (*reach, *reach))
    smallest = [max(1, r + 1 - pads[i] - pads[i + 2]) for i, r in enumerate(reach)]
    size = tuple(int(rng.integers(s, 34 if rng.integers(2) else s + 3)) for s in smallest)
    return Case(
        cin=group * int(rng.integers(1, per_group[0] + 1)),
        cout=group * int(rng.integers(1, per_group[1])),
        size=size,
        kernel=kernel,
        strides=(pick(1, 1, 2, 3), pick(1, 1, 2, 3)),
        dilations=dilations,
        pads=pads,
        group=group,
        density=float(rng.choice([0.02, 0.1, 0.3, 1.0])),
        batch=pick(1, 1, 2, 5),
        residual=bool(rng.integers(2)),
        activation=(NO_ACTIVATION, RELU, clamp(0.0, 6.0))[pick(0, 1, 2)],
        threads=pick(1, 3),
        variant=(int(rng.integers(-1, 60)), pick(1, 1, 2, 4)),
        specials=pick(0, 0, 1) == 1,
    )


@pytest.mark.parametrize("isa", ISAS)
def test_random_shapes(isa: str) -> None:
    sweep(isa, seed=1, n=300)


class Late:
    """Threads of which some are late or never come, as `Program.run` lends them."""

    def __init__(self, rng: np.random.Generator, n_threads: int) -> None:
        self.rng, self.n_threads = rng, n_threads

    def __call__(self, n: int, work: Callable[[int], None]) -> None:
        tasks = iter(range(n))
        lock = threading.Lock()

        def claim() -> int | None:
            with lock:
                return next(tasks, None)

        def take(delays: list[float]) -> None:
            for seconds in delays:
                time.sleep(seconds)
                i = claim()
                if i is None:
                    return
                work(i)

        present = [self.rng.random() < 0.8 for _ in range(self.n_threads - 1)]
        helpers = [
            threading.Thread(target=take, args=(list(self.rng.exponential(1e-4, n)),))
            for here in present
            if here
        ]
        for helper in helpers:
            helper.start()
        take([0.0] * (n + 1))
        for helper in helpers:
            helper.join()


@pytest.mark.parametrize("isa", ISAS)
def test_threads_give_the_same_bits(isa: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        n, cin, size = (int(rng.integers(1, high)) for high in (5, 12, 20))
        steps, constants = [], []
        for i in range(int(rng.integers(1, 6))):
            kernel = int(rng.choice([1, 3]))
            cout = int(rng.integers(1, 24))
            w = weights(rng, (cout, cin, kernel, kernel), 0.3)
            steps.append(
                Step(
                    CONV,
                    i,
                    cout=cout,
                    cin=cin,
                    kernel=(kernel, kernel),
                    strides=(1, int(rng.choice([1, 2]))),
                    pads=(kernel // 2,) * 4,
                    constant=len(constants),
                    format=DENSE,
                    activation=RELU,
                )
            )
            constants += [w, rng.standard_normal(cout).astype(np.float32)]
            cin = cout
        program = Program(encode(steps, n_inputs=1, outputs=[len(steps)]), constants)
        first = steps[0].cin
        x = rng.standard_normal((n, first, size, size)).astype(np.float32)
        (want,) = program.run([x], isa=isa)
        for n_threads in (2, 3, 7):
            (got,) = program.run([x], isa=isa, threads=n_threads, lend=Late(rng, n_threads))
            np.testing.assert_array_equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_many_random_shapes(isa: str) -> None:
    sweep(isa, seed=2, n=2500)


def sweep(isa: str, *, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(n):
        case = random_case(rng)
        try:
            case.run(rng, isa)
        except AssertionError as e:
            raise AssertionError(f"{isa}: {case}: {e}") from e


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", [MAX_POOL, AVERAGE_POOL])
def test_pooling(isa: str, op: int) -> None:
    rng = np.random.default_rng(0)
    for size in (2, 4, 7, 14, 16, 31, 56):
        for kernel, stride, pad, dilation in (
            *((2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 1), (2, 1, 0, 1), (1, 2, 0, 1)),
            *((2, 3, 1, 1), (3, 1, 0, 3), (2, 2, 0, 2), (2, 1_000_000, 0, 1)),
        ):
            if size <= dilation * (kernel - 1) - 2 * pad:
                continue
            for count in (False, True):
                step = Step(
                    op,
                    0,
                    cout=5,
                    cin=5,
                    kernel=(kernel, kernel),
                    strides=(stride, stride),
                    pads=(pad,) * 4,
                    dilations=(dilation,) * 2,
                    count_padding=count,
                )
                x = rng.standard_normal((2, 5, size, size)).astype(np.float32)
                program = Program(encode([step], n_inputs=1, outputs=[1]), [])
                check(program, [x], isa)
                check(program, [with_specials(rng, x)], isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1, 2, 4, 7, 8, 13])
def test_many_steps(isa: str, size: int) -> None:
    """A residual block, a pooling, both steps that make a vector, and a Gemm; three outputs."""
    rng = np.random.default_rng(size)
    conv = {"cin": 12, "cout": 12, "kernel": (3, 3), "pads": (1,) * 4, "format": DENSE}
    steps = [
        Step(CONV, 0, **conv, activation=RELU),
        Step(CONV, 1, **conv, constant=2, residual=0, activation=RELU),
        Step(CONV, 2, **conv | {"strides": (2, 2)}, constant=4),
        Step(MAX_POOL, 3, cout=12, cin=12, kernel=(3, 3), strides=(2, 2), pads=(1,) * 4),
        Step(GLOBAL_AVERAGE, 2),
        Step(FLATTEN, 5),
        Step(GEMM, 6, cout=9, cin=12, constant=6, format=DENSE),
        Step(FLATTEN, 2),
    ]
    constants = []
    for shape in ((12, 12, 3, 3),) * 3 + ((9, 12),):
        constants += [weights(rng, shape, 0.3), np.ones(shape[0], np.float32)]
    program = Program(encode(steps, n_inputs=1, outputs=[4, 7, 8]), constants)
    x = rng.standard_normal((3, 12, size, size)).astype(np.float32)
    check(program, [x], isa)
    check(program, [with_specials(rng, x, n=1)], isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_a_batch_has_the_bits_of_its_images(isa: str, size: int) -> None:
    """Groups of four share the lanes of planes up to 2x2; of nine images, one is left over."""
    rng = np.random.default_rng(size)
    square = {"cin": 12, "cout": 12, "kernel": (3, 3), "pads": (1,) * 4, "format": DENSE}
    steps = [
        Step(CONV, 0, **square, strides=(2, 2), activation=RELU),
        Step(CONV, 1, **square, constant=2, residual=1, variant=(0, 2)),
        Step(CONV, 2, **square | {"cin": 12, "group": 12}, constant=4),
        Step(ADD, 3, residual=2, activation=clamp(-1.0, 1.0)),
        Step(AVERAGE_POOL, 4, cout=12, cin=12, kernel=(3, 3), pads=(1,) * 4),
        # A plane that grows, and may leave the lanes again
        Step(CONV, 5, cout=8, cin=12, kernel=(1, 1), pads=(1,) * 4, constant=6, format=DENSE),
        Step(MAX_POOL, 6, cout=8, cin=8, kernel=(2, 2), strides=(2, 2)),
        Step(GLOBAL_AVERAGE, 6),
        Step(FLATTEN, 8),
        Step(GEMM, 9, cout=5, cin=8, constant=8, format=DENSE),
    ]
    constants = []
    for shape in ((12, 12, 3, 3), (12, 12, 3, 3), (12, 1, 3, 3), (8, 12, 1, 1), (5, 8)):
        constants += [weights(rng, shape, 0.3), rng.standard_normal(shape[0]).astype(np.float32)]
    program = Program(encode(steps, n_inputs=1, outputs=[2, 5, 7, 10]), constants)
    x = rng.standard_normal((9, 12, size, size)).astype(np.float32)
    check(program, [x], isa)
    x[5, 3, 0, 0] = np.inf
    check(program, [x], isa, threads=2)
    alone = [program.run([image[None]], isa=isa) for image in x]
    for got, want in zip(program.run([x], isa=isa), zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(got, np.concatenate(want))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1, 2, 5, 8, 14])
def test_sums(size: int, isa: str) -> None:
    """Sums and activations of planes in different tiles, of an input, of what a pooling gives."""
    rng = np.random.default_rng(size)
    halve = {"kernel": (1, 1), "strides": (2, 2)}
    steps = [
        Step(CONV, 0, cout=6, cin=6, format=DENSE),
        Step(ADD, 1, residual=0, activation=clamp(-0.5, 6.0)),  # 2: of a convolution and an input
        Step(ADD, 0, residual=0),  # 3: of an input and itself
        Step(ADD, 2, activation=RELU),  # 4: only an activation
        Step(CONV, 4, cout=6, cin=6, format=DENSE, **halve),  # 5
        Step(MAX_POOL, 3, cout=6, cin=6, **halve),  # 6
        Step(ADD, 6, residual=5),  # 7
        Step(GLOBAL_AVERAGE, 7),  # 8
        Step(
            ADD, 8, activation=clamp(0.5, 1.0)
        ),  # 9: still [C, 1, 1], and 0.5 must not fill the halo
        Step(CONV, 9, cout=6, cin=6, kernel=(3, 3), pads=(1,) * 4, format=DENSE, constant=2),
        Step(FLATTEN, 10),
        Step(GEMM, 11, cout=6, cin=6, format=DENSE, activation=RELU),  # 12
        Step(ADD, 12, residual=11, activation=clamp(0.25, 2.0)),  # 13: of vectors
    ]
    constants = [weights(rng, (6, 6, 1, 1), 0.5), np.ones(6, np.float32)]
    constants += [weights(rng, (6, 6, 3, 3), 0.5), np.ones(6, np.float32)]
    program = Program(encode(steps, n_inputs=1, outputs=[2, 3, 7, 9, 13, 13]), constants)
    x = rng.standard_normal((2, 6, size, size)).astype(np.float32)
    check(program, [x], isa, threads=3)
    check(program, [with_specials(rng, x, n=1)], isa, threads=3)


def test_a_sum_by_hand() -> None:
    step = Step(ADD, 0, residual=1, activation=clamp(0.0, 6.0))
    program = Program(encode([step], n_inputs=2, outputs=[2]), [])
    for shape in ((1, 4), (1, 1, 2, 2), (1, 4, 1, 1)):
        x = np.array([1, -3, 5, 2], np.float32).reshape(shape)
        y = np.array([1, 1, 4, 0.5], np.float32).reshape(shape)
        for isa in (*ISAS, REFERENCE):
            (z,) = program.run([x, y], isa=isa)
            assert z.ravel().tolist() == [2.0, 0.0, 6.0, 2.5]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("isa", [*ISAS, REFERENCE])
def test_a_clamp_keeps_nan(isa: str) -> None:
    x = np.array([[NAN, INF, -INF, 1, -1]], np.float32)
    image = x.reshape(1, 5, 1, 1)
    relu6 = clamp(0.0, 6.0)
    diagonal = [np.eye(5, dtype=np.float32), np.zeros(5, np.float32)]
    everything = {"cout": 5, "cin": 5, "format": DENSE, "activation": relu6}
    # 0 x NaN is NaN, and so is 0 x infinity: even if a weight is not stored
    for step, constants, given, want in (
        (Step(ADD, 0, activation=relu6), [], x, [NAN, 6, 0, 1, 0]),
        (Step(ADD, 0, activation=relu6), [], image, [NAN, 6, 0, 1, 0]),
        (Step(CONV, 0, group=5, **everything), [np.ones(5, np.float32), diagonal[1]], image,
         [NAN, 6, 0, 1, 0]),
        (Step(GEMM, 0, **everything), diagonal, x, [NAN] * 5),
        (Step(CONV, 0, **everything), diagonal, image, [NAN] * 5),
    ):  # fmt: skip
        (y,) = Program(encode([step], n_inputs=1, outputs=[1]), constants).run([given], isa=isa)
        np.testing.assert_array_equal(y.ravel(), np.float32(want))


@pytest.mark.parametrize("isa", [*ISAS, REFERENCE])
def test_special_values_in_a_window(isa: str) -> None:
    """As ONNX Runtime on x86: NaN if the last value is, else the largest behind the last NaN."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("elsewhere NaN comes out wherever it is")
    square = {"cout": 1, "cin": 1, "kernel": (2, 2)}
    for window, largest, mean in (
        ([9, NAN, 2, 3], 3, NAN),
        ([9, 2, 3, NAN], NAN, NAN),
        ([-INF, -INF, -INF, -INF], -INF, -INF),
        ([INF, 1, 2, -INF], INF, NAN),
    ):
        x = np.float32(window).reshape(1, 1, 2, 2)
        for op, want in ((MAX_POOL, largest), (AVERAGE_POOL, mean)):
            (y,) = Program(encode([Step(op, 0, **square)], n_inputs=1, outputs=[1]), []).run(
                [x], isa=isa
            )
            np.testing.assert_array_equal(y.ravel(), np.float32([want]))


@pytest.mark.parametrize("isa", [*ISAS, REFERENCE])
@pytest.mark.parametrize("zero_point", [0, 128])
def test_quantized_special_values(isa: str, zero_point: int) -> None:
    """NaN and minus infinity become the lowest byte, infinity the highest, as in QuantizeLinear."""
    steps = [
        Step(ROUND, 0, scale=0.5, zero_point=zero_point),
        Step(CONV, 1, cout=5, cin=5, format=RICE),
    ]
    diagonal = Rice.encode(np.eye(5, dtype=np.float32).reshape(5, 5, 1, 1))
    constants = [*diagonal.arrays.values(), np.zeros(5, np.float32)]
    x = np.array([NAN, INF, -INF, 1, 2], np.float32).reshape(1, 5, 1, 1)
    (y,) = Program(encode(steps, n_inputs=1, outputs=[2]), constants).run([x], isa=isa)
    low, high = -zero_point / 2, (255 - zero_point) / 2
    np.testing.assert_allclose(y.ravel(), [low, high, low, 1, 2], rtol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("density", [0.02, 0.9])
@pytest.mark.parametrize("n", [1, 2, 5, 16, 17, 50, 230])
def test_many_rows(isa: str, n: int, density: float) -> None:
    """Linear layers on many rows, which skip zeros or multiply them, whichever costs less."""
    rng = np.random.default_rng(n)
    steps = [
        Step(GEMM, 0, cout=137, cin=80, format=DENSE, activation=RELU),
        Step(GEMM, 2, cout=80, cin=137, format=DENSE, constant=2, residual=0, activation=RELU),
        Step(ADD, 3, residual=0, activation=clamp(-1.0, 1.0)),
        Step(ADD, 4, residual=1),
    ]
    constants = [weights(rng, (137, 80), density), rng.standard_normal(137).astype(np.float32)]
    constants += [weights(rng, (80, 137), density), rng.standard_normal(80).astype(np.float32)]
    program = Program(encode(steps, n_inputs=2, outputs=[5, 2]), constants)
    inputs = [rng.standard_normal((n, 80)).astype(np.float32) for _ in range(2)]
    for threads in (1, 6):
        check(program, inputs, isa, threads)
    check(program, [with_specials(rng, x, n=1) for x in inputs], isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("density", [0.05, 0.9, 1.0])
@pytest.mark.parametrize("cin", [3, 40, 333])
def test_gemm(cin: int, density: float, isa: str) -> None:
    rng = np.random.default_rng(cin)
    step = Step(GEMM, 0, cout=37, cin=cin, format=DENSE)
    constants = [weights(rng, (37, cin), density), rng.standard_normal(37).astype(np.float32)]
    program = Program(encode([step], n_inputs=1, outputs=[1]), constants)
    for n in (1, 2, 19):
        check(program, [rng.standard_normal((n, cin)).astype(np.float32)], isa, threads=2)


def test_the_reference_is_torch_conv() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 11, 9)).astype(np.float32)
    w = weights(rng, (8, 3, 3, 2), 0.5)
    b = rng.standard_normal(8).astype(np.float32)
    step = Step(
        CONV,
        0,
        cout=8,
        cin=6,
        kernel=(3, 2),
        strides=(2, 1),
        dilations=(1, 2),
        pads=(1, 2, 1, 2),
        group=2,
        format=DENSE,
    )
    (got,) = Program(encode([step], n_inputs=1, outputs=[1]), [w, b]).run([x], isa=REFERENCE)
    want = torch.nn.functional.conv2d(
        *(torch.from_numpy(a) for a in (x, w, b)), (2, 1), (1, 2), (1, 2), 2
    )
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


GAP_CONV = Step(CONV, 0, cout=2, cin=2)
ONES2 = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("values", "gaps", "message"),
    [
        ([1, 2], [1, 4], "element 4 of a weight of 4"),
        ([1, 2], [0, 1], "gap 0 is 0"),
        ([1, 2], [1], "2 values but 1 gaps"),
        ([1] * 300, [255] * 300, "lead to element"),
    ],
)
def test_hostile_gaps(values: list[float], gaps: list[int], message: str) -> None:
    constants = [np.array(values, np.float32), np.array(gaps, np.uint8), ONES2]
    with pytest.raises(ModelFileError, match=message):
        Program(encode([GAP_CONV], n_inputs=1, outputs=[1]), constants)


def test_gaps_of_both_types_and_half_values() -> None:
    x = np.array([[3, 5]], np.float32).reshape(1, 2, 1, 1)
    for gap in (np.uint8, np.uint16):
        for value in (np.float32, np.float16):
            constants = [np.array([2, 0.5], value), np.array([2, 1], gap), ONES2]
            program = Program(encode([GAP_CONV], n_inputs=1, outputs=[1]), constants)
            for isa in (*ISAS, REFERENCE):
                (y,) = program.run([x], isa=isa)
                # W = [[0, 2], [0.5, 0]], bias 1
                assert y.ravel().tolist() == [11.0, 2.5]


@pytest.mark.parametrize(
    "change",
    [
        {"input": 1},
        {"input": -1},
        {"residual": 1},
        {"cout": 0},
        {"cin": 1 << 40},
        {"group": 3},
        {"kernel": (1 << 30, 1)},
        {"strides": (0, 1)},
        {"dilations": (1, -1)},
        {"pads": (-1, 0, 0, 0)},
        {"pads": (1 << 40, 0, 0, 0)},
        {"constant": 7},
        {"op": 99},
        {"format": 5},
        {"variant": (1, 0)},
        {"activation": Activation(kind=2)},
    ],
)
def test_hostile_program(change: dict[str, object]) -> None:
    step = dataclasses.replace(GAP_CONV, **change)
    constants = [ONES2, np.array([1, 1], np.uint8), ONES2]
    with pytest.raises(ModelFileError):
        Program(encode([step], n_inputs=1, outputs=[1]), constants)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step(MAX_POOL, 0, kernel=(3, 3), pads=(3, 0, 0, 0)), "padded by its whole kernel"),
        (Step(MAX_POOL, 0, kernel=(3, 3), dilations=(2, 1), pads=(1, 0, 0, 0)), "dilated and"),
        (Step(MAX_POOL, 0, residual=0), "only a Conv, an Add and a Gemm have a residual"),
        (Step(FLATTEN, 0, activation=clamp(0.0, 1.0)), "have an activation"),
        (Step(ADD, 0, residual=1), "a residual value is 1"),
        (Step(ADD, 0, residual=-2), "a residual value is -2"),
        # the kinds that Python knows are those that the library knows
        (Step(ROUND + 1, 0), "an operator is 9, not from 1 to 8"),
        (Step(CONV, 0, format=RICE + 1), "a weight format is 3, not from 0 to 2"),
        (Step(CONV, 0, activation=Activation(CLAMP + 1)), "an activation is 2, not from 0 to 1"),
    ],
)
def test_hostile_step(step: Step, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        Program(encode([step], n_inputs=1, outputs=[1]), [])


def test_padding_that_would_take_gigabytes() -> None:
    step = dataclasses.replace(GAP_CONV, pads=(1023, 1023, 1023, 1023))
    constants = [ONES2, np.array([1, 1], np.uint8), ONES2]
    program = Program(encode([step], n_inputs=1, outputs=[1]), constants)
    with pytest.raises(ModelFileError, match="a plane is too large"):
        program.run([np.zeros((1, step.cin, 4, 4), np.float32)], isa=ISAS[0])


def test_windows_larger_than_their_plane() -> None:
    one = [np.ones(1, np.float32), np.ones(1, np.uint8), ONES2]  # a single weight
    tall = dataclasses.replace(GAP_CONV, cin=128, kernel=(130, 1))
    program = Program(encode([tall], n_inputs=1, outputs=[1]), one)
    with pytest.raises(ModelFileError, match="a plane of 131 x 16 would take 643 times"):
        program.run([np.zeros((1, 128, 131, 16), np.float32)], isa=ISAS[0])


def test_sums_of_different_shapes() -> None:
    program = Program(encode([Step(ADD, 0, residual=1)], n_inputs=2, outputs=[2]), [])
    x = np.zeros((1, 4, 2, 2), np.float32)
    for other in ((1, 4, 2, 1), (1, 1, 2, 2), (1, 4), (1, 16)):
        with pytest.raises(ModelFileError, match="another shape"):
            program.run([x, np.zeros(other, np.float32)], isa=ISAS[0])


@pytest.mark.parametrize("isa", [*ISAS, REFERENCE])
def test_weights_that_only_meet_padding_may_be_anything(isa: str) -> None:
    w = np.full((1, 1, 3, 3), np.nan, np.float32)
    w[0, 0, 1, 1] = 2
    step = Step(CONV, 0, kernel=(3, 3), pads=(1,) * 4, format=DENSE)
    program = Program(encode([step], n_inputs=1, outputs=[1]), [w, ONES2[:1]])
    (y,) = program.run([np.full((1, 1, 1, 1), 3, np.float32)], isa=isa)
    assert y.ravel().tolist() == [7.0]


@pytest.mark.parametrize("isa", ISAS)
def test_sizes_that_share_taps_share_weights(isa: str) -> None:
    """Sizes that use all taps, and others that use few, in turn and from one program."""
    rng = np.random.default_rng(0)
    step = Step(CONV, 0, cout=8, cin=16, kernel=(3, 3), pads=(1,) * 4, format=DENSE)
    program = Program(
        encode([step], n_inputs=1, outputs=[1]),
        [weights(rng, (8, 16, 3, 3), 0.3), rng.standard_normal(8).astype(np.float32)],
    )
    # Sixteen sizes are remembered, so that the first ones are planned again.
    for size in [(1, 1), (1, 9), (9, 1), (4, 4), *((1, n) for n in range(2, 16)), (1, 1), (4, 1)]:
        check(program, [rng.standard_normal((1, 16, *size)).astype(np.float32)], isa)


def test_truncated_program() -> None:
    code = encode([GAP_CONV], n_inputs=1, outputs=[1])
    constants = [ONES2, np.array([1, 1], np.uint8), ONES2]
    for n in range(len(code)):
        with pytest.raises(ModelFileError):
            Program(code[:n] if n > 3 else [*code[:n], *[0] * (4 - n)], constants)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 2, 0, 4), (1, 2, 1 << 21, 1)])
def test_wrong_input_shape(shape: tuple[int, ...]) -> None:
    constants = [ONES2, np.array([1, 1], np.uint8), ONES2]
    program = Program(encode([GAP_CONV], n_inputs=1, outputs=[1]), constants)
    with pytest.raises(ModelFileError):
        program.run([np.zeros(shape, np.float32)], isa=ISAS[0])


def test_tuning_keeps_the_result() -> None:
    rng = np.random.default_rng(0)
    step = Step(CONV, 0, cout=16, cin=16, kernel=(3, 3), pads=(1,) * 4, format=DENSE)
    constants = [weights(rng, (16, 16, 3, 3), 0.1), np.zeros(16, np.float32)]
    program = Program(encode([step], n_inputs=1, outputs=[1]), constants)
    ((variant, blocks),) = program.tune([(16, 28, 28)], isa=ISAS[0], seconds=0.05)
    assert variant >= 0
    assert blocks >= 1
    check(program, [rng.standard_normal((1, 16, 28, 28)).astype(np.float32)], ISAS[0])
