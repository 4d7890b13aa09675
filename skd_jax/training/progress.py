"""The progress bar of a stage, and the signals that stop it."""

import contextlib
import math
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tqdm

from skd_jax.parallel import processes


class Progress:
  """The progress bar of the first process, with the newest of every number."""

  def __init__(self, name: str, first: int, num_steps: int):
    self._name = name
    self._shows = processes.is_first()
    self._bar = tqdm.tqdm(
      total=num_steps,
      initial=first,
      desc=name,
      unit="step",
      disable=not self._shows,
    )
    self._newest: dict[str, Any] = {}
    self._given: set[str] = set()  # Each warning is given once.

  def step(self) -> None:
    """One more step is done."""
    self._bar.update()

  def show(self, line: Mapping[str, Any], signs: Mapping[str, str]) -> None:
    """Shows a line of the log, and warns of its signs of trouble.

    Args:
      line: of the log.
      signs: as of health.signs.
    """
    self._newest |= line
    self._bar.set_postfix_str(_short(self._newest, signs))
    for name, text in signs.items():
      if self._shows and name not in self._given:
        tqdm.tqdm.write(f"Warning: {self._name}: {text}")
    self._given |= signs.keys()

  def close(self) -> None:
    """Leaves the bar as it is."""
    self._bar.close()


def _short(line: Mapping[str, float], signs: Iterable[str]) -> str:
  """The newest numbers for the progress bar, and the signs of trouble."""
  formats = {
    "loss": "loss {:.3f}",
    "kl": "kl {:.3f}",
    "replacement_rate": "replaced {:.1%}",
    "accepted_per_round": "{:.1f} per round",
    "truncated": "cut {:.0%}",
    # The student's mass on the teacher's top tokens, at the last validation.
    "validation_student_top_mass": "mass {:.1%}",
  }
  shown = [text.format(line[k]) for k, text in formats.items() if k in line]
  shown += [f"WARNING {name}" for name in signs]
  if math.isfinite(line.get("tokens_per_s", math.nan)):
    shown.append(f"{line['tokens_per_s']:.0f} tok/s")
  return ", ".join(shown)


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
  """Yields an event that the first SIGINT or SIGTERM sets.

  The second one acts as ever. Outside the main thread signals are left alone.
  """
  event = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield event
    return
  before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
  shows = processes.is_first()  # Not asked for inside a signal.

  def restore():
    for number, handler in before.items():
      signal.signal(number, handler)

  def on_signal(*_):
    if shows:
      tqdm.tqdm.write(
        "Finishing this step, then saving. Once more to quit now."
      )
    event.set()
    restore()

  for number in before:
    signal.signal(number, on_signal)
  try:
    yield event
  finally:
    restore()
