"""Counts the instructions that the TPU compiler has scheduled.

A TPU issues one bundle of instructions per cycle, and the compiler can write
the final bundles of every operation to files while it compiles, without a TPU:

     0x3 LB: > { ... /* Start region 30 */ ... }          the body of a loop
     0x9   : > { ... %p1 = scmp.ge.s32.totalorder %s6, 4 ... }      its trips
  0x1b22   :   { %9 = sbr.rel (!%p1) target = $region30 }          its branch
"""

import os
import pathlib
import re

_FLAGS = (
  "--xla_jf_dump_to={folder}",
  "--xla_jf_dump_llo_text=true",
  "--xla_jf_dump_llo_pass_label_regex=^final_bundles.*",
)
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+([A-Z]{2})?\s*:[ >]*\{")
_REGION = re.compile(r"Start region (\d+)")
_BRANCH = re.compile(r"sbr\.rel \(!?%(\w+)\) target = \$region(\d+)")
_DELAY = 5  # Bundles that still run after a branch, itself included.


def ask_for_bundles(folder: pathlib.Path) -> None:
  """Lets libtpu, which must not be loaded yet, write bundles to a folder."""
  wanted = " ".join(_FLAGS).format(folder=folder)
  before = os.environ.get("LIBTPU_INIT_ARGS", "")
  os.environ["LIBTPU_INIT_ARGS"] = f"{before} {wanted}".strip()


def take_bundles(folder: pathlib.Path) -> dict[str, int]:
  """Reads the files of a program, and deletes them.

  Names are unique only within a program, so this is to be called after each.

  Returns:
    The bundles that each operation issues, by its name.
  """
  found = {}
  for path in folder.iterdir():
    if (
      path.name.endswith("-final_bundles.txt")
      and "schedule-analysis" not in path.name
    ):
      name = re.sub(r"^\d+-|-\d+-final_bundles\.txt$", "", path.name)
      found[name] = num_issued(path.read_text("utf-8", errors="replace"))
    path.unlink()
  return found


def num_issued(text: str) -> int:
  """Counts the bundles that an operation issues, each loop times its trips.

  What predicates skip counts as run. A loop whose trips are not a constant
  counts once.

  Args:
    text: its final bundles.
  """
  bundles: list[str] = []
  loops: list[int] = []  # Where the body of each starts.
  for line in text.splitlines():
    start = _BUNDLE.match(line)
    if start:
      bundles.append(line)
    elif bundles:
      bundles[-1] += line
    if start and start[1] == "LB":
      loops.append(len(bundles) - 1)
  body_of = {
    region: start
    for start in loops
    for region in _REGION.findall(bundles[start])
  }
  times = [1] * len(bundles)
  for end, bundle in enumerate(bundles):
    for predicate, region in _BRANCH.findall(bundle):
      start = body_of.get(region, end + 1)
      if start > end or start not in loops:
        continue
      loops.remove(start)
      test = rf"%{predicate} = scmp\.\w+\.s32\.totalorder %\w+, (\w+)"
      limits = re.findall(test, "".join(bundles[start : end + 1]))
      trips = int(limits[-1]) if limits and limits[-1].isdigit() else 1
      for i in range(start, min(end + _DELAY, len(times))):
        times[i] *= max(trips, 1)
  return sum(times)
