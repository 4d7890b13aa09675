"""The flag --batches of the benchmarks that take several numbers of rows."""

from absl import flags

_BATCHES = flags.DEFINE_list("batches", None, "Numbers of rows: 1,4,16.")


def from_flags() -> tuple[int, ...]:
  """Returns the numbers of rows that are asked for; none: the usual ones.

  Raises:
    ValueError: one is not a positive number.
  """
  asked = _BATCHES.value or []
  if not all(size.isdecimal() and int(size) > 0 for size in asked):
    raise ValueError(
      f"--batches={','.join(asked)}: must be positive numbers, as in 1,4,16"
    )
  return tuple(map(int, asked))
