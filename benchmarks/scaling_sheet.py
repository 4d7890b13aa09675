"""Step time and cost on 1, 8, 64 and 256 TPU chips, by roofline alone.

  python -m benchmarks.scaling_sheet [--teacher_checkpoint=NAME]
    [--rows_per_chip=8] [--price=v5e:1.20]

Nothing is compiled or measured: benchmarks/roofline.py says what is counted,
benchmarks/chips.py what a chip can do. Assumed:

  - the batch grows with the chips, `rows_per_chip` rows each, trained in
    microbatches of 8 rows a group with remat;
  - every response has T tokens, of which the teacher replaces 10 %, in drafts
    of 5;
  - of all meshes that fit into the memory by their shapes, the fastest; the
    axes of the mesh are rings of chips;
  - no latencies, no waiting, no evaluation, no checkpoints: a bound from below
    on seconds and cost;
  - prices per chip and hour: see benchmarks/chips.py.

`bound` is the part of the step that takes longest and the resource that it
waits for: decode bandwidth is "draft memory" or "verify memory".
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import jax
from absl import flags

from benchmarks import chips, columns, harness, published_shapes, roofline

_TEACHER = flags.DEFINE_enum(
  "teacher_checkpoint",
  "google/gemma-7b-it",
  published_shapes.NAMES,
  "The teacher.",
)
_STUDENT = flags.DEFINE_enum(
  "student_checkpoint",
  "google/gemma-2b-it",
  published_shapes.NAMES,
  "The student.",
)
_ROWS = flags.DEFINE_integer("rows_per_chip", 8, "Batch / chips.")
_PROMPT = flags.DEFINE_integer("prompt_tokens", 256, "P.")
_RESPONSE = flags.DEFINE_integer("response_tokens", 256, "T.")
_DRAFT = flags.DEFINE_integer("draft_tokens", 5, "G.")
_PRICE = flags.DEFINE_multi_string(
  "price", [], "CHIP:DOLLARS per hour, such as v5e:1.20; may be repeated."
)

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


def rows_from_flags(quick: bool) -> list[harness.Row]:
  """Computes what the command line asks for; quick: 1 and 8 chips."""
  jax.config.update("jax_platforms", "cpu")
  teacher, student = published_shapes.load_pair(_TEACHER.value, _STUDENT.value)
  work = roofline.Work(
    student=student,
    teacher=teacher,
    rows=_ROWS.value,
    prompt_tokens=_PROMPT.value,
    response_tokens=_RESPONSE.value,
    num_draft_tokens=_DRAFT.value,
    replacement_rate=roofline.REPLACEMENT_RATE.value,
  )
  print(__doc__)
  print(f"{_TEACHER.value} to {_STUDENT.value}: {work.rounds:.0f} rounds")
  rows = []
  for kind in chips.CHIPS.values():
    chip = priced(kind, _PRICE.value)
    print(f"{chip.name}: {chip.dollars_per_hour:.2f} dollars an hour")
    counts = COUNTS[:2] if quick else COUNTS
    rows += [make_row(chip, count, work) for count in counts]
  return rows


if __name__ == "__main__":
  harness.run(
    "scaling_sheet",
    rows_from_flags,
    device=lambda quick: "roofline-quick" if quick else "roofline",
    columns=(*columns.COLUMNS["scaling_sheet"], "note"),
  )
