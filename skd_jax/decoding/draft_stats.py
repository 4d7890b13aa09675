"""How many drafted tokens were accepted, counted on the host."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from skd_jax import structs


@dataclasses.dataclass(frozen=True)
class DraftStats:
  """Counts of the drafts of `speculative_decode`.

  A drafted token is judged if all tokens before it in its draft were accepted.
  G = 3, the drafts of one response:

    drafted      c d e       f g h       i j k
    emitted      c D         f g h H     I            judged     3 2 1
    accepted     y n -       y y y       n - -        accepted   2 1 1

  judged: drafted tokens that were judged, by their place in the draft.
  accepted: those of them that were emitted.
  slowest_judged, slowest_accepted: the same of the row of each batch that took
    the most rounds, which the others waited for; in all places.
  emitted: tokens of all responses.
  rounds: teacher passes, summed over the rows.
  """

  judged: Sequence[int] = ()  # G, or 0 before anything is counted
  accepted: Sequence[int] = ()
  slowest_judged: int = 0
  slowest_accepted: int = 0
  emitted: int = 0
  rounds: int = 0

  def __add__(self, other: "DraftStats") -> "DraftStats":
    """Adds counts up; both of the same G, or one of them empty."""
    if not self.rounds or not other.rounds:
      return self if self.rounds else other

    def add(a, b):
      return tuple(x + y for x, y in zip(a, b, strict=True))

    return DraftStats(
      judged=add(self.judged, other.judged),
      accepted=add(self.accepted, other.accepted),
      slowest_judged=self.slowest_judged + other.slowest_judged,
      slowest_accepted=self.slowest_accepted + other.slowest_accepted,
      emitted=self.emitted + other.emitted,
      rounds=self.rounds + other.rounds,
    )

  @property
  def acceptance(self) -> float:
    """The share of the judged tokens that was accepted; 0 if there are none."""
    return sum(self.accepted) / max(sum(self.judged), 1)

  @property
  def expectations(self) -> dict[str, float]:
    """What `speculative_decode` may expect of more such prompts.

    Nothing, if no token was judged.
    """
    if not sum(self.judged):
      return {}
    slowest = self.acceptance
    if self.slowest_judged:
      slowest = self.slowest_accepted / self.slowest_judged
    return {
      "expected_acceptance": self.acceptance,
      "slowest_acceptance": slowest,
    }

  @property
  def acceptance_by_position(self) -> list[float]:
    """The same by the place in the draft, up to the last that was judged."""
    pairs = zip(self.accepted, self.judged, strict=True)
    return [accepted / judged for accepted, judged in pairs if judged]

  @property
  def tokens_per_pass(self) -> float:
    """Tokens that a teacher pass emits in a row; 1 is plain decoding."""
    return self.emitted / max(self.rounds, 1)


def count(rollout: structs.Rollout, num_draft_tokens: int) -> DraftStats:
  """Counts the drafts of responses.

  Args:
    rollout: [B, T], a batch of `speculative_decode`, on the host.
    num_draft_tokens: G.
  """
  positions = np.arange(rollout.tokens.shape[1])[None, :]
  emitted = positions < np.asarray(rollout.length)[:, None]
  accepted = emitted & (np.asarray(rollout.source) == structs.STUDENT)
  replaced = np.asarray(rollout.tokens) != np.asarray(rollout.draft_tokens)
  # A draft begins after each token of the teacher's, and in front.
  ends = np.where(accepted, 0, positions + 1)
  begins = np.pad(np.maximum.accumulate(ends, axis=1), ((0, 0), (1, 0)))
  place = positions - begins[:, :-1]

  def by_place(which):
    counts = np.bincount(place[which], minlength=num_draft_tokens)
    return tuple(counts[:num_draft_tokens].tolist())

  judged = accepted | (emitted & replaced)
  slowest = np.argmax(rollout.num_rounds)
  return DraftStats(
    judged=by_place(judged),
    accepted=by_place(accepted),
    slowest_judged=int(judged[slowest].sum()),
    slowest_accepted=int(accepted[slowest].sum()),
    emitted=int(emitted.sum()),
    rounds=int(np.sum(rollout.num_rounds)),
  )
