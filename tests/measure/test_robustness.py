"""Noise, corruptions and excess error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats

from fggp_deploy.data.types import Preprocessing, Split
from fggp_deploy.errors import ConfigError, DataError, UnknownName
from fggp_deploy.measure import corruptions
from fggp_deploy.measure.corruption_sources import BENCHMARK
from fggp_deploy.measure.noise import noisy
from fggp_deploy.measure.robustness import EPSILONS, EXTENTS, robustness
from fggp_deploy.measure.statistics import excess_interval

PLAIN = Preprocessing(16, 16, (0.0,) * 3, (1.0,) * 3)


class Brightness:
    """Class 1 if the mean pixel is above `limit`: noise does not change it, brightness does."""

    name = "brightness"

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def logits(self, x):
        y = 50 * (x.mean((1, 2, 3)) - self.limit)
        return np.stack([np.zeros(len(x)), y], axis=1).astype(np.float32)


def photographs(n: int = 40, side: int = 16, channels: int = 3) -> np.ndarray:
    """Smooth pictures with an edge, mean about 0.3."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 110, side)[None, :, None, None] + np.zeros((n, side, side, channels))
    ramp[:, :, side // 2 :] += rng.integers(0, 60, (n, 1, 1, channels))
    return ramp.astype(np.uint8)


def textured(n: int = 12) -> np.ndarray:
    """Pictures of 32 pixels with detail at every scale, as photographs have."""
    rng = np.random.default_rng(0)
    shape = (n, 32, 32, 3)
    scales = (
        ndimage.gaussian_filter(rng.standard_normal(shape), (0, s, s, 0)) for s in (0.7, 2, 6)
    )
    total = sum(layer / layer.std() for layer in scales)
    return np.clip(128 + 30 * total, 0, 255).astype(np.uint8)


def test_noise_is_the_formula():
    x = np.zeros((64, 3, 16, 16), np.float32)
    u = np.random.default_rng(3).random(x.shape, dtype=np.float32)
    got = noisy(x, 0.7, np.random.default_rng(3))
    np.testing.assert_allclose(got, 2 * 0.7 * (u - 0.5), atol=1e-6)
    assert np.abs(got).max() <= 0.7
    assert got.std() == pytest.approx(2 * 0.7 / np.sqrt(12), rel=0.01)
    np.testing.assert_array_equal(noisy(x, 0.0, np.random.default_rng(3)), x)


@pytest.mark.parametrize("kind", corruptions.kinds(3))
def test_each_corruption_is_an_image_and_grows(kind):
    images = textured()
    away = []
    for severity in corruptions.SEVERITIES:
        got = corruptions.corrupt(images, kind, severity, np.random.default_rng(0))
        again = corruptions.corrupt(images, kind, severity, np.random.default_rng(0))
        assert (got.dtype, got.shape) == (np.uint8, images.shape)
        np.testing.assert_array_equal(got, again)
        away.append(np.abs(got.astype(float) - images).mean())
    assert away[0] > 0
    assert away[-1] > 1.2 * away[0]


def test_gray_images_have_all_but_saturation():
    gray = photographs(channels=1)
    assert set(corruptions.kinds(3)) - set(corruptions.kinds(1)) == {"saturate"}
    for kind in corruptions.kinds(1):
        assert corruptions.corrupt(gray, kind, 3, np.random.default_rng(0)).shape == gray.shape
    with pytest.raises(ConfigError, match="saturate"):
        corruptions.corrupt(gray, "saturate", 1, np.random.default_rng(0))
    with pytest.raises(ConfigError):
        corruptions.corrupt(gray, "gauss", 6, np.random.default_rng(0))


def test_simple_corruptions_by_hand():
    images = np.full((1, 4, 4, 3), 100, np.uint8)
    images[0, 0, 0] = 200
    rng = np.random.default_rng(0)
    brighter = corruptions.corrupt(images, "brightness", 2, rng)
    assert brighter[0, 1, 1, 0] == round(100 + 0.1 * 255)
    flatter = corruptions.corrupt(images, "contrast", 5, rng)
    mean = (15 * 100 + 200) / 16
    assert flatter[0, 1, 1, 0] == round(mean + 0.15 * (100 - mean))
    wide = np.zeros((1, 32, 32, 1), np.uint8)
    wide[0, 16, 16] = 255
    spread = corruptions.corrupt(wide, "defocus", 5, rng)
    assert spread[0, 16, 14:19, 0].min() > 0
    assert spread[0, 16, 12, 0] == 0  # a disc of two pixels
    assert abs(int(spread.sum()) - 255) < 15


def test_excess_error_by_hand_and_by_scipy():
    each = np.repeat([2, 1, 0, -1, -2], [3, 30, 150, 15, 2])
    low, high = excess_interval(each)
    scipys = stats.bootstrap(
        (each,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=0.01)
    assert excess_interval(np.zeros(10, np.int64)) == (0, 0)


def test_a_network_that_light_upsets_has_excess_error():
    images = photographs(100)
    split = Split(images, np.zeros(100, np.int64))
    # all are class 0 for both; the first flips with a little light, the second never
    found = robustness(Brightness(0.48), Brightness(2.0), split, PLAIN, extent="quick")
    by_kind = {k.kind: k for k in found.kinds}
    light = by_kind["brightness"]
    assert found.model_error.k == found.reference_error.k == 0
    assert light.excess_points > 50
    assert light.excess_low > 0
    assert by_kind["contrast"].excess_points == 0
    (shift,) = [s for s in found.shifts if s.kind == "brightness"]
    assert shift.excess_points == pytest.approx(100 * shift.model_error.value)
    mean = np.mean([s.excess_points for s in found.shifts])
    assert found.excess_points == pytest.approx(mean)
    assert [v.epsilon for v in found.noise] == [0.0, 0.2, 0.4, 0.6]
    assert found.noise[0].agreement.value == 1


def test_images_sorted_by_class_are_taken_from_every_class():
    images = np.zeros((1200, 16, 16, 3), np.uint8)
    images[600:] = 200
    split = Split(images, np.repeat([0, 1], 600))
    always_0 = Brightness(2.0)
    found = robustness(always_0, always_0, split, PLAIN, extent="quick")
    assert found.model_error.value == 0.5


def test_a_network_against_itself_has_none():
    split = Split(photographs(30), np.zeros(30, np.int64))
    net = Brightness(0.4)
    found = robustness(net, net, split, PLAIN, extent="quick")
    assert found.excess_points == found.excess_low == found.excess_high == 0
    assert all(v.agreement.value == 1 and v.softmax_distance == 0 for v in found.noise)


def test_quick_takes_fewer_of_large_images():
    quick, full = EXTENTS["quick"], EXTENTS["full"]
    assert [quick.n_images(side, side) for side in (28, 64, 128, 224)] == [500, 500, 125, 64]
    assert full.n_images(224, 224) == 2000
    assert full.epsilons == EPSILONS


def test_progress_counts_every_image_that_a_network_sees():
    split = Split(photographs(30), np.zeros(30, np.int64))
    calls: list[tuple[int, int]] = []
    net = Brightness(0.4)
    robustness(net, net, split, PLAIN, extent="quick", progress=lambda *at: calls.append(at))
    n_passes = 2 * (4 + 1 + len(corruptions.kinds(3)))  # noise, as they are, corruptions
    assert calls == [(30 * i, 30 * n_passes) for i in range(1, n_passes + 1)]


def published(folder: Path, n: int = 8) -> tuple[Path, Split]:
    """A folder like CIFAR-10-C of `n` black images: severity s of a corruption has the value 40·s.

    Fog alone leaves the images black.
    """
    split = Split(np.zeros((n, 16, 16, 3), np.uint8), np.arange(n, dtype=np.int64) % 2)
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(split.labels, 5))
    values = np.repeat(np.arange(40, 201, 40), n).astype(np.uint8)
    for kind in BENCHMARK:
        light = np.zeros_like(values) if kind == "fog" else values
        images = np.broadcast_to(light[:, None, None, None], (5 * n, 16, 16, 3))
        np.save(folder / f"{kind}.npy", images)
    return folder, split


def test_published_corruptions_by_hand(tmp_path):
    folder, split = published(tmp_path / "CIFAR-10-C")
    # says class 1 from severity 4 on (160/255 > 0.6): half of the images are of either class
    model, dense = Brightness(0.6), Brightness(2.0)
    found = robustness(model, dense, split, PLAIN, extent="full", published=folder)
    assert (found.source, found.n, len(found.shifts)) == ("CIFAR-10-C", 8, 15 * 5)
    assert [k.kind for k in found.kinds] == list(BENCHMARK)
    assert found.mean_error == found.mean_reference_error == 0.5
    ones = Split(split.images, np.zeros(8, np.int64))
    np.save(folder / "labels.npy", np.zeros(40, np.int64))
    found = robustness(model, dense, ones, PLAIN, extent="full", published=folder)
    assert found.mean_error == pytest.approx(14 / 15 * 2 / 5)
    assert found.mean_reference_error == 0
    wrong = {(s.kind, s.severity) for s in found.shifts if s.model_error.k}
    assert wrong == {(k, s) for k in BENCHMARK if k != "fog" for s in (4, 5)}
    quick = robustness(model, dense, ones, PLAIN, extent="quick", published=folder)
    assert {s.severity for s in quick.shifts} == {3}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "snow.npy").unlink(), "snow.npy is missing; --corruptions needs a folder"),
        (lambda f: (f / "snow.npy").write_bytes(b"PK"), "snow.npy is damaged"),
        (lambda f: np.save(f / "snow.npy", np.zeros((40, 16, 16), np.uint8)), "has the shape"),
        (lambda f: np.save(f / "snow.npy", np.zeros((40, 16, 16, 3))), "type float64"),
        (lambda f: np.save(f / "labels.npy", np.zeros(40, np.int64)), "other labels than the test"),
        (lambda f: np.save(f / "labels.npy", np.array([{}] * 40)), "labels.npy is damaged"),
    ],
)
def test_published_corruptions_of_other_images_are_refused(tmp_path, damage, says):
    folder, split = published(tmp_path / "c")
    damage(folder)
    net = Brightness(0.6)
    with pytest.raises(DataError, match=says):
        robustness(net, net, split, PLAIN, extent="quick", published=folder)


def test_an_unknown_extent_names_those_there_are():
    split = Split(photographs(2), np.zeros(2, np.int64))
    with pytest.raises(UnknownName, match="full, quick"):
        robustness(Brightness(1), Brightness(1), split, PLAIN, extent="all")
