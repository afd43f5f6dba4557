"""Every method by its name in a plain training loop."""

from __future__ import annotations

import pytest
from loops import batch, make, sgd, steps

from fggp_deploy import FGGP, Cubic, Pruner
from fggp_deploy.errors import ConfigError, UnknownName
from fggp_deploy.pruning import methods

BATCHES = [batch(0), batch(1)]


@pytest.mark.filterwarnings("ignore:update at step")
@pytest.mark.parametrize("name", methods.BUILT_IN)
def test_every_method_meets_the_target(name: str):
    net = make()
    method = methods.make(name, 0.5, steps=10, batches=BATCHES)
    pruner = Pruner(net, method, optimizer=sgd(net))
    steps(net, pruner, 10)
    masks = pruner.finish()
    assert masks.n_removed == 164
    assert all(not net.get_parameter(n)[~m].any() for n, m in masks.items())


@pytest.mark.parametrize("name", methods.without_training())
def test_some_need_no_step(name: str):
    method = methods.make(name, 0.5, batches=BATCHES, ridge=0.1)
    assert Pruner(make(), method, optimizer=None).finish().n_removed == 164


def test_it_is_what_the_classes_make():
    digests = []
    for by_name in (True, False):
        net = make()
        if by_name:
            given = (methods.make("fggp", 0.8, steps=8, updates=3, rate=0.7),)
        else:
            given = FGGP(0.7), Cubic(0.8, steps=8, updates=3)
        pruner = Pruner(net, *given, optimizer=sgd(net))
        steps(net, pruner, 8)
        digests.append(pruner.finish().digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("gmp", {}, "gmp needs training: `steps` must be at least 1, got 0"),
        ("gmp", {"steps": 9, "rate": 0.3}, "gmp does not read rate; leave it out"),
        ("greg-1", {"steps": 9, "updates": 7}, "greg-1 does not read updates"),
        ("rigl", {"steps": 9, "regrow": 2}, r"method-set regrow must be in \[0, 1\], got 2"),
        ("rigl", {"steps": 9, "grow": 0.2}, "unknown option of --method rigl 'grow'; did you mean"),
        (
            "synflow",
            {"steps": 9},
            "SynFlow needs the shape of an image; give `input_shape` or a batch",
        ),
        (
            "greg-1",
            {"steps": 9, "granularity": "filter"},
            "granularity filter needs the shape of an im",
        ),
    ],
)
def test_what_does_not_fit_is_an_error(name: str, values: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        methods.make(name, 0.5, **values)
    with pytest.raises(UnknownName, match="did you mean 'rigl'"):
        methods.make("rigel", 0.5, steps=9)
