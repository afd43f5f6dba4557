from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from fggp_deploy.errors import ConfigError, ResumeRefused, UnknownName
from fggp_deploy.training import recipes
from fggp_deploy.training.config import PruneConfig, TrainConfig
from fggp_deploy.training.recipes import RECIPES, recipe_values, resolve

FOLDER = Path(recipes.__file__).parent


def write(path: Path, **values: object) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_every_recipe_in_the_package_is_valid_by_its_schema():
    assert sorted(p.stem for p in FOLDER.glob("*.yaml")) == sorted(RECIPES)
    for name in RECIPES:
        values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        jsonschema.validate(values, PruneConfig.schema())
        config = resolve(PruneConfig, recipe=name, explicit={})
        assert config.recipe == name
        assert all(getattr(config, key) == value for key, value in values.items())


def test_the_schema_in_the_package_is_that_of_the_options():
    assert json.loads((FOLDER / "schema.json").read_text()) == PruneConfig.schema()
    jsonschema.Draft202012Validator.check_schema(PruneConfig.schema())


def test_every_default_is_valid_by_the_schema():
    for kind in (TrainConfig, PruneConfig):
        jsonschema.validate(kind().to_dict(), kind.schema())


@pytest.mark.parametrize(
    ("key", "value"),
    [("lr", 0), ("target", 1), ("target", [0.5, 0]), ("epochs", 1.5), ("method", 3),
     ("lr_schedule", "cosin"), ("keep_dense", "fc"), ("mean", 0.5), ("compile", 1),
     ("seed", None), ("unknown", 1)],
)  # fmt: skip
def test_the_schema_and_the_reader_refuse_the_same(tmp_path: Path, key: str, value: object):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({key: value}, PruneConfig.schema())
    with pytest.raises(ConfigError):
        resolve(PruneConfig, file=write(tmp_path / "c.yaml", **{key: value}), explicit={})


def test_paper_is_what_the_methods_default_to():
    paper = resolve(PruneConfig, recipe="paper", explicit={})
    assert (paper.epochs, paper.lr, paper.lr_schedule, paper.updates) == (160, 0.1, "step", 50)
    assert (paper.momentum, paper.weight_decay, paper.rate) == (0.9, 5e-4, 0.5)
    assert (paper.distill, paper.label_smoothing, paper.ema, paper.bn_images) == (0, 0, 0, 0)


def test_the_authors_later_code_differs_from_the_paper_in_two_options():
    paper, later = (vars(resolve(PruneConfig, recipe=r, explicit={})) for r in RECIPES[-2:])
    changed = {k: (paper[k], later[k]) for k in paper if paper[k] != later[k]}
    assert changed == {
        "recipe": ("paper", "paper-2026"), "batch_size": (128, 64), "label_smoothing": (0, 0.1)
    }  # fmt: skip


def test_later_layers_win(tmp_path: Path):
    fast = recipe_values("fast", PruneConfig)
    file = write(tmp_path / "my.yaml", epochs=3, lr=0.5, seed=7)
    config = resolve(
        PruneConfig, recipe="fast", file=file, settings=["lr=1e-3", "seed=8"], explicit={"seed": 9}
    )
    assert config.batch_size == fast["batch_size"]  # recipe over defaults
    assert config.epochs == 3  # file over recipe
    assert config.lr == 1e-3  # --set over file, though YAML 1.1 reads 1e-3 as a text
    assert config.seed == 9  # an option over all
    assert config.momentum == PruneConfig.momentum


def test_a_runs_own_config_repeats_it(tmp_path: Path):
    first = resolve(
        PruneConfig, recipe="best",
        explicit={"target": (0.9, 0.95), "checkpoint": Path("a.pt"), "keep_dense": ("fc.*",)},
    )  # fmt: skip
    file = write(tmp_path / "config.yaml", **first.to_dict())
    assert resolve(PruneConfig, file=file, explicit={}) == first


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"epoch": 3}, r"unknown key in c\.yaml 'epoch'; did you mean 'epochs'\?"),
        ({"epochs": "many"}, r"c\.yaml: --epochs must be a whole number, got 'many'"),
        ({"epochs": True}, r"--epochs must be a whole number, got True"),
        ({"lr": -1}, r"--lr must be above 0, got -1"),
        ({"rate": 1.5}, r"--rate must be in \(0, 1\], got 1\.5"),
        ({"precision": "bf61"}, r"unknown precision 'bf61'; did you mean 'bf16'\?"),
        ({"keep_dense": "fc"}, r"--keep-dense must be a list, each entry a text, got 'fc'"),
        ({"target": [0.9, 0.8]}, r"several values of --target must be given in increasing order"),
        ({"recipe": "bets"}, r"unknown recipe 'bets'; did you mean 'best'\?"),
    ],
)
def test_errors_name_the_key_the_rule_and_the_nearest(
    tmp_path: Path, monkeypatch, values: dict, says: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        resolve(PruneConfig, file=write(Path("c.yaml"), **values), explicit={})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- 1\n- 2", "must map keys to values"),
        ("a: [", "cannot be read as YAML"),
        ("!!python/object/apply:os.system [true]", "cannot be read as YAML"),
        ("", "must map keys to values"),
    ],
)
def test_hostile_files(tmp_path: Path, text: str, says: str):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        resolve(PruneConfig, file=tmp_path / "c.yaml", explicit={})
    with pytest.raises(ConfigError, match="does not exist"):
        resolve(PruneConfig, file=tmp_path / "none.yaml", explicit={})


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("lr", "--set takes key=value"),
        ("lrr=1", "did you mean 'lr'"),
        ("lr=[", "cannot be read as YAML"),
    ],
)
def test_wrong_settings(setting: str, says: str):
    with pytest.raises(ConfigError, match=says):
        resolve(PruneConfig, settings=[setting], explicit={})


def test_an_unknown_recipe():
    with pytest.raises(
        UnknownName, match="unknown recipe 'quick'; known: best, fast, paper, paper-2026"
    ):
        resolve(PruneConfig, recipe="quick", explicit={})


def test_a_run_that_is_named_again_keeps_its_options(tmp_path: Path):
    write(tmp_path / "config.yaml", **PruneConfig(lr=0.3, recipe="fast").to_dict())
    again = resolve(PruneConfig, explicit={"save_every": 1.0}, out=tmp_path)
    assert (again.lr, again.recipe, again.save_every) == (0.3, "fast", 1.0)
    assert resolve(PruneConfig, explicit={"lr": 0.3}, out=tmp_path).lr == 0.3
    with pytest.raises(ResumeRefused, match=r"lr is 0\.3 in that run, 0\.4 now"):
        resolve(PruneConfig, explicit={"lr": 0.4}, out=tmp_path)
    with pytest.raises(ResumeRefused, match="epochs is 10 in that run"):
        resolve(PruneConfig, recipe="best", explicit={}, out=tmp_path)
