"""What the stages read and write; a deployable model is read without torch."""

from __future__ import annotations
