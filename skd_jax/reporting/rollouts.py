"""Rollouts to read in report.html, every token coloured by its source.

  SAMPLES/STEP.json -> read -> SampleView -> response, ribbon -> HTML

Without scripts the page shows every rollout with its colours. What both models
thought of a token is in its `data-token` attribute, as JSON, and is shown on
hover, keyboard focus and click.
"""

import dataclasses
import html
import json
import math
import pathlib
from collections.abc import Iterable, Sequence

import markupsafe

from skd_jax.reporting import boards

_SOURCES = ("student", "teacher")
_BLANKS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})


@dataclasses.dataclass(frozen=True)
class TokenView:
  """One response token, and what both models thought at its position.

  text: the token as emitted.
  source: "student" (accepted proposal) or "teacher" (replacement).
  student_token: what the student proposed here.
  teacher_token: the teacher's own first choice here.
  rank: rank of the student's proposal in the teacher's logits, 0 is best.
  student_prob: probability of the proposal under the student, 0 to 1.
  teacher_prob: probability of the proposal under the teacher, 0 to 1.
  emitted_teacher_prob: probability of `text` under the teacher, 0 to 1.

  A probability that is not known is NaN.
  """

  text: str
  source: str
  student_token: str
  teacher_token: str
  rank: int
  student_prob: float
  teacher_prob: float
  emitted_teacher_prob: float

  def __post_init__(self) -> None:
    if self.source not in _SOURCES:
      raise ValueError(
        f"source is {self.source!r}; allowed: {', '.join(_SOURCES)}"
      )


@dataclasses.dataclass(frozen=True)
class SampleView:
  """One rollout as text.

  truncated: the response ended at the length limit, not at EOS.
  step: the training step whose student proposed it.
  """

  prompt: str
  reference: str
  tokens: Sequence[TokenView]
  truncated: bool
  step: int


def read(folder: pathlib.Path) -> list[SampleView]:
  """Reads the rollouts of FOLDER/STEP.json, as dataclasses.asdict has them."""
  paths = sorted(folder.glob("*.json"), key=lambda path: int(path.stem))
  return [
    SampleView(
      **entry | {"tokens": [TokenView(**token) for token in entry["tokens"]]}
    )
    for path in paths
    for entry in json.loads(path.read_text("utf-8"))
  ]


def counts(samples: Iterable[SampleView]) -> tuple[int, int]:
  """Returns how many tokens of some rollouts are the teacher's, and all."""
  sources = [token.source for sample in samples for token in sample.tokens]
  return sources.count("teacher"), len(sources)


def count_text(sample: SampleView) -> str:
  """Returns the share of replaced tokens in words."""
  replaced, total = counts([sample])
  if not total:
    return "no tokens"
  share = f"{100 * replaced / total:.1f}\N{NBSP}%"
  return f"{replaced} of {total} tokens ({share}) replaced"


def texts(samples: Iterable[SampleView]) -> boards.Texts:
  """Returns rollouts as plain text, a replaced token as [proposal→token]."""
  rows = []
  for sample in samples:
    tokens = [
      f"[{token.student_token}→{token.text}]"
      if token.source == "teacher"
      else token.text
      for token in sample.tokens
    ]
    rows.append((sample.prompt, "".join(tokens), sample.reference))
  return boards.Texts(("prompt", "rollout", "reference"), rows)


def response(sample: SampleView, identity: str) -> markupsafe.Markup:
  """Returns the tokens of a rollout as HTML.

  Args:
    sample: the rollout.
    identity: that no other rollout of the page has; token i is IDENTITY-i.
  """
  tokens = (
    _token(f"{identity}-{i}", token, focusable=i == 0)
    for i, token in enumerate(sample.tokens)
  )
  return markupsafe.Markup("".join(tokens))


def ribbon(sample: SampleView) -> markupsafe.Markup:
  """Draws a rollout as a strip with a mark at each replaced token: SVG."""
  marks = "".join(
    f"M{i} 0h1v1h-1z"
    for i, token in enumerate(sample.tokens)
    if token.source == "teacher"
  )
  width = max(1, len(sample.tokens))
  return markupsafe.Markup(
    f'<svg class="ribbon" viewBox="0 0 {width} 1" preserveAspectRatio="none"'
    f' aria-hidden="true"><rect width="{width}" height="1"/>'
    f'<path d="{marks}"/></svg>'
  )


def _token(identity: str, token: TokenView, *, focusable: bool) -> str:
  details = [
    _visible(token.text),
    _visible(token.student_token),
    _visible(token.teacher_token),
    token.rank,
    *map(
      _finite_or_none,
      (token.student_prob, token.teacher_prob, token.emitted_teacher_prob),
    ),
  ]
  # A blank before a word stays outside its mark: " <del>house</del>".
  text, blanks = _shown(token.text), ""
  if token.text.strip():
    text = text.lstrip(" ")
    blanks = " " * (len(token.text) - len(token.text.lstrip(" ")))
  proposal = ""
  if token.source == "teacher":
    proposal = _struck_out(token.student_token)
  data = html.escape(json.dumps(details, ensure_ascii=False, allow_nan=False))
  teacher_prob = _finite_or_none(token.emitted_teacher_prob) or 0.0
  return (
    f'{proposal}{blanks}<span class="token {token.source}" id="{identity}"'
    f' tabindex="{0 if focusable else -1}" style="--p:{teacher_prob:.3f}"'
    f' data-token="{data}">{text}</span>'
  )


def _struck_out(text: str) -> str:
  shown = html.escape(_visible(text).strip())
  spaced = ' class="spaced"' if shown and text.startswith(" ") else ""
  return f"<del{spaced}>{shown}</del>"


def _visible(text: str) -> str:
  """Returns the text, or signs for it where there is nothing to see."""
  if not text:
    return "∅"
  return text.translate(_BLANKS) if text.isspace() else text


def _shown(text: str) -> str:
  """Returns the HTML of a token; a line feed still breaks the line."""
  signs = html.escape(_visible(text))
  if text and not text.isspace():
    return signs
  return f'<span class="blank">{signs}</span>' + "\n" * text.count("\n")


def _finite_or_none(value: float) -> float | None:
  return float(f"{value:.4g}") if math.isfinite(value) else None
