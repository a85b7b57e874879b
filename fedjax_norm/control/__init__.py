"""Decisions between intervals, made on the host from what was measured."""

from fedjax_norm.control.freeze import Freeze, FreezeState

__all__ = ["Freeze", "FreezeState"]
