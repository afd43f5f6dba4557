"""What a user gets for a mistake, a lack of the machine's, or a change of mind."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from conftest import QUICK, started, tiny
from PIL import Image

from fggp_deploy import models
from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.checkpoints.run_folder import held


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["prune", "--target", "1"], "--target must be in (0, 1), got 1.0"),
        (["prune", "--target", "95"], "got 95.0; write 95% as 0.95"),
        (["prune", "--target", "-0.5"], "--target must be in (0, 1), got -0.5"),
        (["prune", "--method", "fgpp"], "unknown method 'fgpp'; did you mean 'fggp'?"),
        (["prune", "--method", "gmp", "--rate", "0.3"], "--method gmp has no use for --rate"),
        (["prune", "--pattern", "4x1"], "unknown pattern '4x1'; known: 1x16, 1x2, 1x4, 1x8"),
        (
            ["prune", "--method", "dpp", "--pattern", "1x4"],
            "--method dpp has no use for --pattern; leave it out, or choose a method that uses it",
        ),
        (
            ["prune", "--method", "wanda", "--epochs", "0", "--ema", "0.9"],
            "--ema averages over training steps, and --epochs 0 has none",
        ),
        (["prune", "--data", "cifar"], "unknown data set 'cifar'; did you mean 'cifar10'?"),
        (["prune", "--model", "vgg18", "--checkpoint", "c.pt"], "did you mean 'vgg19'?"),
        (["prune", "--model", "vgg19"], "--model vgg19 needs --checkpoint"),
        (["prune", "--rate", "0"], "rate must be in (0, 1], got 0"),
        (["prune", "--lr", "nan"], "--lr must be above 0, got nan"),
        (["prune", "--epochs", "0"], "--epochs must be at least 1"),
        (["prune", "--updates", "0"], "--updates must be at least 1"),
        (["prune", "--device", "tpu9"], "--device must be auto, cpu, cuda or cuda:N"),
        (["prune", "--precision", "fp8"], "unknown precision 'fp8'"),
        (["prune", "--keep-dense", "layer9.*"], "'layer9.*' matches no weight"),
        (["prune", "--data", "cifar10", "--data-dir", "full"], "full does not hold cifar10; fetch"),
        (["prune", "--data", "folder:nowhere"], "nowhere does not exist; --data folder:PATH"),
        (["prune", "--data", "folder:full"], "full has no class folders; put each"),
        (["prune", "--data", "folder:pets"], "pets/cat/2.jpg is not a JPEG"),
        (["prune", "--data", "mine.py:make"], "give --trust-code if you trust it"),
        (["prune", "--augment", "storng"], "unknown augment 'storng'; did you mean 'strong'?"),
        (["prune", "--image-size", "0"], "--image-size must be in [1, 16384], got 0"),
        (["prune", "--mean", "0.5"], "--mean and --std must be given together"),
        (["prune", "--mean", "72.9", "--std", "90"], "are for pixels in 0 … 1; divide values for"),
        (["prune", "--data", "pets"], "'pets' is a folder; for its images give --data folder:pets"),
        (
            ["prune", "--model", "own.py", "--checkpoint", "c.pt"],
            "give its function too, as own.py:",
        ),
        (["prune", "--checkpoint", "foreign.onnx"], "is an ONNX file; give the checkpoint that"),
        (["prune", "--mean", "a", "--std", "b"], "--mean must be numbers separated by commas"),
        (["prune", "--checkpoint", "none.pt"], "none.pt does not exist"),
        (["prune", "--checkpoint", "garbage.safetensors"], "not a readable safetensors file"),
        (["prune", "--checkpoint", "garbage.pt"], "garbage.pt is not a PyTorch checkpoint"),
        (
            ["prune", "--checkpoint", "evil.pt"],
            "would run code when they are loaded, so it is refused",
        ),
        (["prune", "--checkpoint", "nan.safetensors"], "holds NaN or infinity"),
        (["prune", "--out", "full"], "full exists and is not empty"),
        (["prune", "--batch-size", "99999"], "more than the 9000 training images"),
        (["export"], "run `fggp-deploy prune` or give a path"),
        (["export", "none.safetensors"], "none.safetensors does not exist"),
        (["export", "plain.safetensors"], "holds plain weights and does not say which network"),
        (["verify"], "run `fggp-deploy export` or give a path"),
        (["verify", "none.onnx"], "none.onnx"),
        (["verify", "garbage.onnx"], "garbage.onnx"),
        (["verify", "foreign.onnx", "--data", "mnist"], "does not say how its images are prepared"),
        (["bench"], "run `fggp-deploy export` or give a path"),
        (["bench", "none.onnx"], "none.onnx"),
        (["bench", "garbage.onnx"], "garbage.onnx is not valid ONNX"),
        (["bench", "foreign.onnx", "--threads", "one"], "--threads must be whole numbers"),
        (["bench", "foreign.onnx", "--batch", "1,0"], "--batch must be at least 1, got 0"),
        (["compile", "foreign.onnx", "--threads", "0"], "--threads must be at least 1, got 0"),
        (["export", "garbage.pt"], "garbage.pt is not a PyTorch checkpoint"),
        (["export", "other.pt", "--mean", "0.5"], "give --model NAME, or --model FILE.py:FACTORY"),
        (["export", "plain.safetensors", "--out", "m.txt"], "must end in .onnx"),
        (["export", "plain.safetensors", "--values", "fp8"], "unknown type of values 'fp8'"),
        (["export", "full", "--format", "csr"], "holds no checkpoint"),
        (["export", "full", "--format", "csv"], "unknown format 'csv'; did you mean 'csr'?"),
        (["export", "plain.safetensors", "--format", "csr", "--flat"], "is for --format onnx"),
        (["export", "full"], "holds no checkpoint of a run"),
        (["inspect", "nowhere"], "nowhere does not exist"),
        (["prune", "--model", "resnet19"], "unknown model 'resnet19'; did you mean 'resnet1"),
        (["prune", "--model", "resnet21"], "unknown model 'resnet21'; did you mean 'resnet20'"),
        (["prune", "--target", "0,9"], "'0,9'; write numbers with a decimal point: 0.9"),
        (
            ["prune", "--target", "0.95", "--target", "0.9"],
            "must be given in increasing order, got [0.95, 0.9]",
        ),
        (["prune", "--target", "98%"], "got '98%'; write 98% as 0.98"),
        (
            ["verify", "foreign.onnx", "--check", "full"],
            "the report full/report.json cannot be read",
        ),
        (["compare", "foreign.onnx", "garbage.onnx"], "foreign.onnx: there is no report.json; run"),
        (["prune", "--model", "own.py:make"], "give --trust-code if you trust it"),
        (["prune", "--checkpoint", "full"], "full holds no checkpoint of a run"),
        (["prune", "--checkpoint", "other.pt"], "It fits --model resnet20, with 10 classes"),
        (["models", "resmet*"], "no network is called 'resmet*'"),
        (["inspect", "garbage.txt"], "inspect reads .safetensors"),
        (["inspect", "garbage.onnx"], "garbage.onnx"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(program, args: list[str], says: str):
    cwd = program.cwd
    for name in ("garbage.pt", "garbage.safetensors", "garbage.onnx", "garbage.txt"):
        (cwd / name).write_bytes(b"\x07garbage")
    (cwd / "full").mkdir()
    (cwd / "full" / "thesis.txt").write_text("the only copy")
    (cwd / "pets" / "cat").mkdir(parents=True)
    for i in range(6):
        Image.new("L", (8, 8)).save(cwd / "pets" / "cat" / f"{i}.jpg")
    (cwd / "pets" / "cat" / "2.jpg").write_text("no image")
    torch.save({"x": Fraction(1, 2)}, cwd / "evil.pt")
    torch.save(
        models.build("resnet20", num_classes=10, in_channels=3).state_dict(), cwd / "other.pt"
    )
    nan = safetensors.numpy.save({"w": np.array([np.nan], np.float32)})
    (cwd / "nan.safetensors").write_bytes(nan)
    plain = safetensors.numpy.save({"w": np.ones(1, np.float32)})
    (cwd / "plain.safetensors").write_bytes(plain)
    x = onnx.helper.make_tensor_value_info("x", 1, [1])
    y = onnx.helper.make_tensor_value_info("y", 1, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y])),
              cwd / "foreign.onnx")  # fmt: skip
    before = sorted(os.listdir(cwd))
    ended = program(*args)
    assert ended.code == 2, ended.err
    assert says in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert ended.out == ""
    assert sorted(os.listdir(cwd)) == before  # nothing half made, nothing lost


def test_format_names_get_a_suggestion(program):
    shutil.copytree(Path(__file__).parents[1] / "golden", program.cwd / "golden")
    ended = program("export", "golden/tiny.onnx", "--format", "onx")
    assert ended.code == 2
    assert "unknown format 'onx'; did you mean 'onnx'?" in ended.err


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_keeps_a_state_that_prune_can_start_from(program, cifar, half_sparse):
    command = [sys.executable, "-m", "fggp_deploy.cli", "prune", "--checkpoint", half_sparse,
               *tiny(cifar), "--epochs", "500", "--target", "0.9", "--out", "run"]  # fmt: skip
    with started(command, program.cwd) as process:
        metrics = program.cwd / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text()):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("stopped by SIGINT after step ")
    assert "everything is saved; the same command with --out run resumes" in err
    assert out == ""
    assert not (program.cwd / "run" / "pruned.safetensors").exists()
    (saved,) = (program.cwd / "run" / "resume").iterdir()
    assert Checkpoint.open(saved).masks

    # a new run from it keeps the dense model of the interrupted run for the comparison
    again = program("prune", "--checkpoint", "run", *tiny(cifar),
                    "--target", 0.95, "--out", "again", "--json")  # fmt: skip
    assert again.code == 0, again.err
    parents = [program.cwd / r / "parent.safetensors" for r in ("run", "again")]
    digests = [Checkpoint.open(p).tensors["fc.weight"].tobytes() for p in parents]
    assert digests[0] == digests[1]
    exported = program("export", "again")
    assert exported.code == 0, exported.err
    checked = program(
        "verify",
        "again",
        "--data-dir",
        cifar,
        *QUICK,
    )
    assert "The dense model is itself 49." in checked.out


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_may_not_be_written(program):
    (program.cwd / "locked").mkdir(mode=0o500)
    ended = program("prune", "--out", "locked/run")
    assert ended.code == 3
    assert "may not be written" in ended.err


def test_a_loss_that_explodes_stops_the_run(program, cifar, half_sparse):
    ended = program("prune", "--checkpoint", half_sparse, *tiny(cifar), "--lr", "1e9",
                    "--out", "run")  # fmt: skip
    assert ended.code == 2
    assert "the loss is" in ended.err
    assert "try a lower --lr" in ended.err
    assert "nothing was saved yet (--save-every 10 minutes)" in ended.err


def test_a_missing_package_is_the_environments_lack(program):
    (program.cwd / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    ended = program.fresh("prune", PYTHONPATH=str(program.cwd))
    assert ended.code == 3
    assert ended.err == "error: this needs torch, which is not installed; pip install torch\n"


def test_an_error_of_the_users_own_code_says_how_to_see_its_traceback(program):
    (program.cwd / "net.py").write_text("def make():\n    return len(None)\n")
    args = ("prune", "--model", "net.py:make", "--trust-code", "--checkpoint", "c.pt")
    torch.save({"fc.weight": torch.ones(2, 2)}, program.cwd / "c.pt")
    ended = program(*args)
    assert ended.code == 2
    assert "net.py:make fails: TypeError: object of type 'NoneType' has no len()" in ended.err
    assert "FGGP_DEBUG=1 shows the traceback" in ended.err
    assert ended.err.count("\n") == 1
    shown = program(*args, FGGP_DEBUG="1")
    assert "return len(None)" in shown.err


def test_commands_in_messages_quote_paths_for_the_shell(program):
    (program.cwd / "my runs").mkdir()
    (program.cwd / "my runs" / "config.yaml").write_text("epochs: 1\n")
    cut = program("export", "my runs")
    assert cut.code == 2
    assert "`fggp-deploy prune --out 'my runs'`" in cut.err
    unexported = program("verify", "my runs")
    assert "`fggp-deploy export 'my runs'`" in unexported.err
    assert "--data 'folder:my runs'" in program("prune", "--data", "my runs").err


def test_a_run_that_is_still_going_is_not_called_cut(program):
    (program.cwd / "run").mkdir()
    (program.cwd / "run" / "config.yaml").write_text("epochs: 1\n")
    with held(program.cwd / "run"):
        ended = program("export", "run")
    assert ended.code == 2
    assert "the run in run is still running and has no savepoint yet" in ended.err
    assert "was interrupted before its first savepoint" in program("export", "run").err
