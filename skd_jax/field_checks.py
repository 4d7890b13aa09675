"""Checks of single fields: each error names the field and its value."""

import contextlib
from collections.abc import Iterator

import ml_collections

from skd_jax import config as config_lib


@contextlib.contextmanager
def prefix(name: str) -> Iterator[None]:
  """Puts the section in front of the argument that a function refuses."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{name}{error}") from None


def one_of(
  config: ml_collections.ConfigDict, field: str, allowed: tuple[str, ...]
) -> None:
  """Refuses a value that is not among those allowed."""
  value = config_lib.get(config, field)
  if value not in allowed:
    raise ValueError(f"{field} = {value!r}: must be one of {list(allowed)}")


def at_least(
  config: ml_collections.ConfigDict, field: str, least: float
) -> None:
  """Refuses a value below the least."""
  value = config_lib.get(config, field)
  if value < least:
    raise ValueError(f"{field} = {value}: must be {least} or above")


def in_unit_interval(config: ml_collections.ConfigDict, field: str) -> None:
  """Refuses a value outside [0, 1]."""
  value = config_lib.get(config, field)
  if not 0 <= value <= 1:
    raise ValueError(f"{field} = {value}: must be in [0, 1]")
