"""The `fggp-deploy` program."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from typing import Annotated

import typer

import fggp_deploy

from .bench import bench
from .compare import compare
from .compile import compile
from .console_characters import tolerate_any_character
from .demo import demo
from .doctor import doctor
from .explain import explain
from .export import export
from .inspect import inspect
from .methods import methods
from .models import models
from .pack import pack
from .prune import prune
from .sensitivity import sensitivity
from .train import train
from .verify import verify

_COLUMNS_OF_BOXES = 100  # what the longest names of options and values leave room for text in
_SETTINGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
    epilog="Exit codes: 0 ok, 1 a gate failed, 2 your input, 3 the environment, 70 a bug of ours, "
    "130 interrupted. FGGP_DEBUG=1 in the environment shows the traceback of any error.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fggp-deploy {fggp_deploy.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print and exit.")
    ] = False,
) -> None:
    """Prune a trained CNN to 90-98% sparsity, export one small ONNX file, prove that it is good.

    Three commands that chain through the newest run:  prune --target 0.98,  export --format onnx,
    verify.  With no other argument they use the data and the network that come with the package.
    """


COMMANDS = (
    prune, export, pack, compile, verify, compare, sensitivity, explain, bench, inspect,
    models, methods, train, demo, doctor,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)


_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def _let_waiting_threads_sleep() -> None:
    """Have OpenMP's threads sleep at barriers, unless the user has chosen how they wait.

    By default they spin for a while, and if another job needs the cores, the thread that all wait
    for gets none. OpenMP reads this once, when torch is imported.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _fit_help(columns: int) -> None:
    """In a narrow terminal, help without boxes: their columns would cut words."""
    if columns < _COLUMNS_OF_BOXES:
        app.rich_markup_mode = None
        app.info.context_settings = _SETTINGS | {"terminal_width": columns}


def run() -> None:
    """Entry point: our warnings as one line on stderr, other people's not at all."""
    from fggp_deploy.common.printable import printable
    from fggp_deploy.distributed import environment
    from fggp_deploy.errors import FggpWarning

    _let_waiting_threads_sleep()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        print(printable(f"warning: {message}"), file=sys.stderr)

    if environment.world() > 1:  # what torch logs of its own wiring is nobody's business here
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    leads = environment.rank() == 0
    if not leads:  # of torchrun's processes one speaks; errors may come from any
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, open to the end of the process
    tolerate_any_character()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always" if leads else "ignore", FggpWarning)
        warnings.showwarning = show
    _fit_help(shutil.get_terminal_size().columns)
    app(prog_name="fggp-deploy")


if __name__ == "__main__":
    run()
