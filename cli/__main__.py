"""`python -m fggp_deploy.cli`."""

from .main import run

run()
