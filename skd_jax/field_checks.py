"""Checks of single fields: each error names the field and its value."""

import contextlib
import math
import re
from collections.abc import Iterator

import ml_collections
from flax import traverse_util

from skd_jax import config as config_lib

# USER:PASSWORD@ of an address.
_PASSWORD = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]*@")


@contextlib.contextmanager
def prefix(name: str) -> Iterator[None]:
  """Puts the section in front of the argument that a function refuses."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{name}{error}") from None


def of_types(
  config: ml_collections.ConfigDict,
  usual: ml_collections.ConfigDict,
  section: str = "",
) -> None:
  """Refuses what ml_collections takes for any type: None, NaN, odd elements.

  Args:
    config: the config, or a section of it.
    usual: the same with the defaults; an empty section may hold anything.
    section: "" or such as "teacher.fit.".
  """
  for name, default in usual.items():
    value, kind = config[name], type(default)
    allowed = ""
    if kind is tuple:
      if not isinstance(value, list | tuple) or not all(
        isinstance(element, str | int) for element in value
      ):
        allowed = "a tuple of texts or of whole numbers"
    elif not isinstance(value, kind):
      allowed = f"of type {kind.__name__}"
    elif kind is float and math.isnan(value):
      allowed = "a number"
    if allowed:
      raise ValueError(f"{section}{name} = {value!r}: must be {allowed}")
    if kind is ml_collections.ConfigDict:
      of_types(value, default, f"{section}{name}.")


def without_password(text: str) -> str:
  """Returns a text with *** for the user and the password of an address."""
  return _PASSWORD.sub("***@", text)


def no_passwords(config: ml_collections.ConfigDict) -> None:
  """Refuses an address with a password: a run writes its settings to files."""
  plain = traverse_util.flatten_dict(config_lib.to_plain(config), sep=".")
  for field, value in plain.items():
    shown = without_password(str(value))
    if shown != str(value):
      raise ValueError(
        f"{field} = {shown!r}: must hold no password, which config.json, the "
        "report and the model card would show; give it to the program that "
        "needs it by its environment or its own files"
      )


def one_of(
  config: ml_collections.ConfigDict, field: str, allowed: tuple[str | int, ...]
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
