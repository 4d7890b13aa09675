"""Rebuilds the tables of the README from benchmarks/results/.

  python -m benchmarks.tables [--check]

A table stands between two comments, and everything between them is replaced:

  <!-- table: rollout_speed -->
  <!-- end -->

The plots of the comparisons of all methods are drawn again as well.
"""

import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

from benchmarks import (
  columns,
  comparison,
  comparison_plots,
  harness,
  targets,
)

_CHECK = flags.DEFINE_bool(
  "check", False, "Write nothing; exit with 1 where the README differs."
)
COMPARISON = "compare_methods"
_DRAWN = "methods"  # The grid whose plots the README shows.
NAMES = (*targets.TARGETS, COMPARISON)  # In the README, a table each.
README = pathlib.Path(__file__).parent.parent / "README.md"


def rebuild(readme: str, results: Sequence[Mapping[str, Any]]) -> str:
  """Returns the text of the README with the tables of some results.

  Args:
    readme: the text.
    results: JSON objects of benchmarks; several of one benchmark, from several
      devices, stand below each other.

  Raises:
    ValueError: the README has no place for the table of a benchmark.
  """
  for name in NAMES:
    place = re.compile(
      rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", flags=re.DOTALL
    )
    if not place.search(readme):
      raise ValueError(
        f"README.md: needs the lines '<!-- table: {name} -->' and "
        "'<!-- end -->' around the table"
      )
    found = [result for result in results if result["benchmark"] == name]
    text = "\n".join(section(result) for result in found)
    if found and name == COMPARISON:
      text = f"{comparison.LEGEND}\n{text}"
    text = text or "Not measured yet.\n"
    readme = place.sub(
      lambda m, text=text: m[1] + "\n" + text + "\n" + m[2], readme
    )
  return readme


def section(result: Mapping[str, Any]) -> str:
  """Returns the tables of one result, and what it was measured with."""
  if result["benchmark"] == COMPARISON:
    title = f"**{result['task']}: {result['grid']}**"
    text = comparison.section(result["rows"], result["tested"])
    images = "".join(
      f"\n![{path.stem}](benchmarks/results/{path.parent.name}/{path.name})\n"
      for path in result["plots"]
    )
    return f"{title}\n\n{text}{images}"
  name, rows = result["benchmark"], result["rows"]
  used = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
  parts = [f"`{result['command']}` on {result['device']} ({used}):"]
  if name == "rollout_speed":
    parts += _speed_tables(rows)
  else:
    parts.append(_table(rows, columns.COLUMNS[name]))
  if result["device"].startswith("cpu") and targets.TARGETS[name]:
    parts.append(harness.format_table(targets.table(name, rows)))
  return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
  noted = any(row.get("note") for row in rows)
  return harness.format_table(rows, [*columns, "note"] if noted else columns)


def _speed_tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """Tokens per second and fractions of the limit, one column a batch."""
  queue = [row for row in rows if row["what"].startswith("queue")]
  others = [row for row in rows if row not in queue]
  return [
    "Tokens per second, by batch:",
    pivot(others, "tokens_per_s"),
    "Fraction of the limit that memory bandwidth and matmul rate set:",
    pivot(
      [row for row in others if row.get("fraction_of_limit") is not None],
      "fraction_of_limit",
    ),
    "Refill queue:",
    _table(
      queue,
      ("what", "batch", "tokens_per_s", "shortest", "mean_length", "longest"),
    ),
  ]


def pivot(rows: Sequence[Mapping[str, Any]], column: str) -> str:
  """Returns a table of one row a `what` and one column a batch."""
  lines: list[dict[str, Any]] = []
  batches = sorted({row["batch"] for row in rows})
  for what in targets.whats(rows):
    line: dict[str, Any] = {"what": what}
    for row in rows:
      if row["what"] == what:
        value = row.get(column)
        line[str(row["batch"])] = row.get("note") if value is None else value
    lines.append(line)
  return harness.format_table(lines, ["what", *map(str, batches)])


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the kept results of the benchmarks that have a table, CPUs first."""
  found = [
    json.loads(path.read_text("utf-8"))
    for name in targets.TARGETS
    for path in sorted(folder.glob(f"{name}.*.json"))
  ]
  found += [
    _comparison(path) for path in sorted(folder.glob(f"{COMPARISON}.*.jsonl"))
  ]
  # Of the comparisons, that of all methods first.
  return sorted(
    found,
    key=lambda result: (
      not result["device"].startswith("cpu"),
      result.get("grid") != _DRAWN,
    ),
  )


def _comparison(path: pathlib.Path) -> dict[str, Any]:
  """Presents the lines of a comparison as the result of a benchmark."""
  records = comparison.read(path)
  return {
    "benchmark": COMPARISON,
    "device": records[-1]["device"],
    "task": records[-1]["task"],
    "grid": path.stem.split(".")[-1],
    "rows": records,
    "tested": comparison.read_tests(path),
    "plots": sorted(_plots_of(path).glob("*.png")),
  }


def _plots_of(path: pathlib.Path) -> pathlib.Path:
  return path.with_suffix("")


def draw(folder: pathlib.Path) -> None:
  """Draws the plots of each comparison of all methods, beside its lines."""
  for path in folder.glob(f"{COMPARISON}.*.{_DRAWN}.jsonl"):
    _plots_of(path).mkdir(exist_ok=True)
    comparison_plots.draw_all(comparison.read(path), _plots_of(path))


def main(argv: Sequence[str]) -> None:
  """Rewrites the README, or checks it."""
  if len(argv) > 1:
    sys.exit(f"Error: unknown arguments: {' '.join(argv[1:])}")
  before = README.read_text("utf-8")
  if not _CHECK.value:
    draw(harness.RESULTS)
  try:
    after = rebuild(before, read_results(harness.RESULTS))
  except ValueError as error:
    sys.exit(f"Error: {error}")
  if before == after:
    print("README.md is up to date")
  elif _CHECK.value:
    sys.exit("README.md differs; run `python -m benchmarks.tables`")
  else:
    README.write_text(after, encoding="utf-8")
    print("README.md is rewritten")


if __name__ == "__main__":
  app.run(main)
