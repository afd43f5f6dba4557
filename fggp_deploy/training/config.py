"""The options of a training run, checked when made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fggp_deploy.common.option_rules import option
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import MIN_LAYER_DENSITY
from fggp_deploy.training.rules import RULES, plain

if TYPE_CHECKING:
    from fggp_deploy.pruning.methods import MethodInfo, Options

DEFAULT_TARGET = 0.98
_OF_TRAIN = {
    "sparsity": "give --target",
    "allocation": "give --method-set allocation, where the method has it",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train: SGD with Nesterov momentum, one cycle of the learning rate, a seed.

    What each option means and may be is in `rules.RULES`; those on data are those of
    data.Reading. `sparsity` > 0 trains from a random mask of that sparsity, fixed, by
    `allocation`. `mean`, `std`: preprocessing of a checkpoint trained elsewhere, in place of the
    data set's own. `flip`: None for what the data set says. Raises ConfigError.
    """

    model: str = "resnet10s2"
    checkpoint: Path | None = None
    weights: str | None = None
    new_head: bool = False
    trust_code: bool = False
    data: str = "fashion-mnist-12k"
    data_dir: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    resize: int | None = None
    augment: str = "basic"
    flip: bool | None = None
    stream: bool | None = None
    workers: int | None = None
    skip_unreadable: bool = False
    split_seed: int = 0
    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    lr_schedule: str = "cosine"
    warmup_epochs: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    ema: float = 0.0
    average_epochs: float = 0.0
    ensemble: int = 0
    bn_images: int = 0
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    save_every: float = 10.0
    sparsity: float = 0.0
    allocation: str = "erk"
    prune_first: bool = False
    keep_dense: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for f in fields(self):
            RULES[f.name].check(f.name, getattr(self, f.name))
        if self.checkpoint is not None and self.weights is not None:
            raise ConfigError("--checkpoint and --weights are two names of one thing; give one")
        if (self.mean is None) != (self.std is None):
            raise ConfigError("--mean and --std go together")
        if self.ema and self.average_epochs:
            raise ConfigError(
                "--ema and --average-epochs are two averages of the weights; give one"
            )
        if self.average_epochs and not self.bn_images:
            raise ConfigError(
                "--average-epochs needs --bn-images, as 2000: the average of the weights has other "
                "batch-norm statistics than any of them"
            )
        if self.ensemble and not self.average_epochs:
            raise ConfigError(
                "--ensemble draws networks from where the weights were in the last epochs; give "
                "--average-epochs too, as 2, and --bn-images, as 2000"
            )
        self._check_epochs()

    def _check_epochs(self) -> None:
        if self.epochs == 0:
            raise ConfigError("--epochs must be at least 1 to train, got 0")

    @property
    def targets(self) -> tuple[float, ...]:
        """The sparsities that the run makes a network of, increasing."""
        return (self.sparsity,)

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML and JSON types."""
        return {k: plain(v) for k, v in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class PruneConfig(TrainConfig):
    """How to prune a trained network while fine-tuning it.

    `target`: fraction of the prunable weights to remove, or several, increasing. Without
    checkpoint and weights, the network that the package ships. `method_set`: options of the
    method's own; those at their default are left out. `start`: "trained" or "random" weights, None
    for the method's usual. `updates`, `rate`: see Cubic and FGGP; `pattern`: see Gradual;
    `int8_aware`: training.rounding. `distill`: weight of the parent's soft labels in the loss
    (Hinton et al. 2015, arXiv 1503.02531, temperature 2). `recipe`: where the values came from.
    `densities`: the share that each layer keeps at the target, in place of the method's own choice,
    and `target_latency` the milliseconds that they were chosen for.
    """

    recipe: str | None = None
    target_latency: float | None = None
    densities: Mapping[str, float] = field(default_factory=dict)
    target: float | tuple[float, ...] = DEFAULT_TARGET
    method: str = "fggp"
    method_set: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    updates: int = 50
    rate: float = 0.5
    pattern: str | None = None
    min_layer_density: float = MIN_LAYER_DENSITY
    int8_aware: bool = False
    distill: float = 0.9
    epochs: int = 10
    lr: float = 0.05
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targets or sorted(set(self.targets)) != list(self.targets):
            raise ConfigError(f"several values of --target must increase, got {list(self.targets)}")
        info, options = self.method_info, self.method_options
        defaults = info.options.defaults()
        given = {k: v for k, v in vars(options).items() if v != defaults[k]}
        object.__setattr__(self, "method_set", given)
        self._check_densities(info)
        self._check_pattern(info)
        room = 1 - self.targets[-1]
        if self.min_layer_density > max(room, MIN_LAYER_DENSITY) + 1e-9:
            raise ConfigError(
                f"--min-layer-density {self.min_layer_density:g} is more than --target "
                f"{self.targets[-1]:g} leaves; give at most {room:.6g}"
            )
        if len(self.targets) > 1 and not info.several_targets:
            from fggp_deploy.pruning import methods

            raise ConfigError(
                f"--method {self.method} makes one network a run, since its masks are not nested "
                f"from target to target; give one --target, or --method "
                f"{', '.join(methods.with_targets())}"
            )
        if (self.ema or self.average_epochs) and (ties := info.ties(options)):
            option = "--ema" if self.ema else "--average-epochs"
            raise ConfigError(
                f"{option} averages the weights, and those of --method {self.method} {ties}; leave "
                f"{option} at 0"
            )
        if self.start == "random" or (self.start == "trained" and info.starts == ("random",)):
            info.refuse_start(self.method, "random" if self.start == "random" else "dense")

    def refuse_unread(self, given: Collection[str]) -> None:
        """Raise ConfigError where an option that the user gave would change nothing.

        Not when made: what a recipe says, or a run that goes on, is no wish of the user's.
        """
        for name in ("rate", "updates"):
            if name in given and name not in self.method_info.reads:
                raise ConfigError(
                    f"--method {self.method} does not read --{name}; leave it out "
                    f"(`fggp-deploy methods {self.method}` shows what it reads)"
                )
        for name, cure in _OF_TRAIN.items():
            if name in given:
                raise ConfigError(
                    f"{name} is for `fggp-deploy train`, prune does not read it; {cure}"
                )
        for name in ("ema", "average_epochs", "ensemble"):
            if name in given and self.epochs == 0:
                raise ConfigError(
                    f"{option(name)} averages over training, and --epochs 0 has none; leave it out"
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
                "--target-latency says which layer loses how much; that is for gradual methods "
                "(fggp, gmp …) without an allocation of their own"
            )
        if len(self.targets) > 1:
            raise ConfigError("--target-latency makes one network a run; give one target")

    def _check_pattern(self, info: MethodInfo) -> None:
        if self.pattern is None or "pattern" in info.reads:
            return
        from fggp_deploy.pruning import methods

        raise ConfigError(
            f"--method {self.method} does not read --pattern; leave it out, or take a method that "
            f"does: {', '.join(methods.readers('pattern'))}"
        )

    def _check_epochs(self) -> None:
        if self.epochs > 0:
            return
        from fggp_deploy.pruning import methods

        if not self.method_info.without_training:
            raise ConfigError(
                f"--epochs must be at least 1 for --method {self.method}, which needs training; "
                f"without: --method {', '.join(methods.without_training())}"
            )
        if self.from_random:
            raise ConfigError("--epochs 0 --start random would leave a network that knows nothing")

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
        """True where the run begins with random weights."""
        if self.start is None:
            return self.method_info.starts[0] == "random"
        return self.start == "random"

    @property
    def targets(self) -> tuple[float, ...]:
        """The sparsities that the run makes a network of, increasing."""
        return self.target if isinstance(self.target, tuple) else (self.target,)

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML and JSON types; every option of the method, also at its default."""
        return super().to_dict() | {"method_set": vars(self.method_options).copy()}
