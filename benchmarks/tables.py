"""Rebuilds the tables of docs/results/ from benchmarks/results/.

  python -m benchmarks.tables [--check]

A table stands between two comments, and everything between them is replaced:

  <!-- table: rollout_speed -->
  <!-- end -->

The plots of the comparisons of all methods are drawn again as well, and those
of speculative decoding.
"""

import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

from benchmarks import harness
from benchmarks.speed import draft_plot
from skd_jax import comparison_page, comparison_tests
from skd_jax import records as records_lib
from skd_jax.reporting import comparison_table

_CHECK = flags.DEFINE_bool(
  "check", False, "Write nothing; exit with 1 if a page differs."
)
ROOT = pathlib.Path(__file__).parent.parent
PAGES = tuple(
  ROOT / "docs" / "results" / f"{name}.md"
  for name in ("quality", "speed", "tpu")
)
COMPARISON = "comparisons"
_DRAFTS = "speculative_decoding"
_DRAWN = (
  "few_prompts",
  "pruned_student",
  "noisy_references",
  "drafters",
  "methods",
)  # Those whose plots are shown, in order.
_RIVAL = "skd"  # What the last of them is tested against as well.

# The kept results of each table, in benchmarks/results.
_FILES = {
  "rollout_speed": "speed/*/rollout.json",
  # Of several pairs: speculative_decoding_NAME.json.
  _DRAFTS: "speed/*/speculative_decoding*.json",
  "step_cost": "speed/*/step_cost.json",
  "method_cost": "speed/*/method_cost.json",
  "loss_memory": "speed/*/loss_memory.json",
  "long_sequences": "speed/*/long_sequences.json",
  "packing": "speed/*/packing.json",
  "device_limits": "speed/*/device_limits.json",
  "gpu_kernels": "gpu/kernels.json",
  "gpu_plan": "gpu/plan.json",
  "tpu_plan": "tpu/plan.json",
  "tpu_cycles": "tpu/cycles*.json",
}
NAMES = (*_FILES, COMPARISON)  # Each on one of the pages.
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rebuild(page: str, results: Sequence[Mapping[str, Any]]) -> str:
  """Returns the text of a page with the tables of some results.

  Args:
    page: the text.
    results: JSON objects of benchmarks; those of one benchmark, from several
      devices, stand below each other.
  """

  def replace(match: re.Match[str]) -> str:
    name = match[2]
    found = [result for result in results if result["benchmark"] == name]
    text = "\n".join(section(result) for result in found)
    if found and name == COMPARISON:
      text = f"{comparison_table.LEGEND}\n{text}"
    return f"{match[1]}\n{text or 'Not measured yet.'}\n{match[3]}"

  return _PLACE.sub(replace, page)


def check_names(pages: Sequence[str]) -> None:
  """Checks that each table has its place on one page.

  Raises:
    ValueError: a table has no place, two, or is unknown.
  """
  found = sorted(match[2] for page in pages for match in _PLACE.finditer(page))
  if found != sorted(NAMES):
    raise ValueError(
      f"docs/results: has the tables {found}, must have {sorted(NAMES)}; each "
      "needs the lines '<!-- table: NAME -->' and '<!-- end -->'"
    )


def section(result: Mapping[str, Any]) -> str:
  """Returns the tables of one result, and how it was measured."""
  if result["benchmark"] == COMPARISON:
    title = f"**{result['task']}: {result['grid']}**"
    text = comparison_page.section(result["rows"], result["tested"])
    return f"{title}\n\n{text}{_images(result['plots'])}"
  name, rows = result["benchmark"], result["rows"]
  table = harness.benchmark_table(name, rows)
  if name == "rollout_speed":
    table = f"Tokens per second, by batch:\n\n{pivot(rows)}"
  if name == _DRAFTS:
    table = f"{rows[0]['pair']}, {rows[0]['prompts']} prompts:\n\n{table}"
  used = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
  return (
    f"`{result['command']}` at commit {result['git']} on {result['device']} "
    f"({used}):\n\n{table}\n{_images(result.get('plots', ()))}"
  )


def _images(plots: Sequence[pathlib.Path]) -> str:
  """Shows the plots that lie beside a result."""
  return "".join(
    f"\n![{path.stem}](../../{path.relative_to(ROOT)})\n" for path in plots
  )


def pivot(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns a table of one row per `what` and one column per batch."""
  lines: dict[str, dict[str, Any]] = {}
  for row in rows:
    line = lines.setdefault(row["what"], {"what": row["what"]})
    speed = row["tokens_per_s"]
    line[str(row["batch"])] = row.get("note") if speed is None else speed
  batches = sorted({row["batch"] for row in rows})
  return harness.format_table(
    list(lines.values()), ["what", *map(str, batches)]
  )


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the kept results that have a table, CPUs first."""
  found = [
    {
      **json.loads(path.read_text("utf-8")),
      "plots": sorted(path.parent.glob(f"{path.stem}.png")),
    }
    for files in _FILES.values()
    for path in sorted(folder.glob(files))
  ]
  found += [
    _comparison(path) for path in sorted(folder.glob("quality/*/*/runs.jsonl"))
  ]
  # The comparisons whose plots are shown come before the others.
  return sorted(
    found,
    key=lambda result: (
      not result["device"].startswith("cpu"),
      [result.get("grid") != name for name in _DRAWN],
    ),
  )


def _comparison(path: pathlib.Path) -> dict[str, Any]:
  """Presents the lines of a comparison as the result of a benchmark."""
  records = records_lib.read(path)
  return {
    "benchmark": COMPARISON,
    "device": records[-1]["device"],
    "task": records[-1]["task"],
    "grid": path.parent.name,
    "rows": records,
    "tested": _tests(path, records),
    "plots": sorted(path.parent.glob("*.png")),
  }


def _tests(
  path: pathlib.Path, records: records_lib.Records
) -> comparison_tests.Tests:
  """Tests a comparison against the usual baselines, from its lines."""
  names = list(records_lib.arms(records))
  baselines = comparison_tests.choose_baselines([], names)
  if path.parent.name == _DRAWN[-1]:
    baselines.append(_RIVAL)
  return comparison_tests.run_tests(
    records, baselines, kept=comparison_tests.read(path)
  )


def draw(folder: pathlib.Path) -> None:
  """Draws the plots of speculative decoding and of the comparisons of _DRAWN.

  They are written beside what was measured.
  """
  for path in folder.glob(_FILES[_DRAFTS]):
    rows = json.loads(path.read_text("utf-8"))["rows"]
    draft_plot.draw(rows).savefig(path.with_suffix(".png"), dpi=120)
  for path in folder.glob("quality/*/*/runs.jsonl"):
    if path.parent.name not in _DRAWN:
      continue
    records = records_lib.read(path)
    comparison_page.draw(records, _tests(path, records), path.parent)


def main(argv: Sequence[str]) -> None:
  """Rewrites the pages, or checks them."""
  if len(argv) > 1:
    sys.exit(f"Error: unknown arguments: {' '.join(argv[1:])}")
  try:
    before = {path: path.read_text("utf-8") for path in PAGES}
    check_names(list(before.values()))
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f"Error: {error}")
  if not _CHECK.value:
    draw(harness.RESULTS)
  results = read_results(harness.RESULTS)
  after = {path: rebuild(text, results) for path, text in before.items()}
  changed = [path for path in PAGES if before[path] != after[path]]
  names = ", ".join(path.name for path in changed)
  if changed and _CHECK.value:
    sys.exit(f"{names}: differs; run `python -m benchmarks.tables`")
  for path in changed:
    path.write_text(after[path], encoding="utf-8")
  print(f"Rewritten: {names}" if changed else "All pages are up to date")


if __name__ == "__main__":
  app.run(main)
