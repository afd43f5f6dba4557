"""The configurations of `train` and `prune`. Each option is one field, and checked when made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fggp_deploy.common.option_rules import option, setting, with_default
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import ALLOCATIONS, MIN_LAYER_DENSITY
from fggp_deploy.pruning.patterns import PATTERNS
from fggp_deploy.training.settings import (
    AveragingSettings,
    ExecutionSettings,
    InputSettings,
    OptimizerSettings,
    PrunableSettings,
)

if TYPE_CHECKING:
    from fggp_deploy.pruning.methods import MethodInfo, Options

DEFAULT_TARGET = 0.98
_TRAIN_ONLY = {
    "sparsity": "give --target",
    "allocation": "give --method-set allocation, if the method has it",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    InputSettings, OptimizerSettings, AveragingSettings, PrunableSettings, ExecutionSettings
):
    """How to train a network: SGD with Nesterov momentum, one cycle of the learning rate, a seed.

    `sparsity` > 0 trains under a fixed random mask of that sparsity, which `allocation` spreads
    over the layers. Raises ConfigError.
    """

    prunes: ClassVar[bool] = False

    sparsity: float = setting(
        0.0,
        "Train under a fixed random mask of this sparsity; 0 is dense.",
        least=0,
        below=1,
        commands=("train",),
    )
    allocation: str = setting(
        "erk",
        "How the random mask is spread over the layers: erk or uniform.",
        choices=tuple(ALLOCATIONS),
        commands=("train",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_epochs()

    def _check_epochs(self) -> None:
        if self.epochs == 0:
            raise ConfigError("--epochs must be at least 1 to train, got 0")

    @property
    def targets(self) -> tuple[float, ...]:
        """The sparsities at which the run keeps a network, in increasing order."""
        return (self.sparsity,)


@dataclass(frozen=True, kw_only=True)
class PruneConfig(TrainConfig):
    """How to prune a trained network while fine-tuning it.

    Without checkpoint and weights, the run starts from the network that the package ships.
    `method_set` holds the method's own options; those at their default are left out. `start` is
    None for the method's usual start. `updates` and `rate`: see Cubic and FGGP; `pattern`: see
    Gradual; `int8_aware`: see training.rounding. `distill` is the weight of the dense model's soft
    labels in the loss (Hinton et al. 2015, arXiv 1503.02531, temperature 2). `densities` is the
    share of its weights that each layer keeps at the target, in place of the method's own choice,
    and `target_latency` the milliseconds for which they were chosen.
    """

    prunes: ClassVar[bool] = True

    target: float | tuple[float, ...] = setting(
        DEFAULT_TARGET,
        "Fraction of prunable weights to remove, in (0, 1). With several, such as 0.90,0.95,0.98, "
        "one run keeps a network at each, with nested masks. The option may be repeated.",
        many=True,
        single=True,
        above=0,
        below=1,
        hint="0.98 means 98% of weights removed",
    )
    target_latency: float | None = setting(
        None,
        "Milliseconds per image on one thread of this machine, in place of --target. Each layer's "
        "density is chosen by its measured cost on the sparse kernels.",
        kind=float,
        metavar="MS",
        above=0,
    )
    recipe: str | None = setting(
        None,
        "fast (15 epochs from a trained network), best (accuracy before time), paper (160 epochs "
        "as published) or paper-2026 (the authors' later code). Other options override its values.",
        kind=str,
    )
    method: str = setting("fggp", "Pruning method; `fggp-deploy methods` lists them.")
    method_set: Mapping[str, Any] = setting(
        {},
        "An option of the method; `fggp-deploy methods NAME` lists them.",
        metavar="KEY=VALUE",
    )
    start: str | None = setting(
        None,
        "Start from trained or from random weights. Default: the start that the method was "
        "designed for.",
        kind=str,
        choices=("trained", "random"),
    )
    updates: int = setting(
        50, "Mask updates, in the first 80% of the run (of each target's part of it).", least=1
    )
    rate: float = setting(
        0.5,
        "FGGP and its variants: share of the alive weights that the first ranking preselects.",
        above=0,
        most=1,
    )
    pattern: str | None = setting(
        None,
        "Remove blocks of input channels together: 1x4 removes four neighboring inputs of an "
        "output at a kernel position, which an int8 dot product reads at once. One of "
        f"{', '.join(PATTERNS)}. Default: single weights.",
        kind=str,
        choices=tuple(PATTERNS),
    )
    min_layer_density: float = setting(
        MIN_LAYER_DENSITY,
        "Smallest share of the weights that each layer keeps. Each layer also keeps at least one "
        "weight per output. 0 allows layers without weights.",
        least=0,
        below=1,
    )
    int8_aware: bool = setting(
        False,
        "After the last mask update, round the weights as `export --values int8` does, so that "
        "the network adapts to the rounding.",
    )
    distill: float = setting(
        0.9, "Weight of the dense model's soft labels in the loss, 0 to 1.", least=0, most=1
    )
    densities: Mapping[str, float] = setting(
        {},
        "Share of the weights that a layer keeps at the target, per weight name. Layers that are "
        "not named stay dense. --target-latency writes this key into config.yaml.",
        commands=(),
    )
    lr: float = with_default(OptimizerSettings, "lr", 0.05)
    batch_size: int = with_default(OptimizerSettings, "batch_size", 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targets or sorted(set(self.targets)) != list(self.targets):
            raise ConfigError(
                "several values of --target must be given in increasing order, got "
                f"{list(self.targets)}"
            )
        info, options = self.method_info, self.method_options
        defaults = info.options.defaults()
        given = {k: v for k, v in vars(options).items() if v != defaults[k]}
        object.__setattr__(self, "method_set", given)
        self._check_densities(info)
        self._check_pattern(info)
        most = 1 - self.targets[-1]
        if self.min_layer_density > max(most, MIN_LAYER_DENSITY) + 1e-9:
            raise ConfigError(
                f"--min-layer-density {self.min_layer_density:g} is more than the share of the "
                f"weights that --target {self.targets[-1]:g} keeps; give at most {most:.6g}"
            )
        if len(self.targets) > 1 and not info.several_targets:
            from fggp_deploy.pruning import methods

            raise ConfigError(
                f"--method {self.method} makes one network per run, got {len(self.targets)} "
                "targets: its mask for a higher target does not extend the one for a lower "
                f"target; give one --target, or --method {', '.join(methods.with_targets())}"
            )
        if (self.ema or self.average_epochs) and (ties := info.ties(options)):
            name = option("ema" if self.ema else "average_epochs")
            raise ConfigError(
                f"{name} averages weights over many steps, but the weights of --method "
                f"{self.method} {ties} and their average would not; leave {name} out"
            )
        if self.start == "random" or (self.start == "trained" and info.starts == ("random",)):
            info.refuse_start(self.method, "random" if self.start == "random" else "dense")

    def refuse_unread(self, given: Collection[str]) -> None:
        """Raise ConfigError if an option that the user gave would change nothing.

        It does not check the values themselves: a recipe or an earlier run may hold such options.
        """
        for name in ("rate", "updates"):
            if name in given and name not in self.method_info.reads:
                raise ConfigError(
                    f"--method {self.method} has no use for --{name}; leave it out (`fggp-deploy "
                    f"methods {self.method}` shows which options it uses)"
                )
        for name, cure in _TRAIN_ONLY.items():
            if name in given:
                raise ConfigError(f"{name} is an option of `fggp-deploy train` only; {cure}")
        for name in ("ema", "average_epochs", "ensemble"):
            if name in given and self.epochs == 0:
                raise ConfigError(
                    f"{option(name)} averages over training steps, and --epochs 0 has none; "
                    f"leave it out"
                )
        from fggp_deploy.pruning.methods.conflicts import conflict

        own = vars(self.method_options)
        if why := conflict(self.method_set, own, from_random=self.from_random):
            raise ConfigError(f"--method {self.method}: {why}")

    def _check_densities(self, info: MethodInfo) -> None:
        if not self.densities and self.target_latency is None:
            return
        from fggp_deploy.pruning.allocation import Given
        from fggp_deploy.pruning.methods.gradual import GradualOptions

        Given(self.densities)
        if not issubclass(info.options, GradualOptions) or "allocation" in self.method_set:
            raise ConfigError(
                "--target-latency chooses each layer's density, so the method must be gradual "
                "(such as fggp or gmp) and must not have its own allocation; got --method "
                f"{self.method}"
            )
        if len(self.targets) > 1:
            raise ConfigError(
                f"--target-latency makes one network per run, got {len(self.targets)} targets; "
                "give one"
            )

    def _check_pattern(self, info: MethodInfo) -> None:
        if self.pattern is None or "pattern" in info.reads:
            return
        from fggp_deploy.pruning import methods

        raise ConfigError(
            f"--method {self.method} has no use for --pattern; leave it out, or choose a method "
            f"that uses it: {', '.join(methods.readers('pattern'))}"
        )

    def _check_epochs(self) -> None:
        if self.epochs > 0:
            return
        from fggp_deploy.pruning import methods

        if not self.method_info.without_training:
            raise ConfigError(
                f"--epochs must be at least 1 for --method {self.method}, which needs training; "
                f"these methods need none: {', '.join(methods.without_training())}"
            )
        if self.from_random:
            raise ConfigError(
                "--epochs 0 with --start random would give an untrained network; give --epochs "
                "or another --start"
            )

    @property
    def method_info(self) -> MethodInfo:
        """The method; raises UnknownName."""
        from fggp_deploy.pruning import methods  # here, since that needs torch

        return methods.info(self.method)

    @property
    def method_options(self) -> Options:
        """The method's own options, all of them; raises ConfigError."""
        from fggp_deploy.pruning import methods

        return methods.read_options(self.method, self.method_set)

    @property
    def from_random(self) -> bool:
        """True if the run starts from random weights."""
        if self.start is None:
            return self.method_info.starts[0] == "random"
        return self.start == "random"

    @property
    def targets(self) -> tuple[float, ...]:
        """The sparsities at which the run keeps a network, in increasing order."""
        return self.target if isinstance(self.target, tuple) else (self.target,)

    def to_dict(self) -> dict[str, Any]:
        """Every option as a plain YAML and JSON type, and every option of the method."""
        return super().to_dict() | {"method_set": vars(self.method_options).copy()}
