"""Numbers that change over a run, such as the acceptance threshold.

constant   5  5  5  5  5      linear     5  4    3    2    1
step       5  5  5  1  1      cosine     5  4.4  3    1.6  1
                              geometric  5  3.3  2.2  1.5  1

distance   5, and then what training/distance.py makes of the rollouts, from 5
           down to 1
"""

import dataclasses
import math

SHAPES = ("constant", "linear", "cosine", "geometric", "step")
BY_DISTANCE = "distance"


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A number at each step of a run.

  start: at the first step; at every step where `shape` is constant.
  end: at the last step; unused where `shape` is constant.
  shape: one of SHAPES, or BY_DISTANCE. `step` jumps from start to end.
  switch_at: where `step` jumps, as a share of the run.
  num_steps: of the run; past its last step the value stays.
  """

  start: float
  end: float = 0.0
  shape: str = "constant"
  switch_at: float = 0.5
  num_steps: int = 1

  def __post_init__(self):
    shapes = (*SHAPES, BY_DISTANCE)
    if self.shape not in shapes:
      raise ValueError(f"schedule = {self.shape!r}: must be one of {shapes}")
    if self.shape != "constant" and not math.isfinite(self.start + self.end):
      raise ValueError(
        f"schedule = {self.shape!r} from {self.start} to {self.end}: both must "
        "be finite"
      )
    if self.shape == "geometric" and min(self.start, self.end) <= 0:
      raise ValueError(
        f"schedule = 'geometric' from {self.start} to {self.end}: both must be "
        "above 0"
      )

  def __call__(self, step: int) -> float:
    """Returns the value at step 0, ..., num_steps - 1; past them, the last.

    Of BY_DISTANCE, the first.
    """
    if self.shape in ("constant", BY_DISTANCE):
      return self.start
    if self.shape == "step":
      return self.start if step < self.switch_at * self.num_steps else self.end
    done = min(step / max(self.num_steps - 1, 1), 1.0)
    if self.shape == "geometric":
      return self.start * (self.end / self.start) ** done
    if self.shape == "cosine":
      done = (1 - math.cos(math.pi * done)) / 2
    return self.start + done * (self.end - self.start)

  @property
  def extremes(self) -> tuple[float, ...]:
    """The values between which all others are."""
    if self.shape == "constant":
      return (self.start,)
    return (self.start, self.end)
