"""Step time and cost on 1, 8, 64 and 256 TPU chips, by roofline alone.

  python -m benchmarks.scaling_sheet [--teacher_checkpoint=NAME]
    [--student_checkpoint=NAME] [--rows_per_chip=8] [--price=v5e:1.20]

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

import jax
from absl import flags

from benchmarks import (
  chips,
  columns,
  harness,
  published_shapes,
  roofline,
  sheets,
)

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
_DRAFT = flags.DEFINE_integer("num_draft_tokens", 5, "G.")
_RATE = flags.DEFINE_float(
  "replacement_rate", 0.1, "Of the tokens, by the teacher."
)
_PRICE = flags.DEFINE_multi_string(
  "price", [], "CHIP:DOLLARS per hour, such as v5e:1.20; may be repeated."
)


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
    replacement_rate=_RATE.value,
  )
  print(__doc__)
  print(f"{_TEACHER.value} to {_STUDENT.value}: {work.rounds:.0f} rounds")
  rows = []
  for kind in chips.CHIPS.values():
    chip = sheets.priced(kind, _PRICE.value)
    print(f"{chip.name}: {chip.dollars_per_hour:.2f} dollars an hour")
    counts = sheets.COUNTS[:2] if quick else sheets.COUNTS
    rows += [sheets.make_row(chip, count, work) for count in counts]
  return rows


if __name__ == "__main__":
  harness.run(
    "scaling_sheet",
    rows_from_flags,
    device=lambda quick: "roofline-quick" if quick else "roofline",
    columns=(*columns.COLUMNS["scaling_sheet"], "note"),
  )
