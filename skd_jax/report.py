"""Finished runs beside each other: python -m skd_jax.report RUN RUN ...

  python -m skd_jax.report workdir/skd workdir/on_policy --page=both.html

writes the page that each run has as report.html for all of them: scores,
curves, and their answers to the prompts that all have. The command line alone;
the function is in report_page.py.
"""

import pathlib
from collections.abc import Sequence

from absl import app, flags

_PAGE = flags.DEFINE_string(
  "page", "report.html", "The file to write; an older one is overwritten."
)


def write_page(page: str, runs: Sequence[str]) -> str:
  """Writes the page of some finished runs.

  Args:
    page: the file to write.
    runs: the workdirs, at least one.

  Returns:
    A line that says what was written.

  Raises:
    ValueError: a run is not finished, or is named twice.
    OSError: a file is missing, or cannot be written.
  """
  # Imported late, so that --help is quick.
  from skd_jax import report_page

  if len({pathlib.Path(run).resolve() for run in runs}) < len(runs):
    raise ValueError(f"runs = {', '.join(runs)}: must be distinct")
  names = [pathlib.Path(run).resolve().name for run in runs]
  if len(set(names)) < len(names):
    names = list(runs)
  if len(runs) == 1:
    names = [""]
  workdirs = {
    name: (pathlib.Path(run), report_page.read_report(pathlib.Path(run)))
    for name, run in zip(names, runs, strict=True)
  }
  report_page.write(pathlib.Path(page), workdirs)
  return f"{page}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}"


def main(argv: Sequence[str]) -> None:
  """Reads the flags, writes the page."""
  if len(argv) < 2:
    raise app.UsageError("RUN is missing: the workdir of a finished run")
  from skd_jax import messages

  with messages.errors_in_one_line():
    print(write_page(_PAGE.value, argv[1:]))


if __name__ == "__main__":
  app.run(main)
