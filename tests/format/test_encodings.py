"""Each encoding and the choice among them, first on values small enough to verify by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.choice import choose, entropy_bound_bytes
from fggp_deploy.format.encodings import Bitmask, Gaps
from fggp_deploy.format.encodings.checks import MAX_ELEMENTS
from fggp_deploy.format.encodings.csr import Csr
from fggp_deploy.format.encodings.gaps import GAP_TYPES

F = np.float32


def test_gaps_count_from_the_previous_value():
    g = Gaps.encode(np.array([[0, 0, 5], [0, 0, 7]], F), gap_type=np.uint8)
    assert g.gaps.tolist() == [3, 3]
    assert g.values.tolist() == [5, 7]
    assert g.decode().tolist() == [[0, 0, 5], [0, 0, 7]]


@pytest.mark.parametrize(
    ("index", "gaps", "values"),
    [
        (254, [255], [1]),
        (255, [255, 1], [0, 1]),
        (509, [255, 255], [0, 1]),
        (510, [255, 255, 1], [0, 0, 1]),
    ],
)
def test_a_gap_too_large_is_bridged_by_explicit_zeros(index, gaps, values):
    w = np.zeros(600, F)
    w[index] = 1
    g = Gaps.encode(w, gap_type=np.uint8)
    assert g.gaps.tolist() == gaps
    assert g.values.tolist() == values
    assert g.nnz == 1
    assert np.array_equal(g.decode(), w)


def test_gaps16_bridge_at_65535():
    w = np.zeros(70_000, F)
    w[65_535] = 2
    assert Gaps.encode(w, gap_type=np.uint16).gaps.tolist() == [65_535, 1]


def test_bits_are_little_endian():
    b = Bitmask.encode(np.array([4, 0, 0, 0, 0, 0, 0, 5, 0, 6], F))
    assert b.bits.tolist() == [0b10000001, 0b10]
    assert b.values.tolist() == [4, 5, 6]


def test_csr_is_that_of_a_textbook():
    c = Csr.encode(np.array([[0, 1, 0], [0, 0, 0], [2, 0, 3]], F))
    assert c.indptr.tolist() == [0, 1, 1, 3]
    assert c.indices.tolist() == [1, 0, 2]
    assert c.data.tolist() == [1, 2, 3]


def test_all_zero_is_one_explicit_zero():
    w = np.zeros((4, 4), F)
    assert Gaps.encode(w, gap_type=np.uint8).gaps.tolist() == [1]
    assert Bitmask.encode(w).bits.tolist() == [1, 0]
    for packed in (Gaps.encode(w, gap_type=np.uint8), Bitmask.encode(w), Csr.encode(w)):
        assert packed.nnz == 0
        assert np.array_equal(packed.decode(), w)


def test_negative_zero_becomes_zero():
    assert not np.signbit(Gaps.encode(np.array([-0.0, 1], F), gap_type=np.uint8).decode()).any()


WEIGHTS = hnp.arrays(
    F,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=40),
    elements=st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.5, -2.25, 1e-40, 3e38]),
    fill=st.just(0.0),
)


def in_both_gap_types(w: np.ndarray) -> list[Gaps]:
    return [Gaps.encode(w, gap_type=t) for t in GAP_TYPES]


@settings(deadline=None)
@given(WEIGHTS)
def test_every_encoding_round_trips(w):
    for packed in (
        Gaps.encode(w, gap_type=np.uint8),
        Gaps.encode(w, gap_type=np.uint16),
        Bitmask.encode(w),
        Csr.encode(w),
    ):
        assert packed.decode().tobytes() == w.tobytes()
        assert packed.nnz == np.count_nonzero(w)


@settings(deadline=None)
@given(WEIGHTS)
def test_choose_never_grows_a_weight_and_takes_the_smallest(w):
    packed = choose(w)
    every = [
        Gaps.encode(w, gap_type=np.uint8),
        Gaps.encode(w, gap_type=np.uint16),
        Bitmask.encode(w),
    ]
    smallest = min(p.stored_bytes for p in every)
    if packed is None:
        assert smallest + 256 >= w.nbytes
    else:
        assert packed.stored_bytes == smallest < w.nbytes


@pytest.mark.parametrize(
    ("density", "encoding"),
    [(0.9, "bitmask"), (0.5, "bitmask"), (0.05, "gaps8"), (0.001, "gaps16")],
)
def test_density_decides(density, encoding):
    w = (np.random.default_rng(0).random((500, 500)) < density).astype(F)
    packed = choose(w)
    assert packed is not None
    assert packed.name == encoding


@settings(deadline=None)
@given(WEIGHTS.filter(lambda w: np.abs(w).max() < 60_000))
def test_half_values_cost_half_and_round_to_nearest(w):
    full, half = choose(w), choose(w, values=np.float16)
    if half is None:
        assert full is None
        return
    assert half.values.dtype == np.float16
    assert full is None or half.stored_bytes < full.stored_bytes
    assert np.array_equal(half.decode(), w.astype(np.float16).astype(F))


def test_dense_and_tiny_stay_dense():
    assert choose(np.ones((100, 100), F)) is None
    assert choose(np.zeros((4, 4), F)) is None


def test_bound_of_one_in_four_is_two_bits_and_a_float():
    assert entropy_bound_bytes(np.array([0, 1, 0, 0], F)) == 2 / 8 + 4
    assert entropy_bound_bytes(np.zeros(9, F)) == 0


def test_gaps_are_within_ten_percent_of_the_bound_at_90_to_99():
    rng = np.random.default_rng(0)
    for density in (0.1, 0.05, 0.02, 0.01):
        w = (rng.random((1000, 1000)) < density).astype(F)
        packed = choose(w)
        assert packed is not None
        assert packed.stored_bytes < 1.1 * entropy_bound_bytes(w)


def test_float16_values_decode_to_float32():
    g = Gaps(np.array([0.5], np.float16), np.array([2], np.uint8), (3,))
    assert g.decode().dtype == F
    assert g.decode().tolist() == [0, 0.5, 0]


V = np.ones(2, F)
HOSTILE = {
    "gap_zero": lambda: Gaps(V, np.array([1, 0], np.uint8), (4,)),
    "gaps_past_end": lambda: Gaps(V, np.array([3, 2], np.uint8), (4,)),
    "gaps_sum_wraps_uint8": lambda: Gaps(V, np.array([255, 2], np.uint8), (4,)),
    "gaps_type": lambda: Gaps(V, np.array([1, 1], np.int8), (4,)),
    "gaps_length": lambda: Gaps(V, np.array([1], np.uint8), (4,)),
    "gaps_empty": lambda: Gaps(V[:0], np.array([], np.uint8), (4,)),
    "more_values_than_elements": lambda: Gaps(V, np.array([1, 1], np.uint8), (1,)),
    "values_type": lambda: Gaps(V.astype(float), np.array([1, 1], np.uint8), (4,)),
    "negative_side": lambda: Gaps(V, np.array([1, 1], np.uint8), (-2, -2)),
    "no_sides": lambda: Gaps(V[:1], np.array([1], np.uint8), ()),
    "huge_side": lambda: Gaps(V, np.array([1, 1], np.uint8), (2**62, 4)),
    "huge_product": lambda: Gaps(V, np.array([1, 1], np.uint8), (2**20, 2**20)),
    "bits_past_end": lambda: Bitmask(V, np.array([0b10001], np.uint8), (4,)),
    "bits_length": lambda: Bitmask(V, np.array([3, 0], np.uint8), (4,)),
    "bits_count": lambda: Bitmask(V, np.array([0b111], np.uint8), (4,)),
    "csr_column": lambda: csr([0, 3], [0, 1, 2]),
    "csr_negative": lambda: csr([-1, 0], [0, 1, 2]),
    "csr_unsorted": lambda: csr([1, 0], [0, 2, 2]),
    "csr_twice": lambda: csr([1, 1], [0, 2, 2]),
    "csr_falls": lambda: csr([0, 1], [0, 2, 1]),
    "csr_start": lambda: csr([0, 1], [1, 1, 2]),
    "csr_rows": lambda: csr([0, 1], [0, 2]),
}


def csr(indices, indptr) -> Csr:
    return Csr(V, np.array(indices, np.int32), np.array(indptr, np.int32), (2, 3))


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case):
    with pytest.raises(ModelFileError):
        HOSTILE[case]()


def test_limit_is_what_protobuf_could_hold():
    assert MAX_ELEMENTS * 4 == 2**31
    assert math.prod((2**20, 2**20)) > MAX_ELEMENTS
