"""Stages of a run, cached in the workdir.

Each stage (teacher, student_init, distill_seed_0, ...) has a record
`stages/NAME.json` with the settings that it depends on, those of the stages
before it included. A second start with the same settings takes the result of a
finished stage and continues an unfinished one; with others, it says which
setting makes the stage stale, and stops. Of several processes, the first reads
and writes the records, and all take what it finds.
"""

import json
import pathlib
from typing import Any

import ml_collections

from skd_jax import config as config_lib
from skd_jax.parallel import processes
from skd_jax.reporting import metric_log

# Settings that change what is shown or saved when, or the memory that it takes,
# but not the result; or that only name what a folder holds.
_WITHOUT_EFFECT = (
  "log_every_steps",
  "checkpoint_every_steps",
  "evaluate_every_steps",
  "remat",
  ".checkpoint",
)


def settings(
  config: ml_collections.ConfigDict, *sections: str
) -> dict[str, Any]:
  """Flattens sections of the config: {"data.kind": "embedded", ...}."""
  plain = config_lib.to_plain(config)
  flat: dict[str, Any] = {}

  def add(prefix: str, value: Any) -> None:
    if isinstance(value, dict):
      for name, inner in value.items():
        add(f"{prefix}.{name}", inner)
    elif not prefix.endswith(_WITHOUT_EFFECT):
      flat[prefix] = value

  for section in sections:
    value = plain
    for name in section.split("."):
      value = value[name]
    add(section, value)
  return flat


def begin(
  workdir: pathlib.Path, name: str, depends_on: dict[str, Any]
) -> dict[str, Any] | None:
  """Looks a stage up, and marks it as begun.

  Args:
    workdir: the folder of the run.
    name: of the stage.
    depends_on: what its result depends on, flat.

  Returns:
    The result of the finished stage, or None if it has to be run or continued.

  Raises:
    ValueError: the workdir holds the stage with other settings; the message
      names them and the ways out.
  """
  path = workdir / "stages" / f"{name}.json"
  record = processes.on_first(_read_or_begin, path, depends_on)
  _check_fresh(workdir, name, record["depends_on"], depends_on)
  return record["result"]


def finish(
  workdir: pathlib.Path,
  name: str,
  depends_on: dict[str, Any],
  result: dict[str, Any],
) -> dict[str, Any]:
  """Records the result of a stage (plain JSON) and returns it.

  Of several processes, that of the first: times differ.
  """
  path = workdir / "stages" / f"{name}.json"
  return processes.on_first(_write, path, depends_on, result)["result"]


def _read_or_begin(path: pathlib.Path, depends_on: dict) -> dict[str, Any]:
  if path.exists():
    return json.loads(path.read_text("utf-8"))
  return _write(path, depends_on, None)


def _write(
  path: pathlib.Path, depends_on: dict, result: dict | None
) -> dict[str, Any]:
  path.parent.mkdir(parents=True, exist_ok=True)
  record = {"depends_on": depends_on, "result": result}
  metric_log.write_atomically(path, json.dumps(record, indent=2) + "\n")
  return record


def _check_fresh(
  workdir: pathlib.Path, name: str, before: dict, now: dict
) -> None:
  changed = [
    f"{field} was {before.get(field)!r} and is {now.get(field)!r}"
    for field in sorted(before.keys() | now.keys())
    if before.get(field) != now.get(field)
  ]
  if not changed:
    return
  shown = "; ".join(changed[:5])
  if len(changed) > 5:
    shown += f"; and {len(changed) - 5} more"
  raise ValueError(
    f"stage {name!r} in {workdir} is stale: {shown}. Undo the change, choose "
    f"another --workdir, or delete {workdir} to begin anew"
  )
