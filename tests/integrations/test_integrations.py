"""The callbacks for other people's trainers; skipped where those are not installed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fggp_deploy.common.torchvision_import import import_torchvision
from fggp_deploy.errors import ConfigError, FggpWarning
from fggp_deploy.format.model import SparseModel
from fggp_deploy.integrations import Pruning

EXAMPLES = Path(__file__).parents[2] / "examples"


def needs(name: str) -> Any:
    import_torchvision()  # which theirs would find broken beside a CPU-only torch
    return pytest.importorskip(name, reason=f'needs pip install "fggp-deploy[{name}]"')


def run_example(name: str, tmp_path: Path, monkeypatch, capsys) -> str:
    """The last line that an example prints; it leaves a packed file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name, str(tmp_path / "own.onnx")])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert SparseModel.open(tmp_path / "own.onnx").metadata.selftest is not None
    return capsys.readouterr().out.splitlines()[-1]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 4))


def noise(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, 4, 4, generator=g), torch.randint(0, 4, (n,), generator=g)


def test_the_number_of_steps_must_be_known():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ConfigError, match="needs the number of training steps"):
        Pruning(0.9).begin(model, optimizer, float("inf"))


def test_a_sparse_model_is_pruned_from_what_it_has():
    model = net()
    with torch.no_grad():
        model[1].weight.view(-1)[:200] = 0  # of 320 + 80
    pruner = Pruning(0.9).begin(model, torch.optim.SGD(model.parameters(), 0.1), 10)
    assert pruner.method.schedule.start == 0.5


def lightning_module(**options: Any) -> Any:
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any) -> torch.Tensor:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    return Module()


def lightning_fit(folder: Path, *, max_epochs: int, resume: Path | None = None, **more: Any) -> Any:
    """The callback and the module after `max_epochs` of a run that was planned for 4."""
    from lightning.pytorch import Callback, Trainer

    from fggp_deploy.integrations.lightning import PruningCallback

    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch + 1 == max_epochs:
                trainer.save_checkpoint(folder / "last.ckpt")
                trainer.should_stop = True

    pruning, module = PruningCallback(0.9, updates=6), lightning_module()
    trainer = Trainer(
        max_epochs=4, callbacks=[pruning, Stop()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        min_epochs=0, default_root_dir=folder, **more,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(*noise()), 8), ckpt_path=resume)
    return pruning, module


def test_lightning_prunes_and_goes_on(tmp_path):
    needs("lightning")
    whole, module = lightning_fit(tmp_path, max_epochs=4)
    assert whole.pruner.step == 32
    assert whole.pruner.masks.n_removed == 360
    assert list(whole.pruner.masks) == ["net.1.weight", "net.3.weight"]
    assert not module.net[1].weight[~whole.pruner.masks["net.1.weight"]].any()
    with pytest.warns(FggpWarning, match="train to its end"):
        cut, _ = lightning_fit(tmp_path, max_epochs=2)
    assert 0 < cut.pruner.masks.n_removed < 360
    again, later = lightning_fit(tmp_path, max_epochs=4, resume=tmp_path / "last.ckpt")
    assert again.pruner.masks.digest() == whole.pruner.masks.digest()
    assert all(
        torch.equal(a, b)
        for a, b in zip(later.parameters(), module.parameters(), strict=True)
    )  # fmt: skip


def test_lightning_counts_optimizer_steps(tmp_path):
    needs("lightning")
    pruning, _ = lightning_fit(tmp_path, max_epochs=4, accumulate_grad_batches=4)
    assert pruning.pruner.step == 8
    assert pruning.pruner.masks.n_removed == 360


def test_the_lightning_example(tmp_path, monkeypatch, capsys):
    needs("lightning")
    n = 16 * 64 * 9 + 2560
    last = run_example("lightning_callback.py", tmp_path, monkeypatch, capsys)
    assert last.startswith(f"removed {round(0.9 * n)} of {n}")


class WithLoss(nn.Module):
    """What the Trainer of Hugging Face expects."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def transformers_train(folder: Path, *, resume: bool = False, **more: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    from fggp_deploy.integrations.transformers import PruningCallback

    rows = [{"x": x, "labels": y} for x, y in zip(*noise(), strict=True)]
    pruning, model = PruningCallback(0.9, updates=6), WithLoss()
    arguments = TrainingArguments(
        str(folder), num_train_epochs=4, per_device_train_batch_size=8, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="steps", save_steps=10, logging_strategy="no",
        optim="sgd", learning_rate=0.1, **more,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[pruning])
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-10") if resume else None)
    return pruning, model


def test_the_trainer_of_transformers_prunes_and_goes_on(tmp_path):
    needs("transformers")
    whole, model = transformers_train(tmp_path)
    assert whole.pruner.step == 32
    assert whole.pruner.masks.n_removed == 360
    assert not model.net[1].weight[~whole.pruner.masks["net.1.weight"]].any()
    again, later = transformers_train(tmp_path, resume=True)
    assert again.pruner.masks.digest() == whole.pruner.masks.digest()
    assert all(
        torch.equal(a, b)
        for a, b in zip(later.parameters(), model.parameters(), strict=True)
    )  # fmt: skip
    (tmp_path / "checkpoint-10" / "fggp_pruner.pt").unlink()
    with pytest.raises(ConfigError, match=r"fggp_pruner\.pt is missing"):
        transformers_train(tmp_path, resume=True)


def test_the_trainer_of_transformers_counts_optimizer_steps(tmp_path):
    needs("transformers")
    pruning, _ = transformers_train(tmp_path, gradient_accumulation_steps=4)
    assert pruning.pruner.step == 8
    assert pruning.pruner.masks.n_removed == 360


def test_the_transformers_example(tmp_path, monkeypatch, capsys):
    needs("transformers")
    n = 19264
    last = run_example("transformers_trainer.py", tmp_path, monkeypatch, capsys)
    assert last.startswith(f"removed {round(0.9 * n)} of {n}")
