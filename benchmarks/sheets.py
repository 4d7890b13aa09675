"""The fastest arrangement of some chips, and what it costs.

The program, and what it assumes, is benchmarks/scaling_sheet.py.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from benchmarks import chips, harness, roofline

COUNTS = (1, 8, 64, 256)
_LARGEST_TENSOR = 16
_MICROBATCH_ROWS = 8  # Of a group of chips.


def meshes(num_chips: int) -> Iterator[tuple[int, int, int]]:
  """Yields (data, fsdp, tensor), powers of two, of so many chips."""
  sizes = [2**i for i in range(num_chips.bit_length())]
  for fsdp, tensor in itertools.product(sizes, sizes):
    if fsdp * tensor <= num_chips and tensor <= _LARGEST_TENSOR:
      yield num_chips // (fsdp * tensor), fsdp, tensor


def make_row(
  chip: chips.Chip, num_chips: int, work: roofline.Work
) -> harness.Row:
  """Returns the fastest arrangement of some chips.

  Args:
    chip: the kind.
    num_chips: how many.
    work: the step on one chip; its rows are multiplied.
  """
  rows = work.rows * num_chips
  row = {"chip": chip.name, "chips": num_chips, "batch": rows}
  found, least_memory = [], float("inf")
  for data, fsdp, tensor in meshes(num_chips):
    machine = roofline.Machine(chip, data, fsdp, tensor)
    parts = max(1, rows // machine.num_groups // _MICROBATCH_ROWS)
    step = dataclasses.replace(work, rows=rows, num_microbatches=parts)
    needed = machine.memory_bytes(step)
    least_memory = min(least_memory, needed)
    if needed <= chip.hbm_bytes:
      seconds = roofline.summary(machine.step(step))
      found.append((seconds["step_s"], (data, fsdp, tensor), machine, step))
  if not found:
    gib, has = least_memory / chips.GIB, chip.hbm_bytes / chips.GIB
    return row | {"note": f"needs {gib:.1f} GiB a chip, has {has:.1f}"}
  step_s, mesh, machine, step = min(found, key=lambda entry: entry[:2])
  parts = machine.step(step)
  tokens = rows * work.response_tokens
  dollars = step_s * num_chips * chip.dollars_per_hour / 3600
  return (
    row
    | {"mesh": "x".join(map(str, mesh)), "tokens_per_s": tokens / step_s}
    | {"dollars_per_m_tokens": dollars / tokens * 1e6}
    | {"needed_gib": machine.memory_bytes(step) / chips.GIB}
    | roofline.summary(parts)
    | {f"{name}_s": part.seconds for name, part in parts.items()}
  )


def priced(chip: chips.Chip, prices: Sequence[str]) -> chips.Chip:
  """Returns the chip with the price that is given for it, if one is.

  Raises:
    ValueError: names the flag, its value and what is allowed.
  """
  for entry in prices:
    name, _, dollars = entry.partition(":")
    try:
      price = float(dollars)
    except ValueError:
      price = -1.0
    if name not in chips.CHIPS or not price >= 0:
      raise ValueError(
        f"price = {entry!r}: must be CHIP:DOLLARS, with a chip of "
        f"{list(chips.CHIPS)}"
      )
    if name == chip.name:
      chip = dataclasses.replace(chip, dollars_per_hour=price)
  return chip
