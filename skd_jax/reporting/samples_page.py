"""samples.html: rollouts to read, every token coloured by its source.

  TokenView, SampleView -> write_samples -> one file, no network

The page is text first: without scripts it still shows every rollout with its
colours. What both models thought of a token is in its `data-token`
attribute, as JSON, and is shown on hover, keyboard focus and click.
"""

import dataclasses
import html
import importlib.resources
import json
import math
import pathlib
import string
from collections import defaultdict
from collections.abc import Iterable, Sequence

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


def write_samples(
  path: str | pathlib.Path,
  samples: Sequence[SampleView],
  *,
  title: str,
  subtitle: str,
) -> None:
  """Writes one self-contained HTML page that shows the rollouts.

  The page filters by training step, and where the same prompt was answered at
  the first and at the last step, it can lay both side by side.

  Args:
    path: the file to write; an older one is overwritten.
    samples: rollouts, in any order of steps.
    title: heading of the page, plain text.
    subtitle: the line below it, plain text: task, models, rule.

  Raises:
    ValueError: if there are no samples.
  """
  if not samples:
    raise ValueError("samples is empty; at least one rollout is needed")
  samples = sorted(samples, key=lambda sample: sample.step)
  pairs = _pair_first_and_last(samples)
  template = (
    importlib.resources.files("skd_jax.reporting") / "templates/samples.html"
  )
  page = string.Template(template.read_text(encoding="utf-8")).substitute(
    title=html.escape(title),
    subtitle=html.escape(subtitle),
    summary=_count_text(samples),
    tabs=_tabs(samples, comparable=bool(pairs)),
    cards="\n".join(
      _card(i, sample, pairs.get(i)) for i, sample in enumerate(samples)
    ),
  )
  pathlib.Path(path).write_text(page, encoding="utf-8")


def read_samples(folder: pathlib.Path) -> list[SampleView]:
  """Reads the rollouts of FOLDER/STEP.json, as dataclasses.asdict has them."""
  paths = sorted(folder.glob("*.json"), key=lambda path: int(path.stem))
  return [
    SampleView(
      **entry | {"tokens": [TokenView(**token) for token in entry["tokens"]]}
    )
    for path in paths
    for entry in json.loads(path.read_text("utf-8"))
  ]


def replacement_rate(samples: Iterable[SampleView]) -> float:
  """Returns the share of tokens, 0 to 1, that are the teacher's.

  Every token of every sample counts the same. NaN where there are no tokens.
  """
  replaced, total = _count(samples)
  return replaced / total if total else math.nan


def _count(samples: Iterable[SampleView]) -> tuple[int, int]:
  sources = [token.source for sample in samples for token in sample.tokens]
  return sources.count("teacher"), len(sources)


def _count_text(samples: Sequence[SampleView]) -> str:
  replaced, total = _count(samples)
  if not total:
    return "no tokens"
  return f"{replaced} of {total} tokens ({_percent(replaced / total)})"


def _percent(rate: float) -> str:
  return "no tokens" if math.isnan(rate) else f"{100 * rate:.1f}\N{NBSP}%"


def _pair_first_and_last(samples: Sequence[SampleView]) -> dict[int, int]:
  """Maps sample index to its place in the first-against-last view.

  A prompt that was sampled twice at a step is paired in order:

    step, prompt   0,a  0,a  0,b  9,a  9,a  9,c
    place          0    2    -    1    3    -
  """
  first, last = samples[0].step, samples[-1].step
  if first == last:
    return {}
  by_prompt = defaultdict(lambda: ([], []))
  for i, sample in enumerate(samples):
    if sample.step in (first, last):
      by_prompt[sample.prompt][sample.step == last].append(i)
  couples = [
    couple
    for early, late in by_prompt.values()
    for couple in zip(early, late, strict=False)
  ]
  return {
    i: 2 * n + side
    for n, couple in enumerate(couples)
    for side, i in enumerate(couple)
  }


def _tabs(samples: Sequence[SampleView], *, comparable: bool) -> str:
  steps = sorted({sample.step for sample in samples})
  tabs = []
  if comparable:
    tabs.append(("compare", "First and last", f"step {steps[0]}, {steps[-1]}"))
  tabs.append(("all", "All", f"{len(samples)} rollouts"))
  for step in steps if len(steps) > 1 else ():
    rate = replacement_rate(s for s in samples if s.step == step)
    tabs.append((str(step), f"Step {step}", f"{_percent(rate)} replaced"))
  return "".join(
    f'<label><input type="radio" name="view" value="{value}"'
    f"{' checked' if i == 0 else ''}>"
    f"<span>{name}<small>{detail}</small></span></label>"
    for i, (value, name, detail) in enumerate(tabs)
  )


def _card(index: int, sample: SampleView, pair: int | None) -> str:
  cut = '<span class="cut">cut at the length limit</span>'
  tokens = "".join(
    _token(f"t-{index}-{i}", token, focusable=i == 0)
    for i, token in enumerate(sample.tokens)
  )
  return f"""\
<article data-step="{sample.step}" data-pair="{"" if pair is None else pair}">
<div class="meta"><b>Step {sample.step}</b>{cut if sample.truncated else ""}
<span class="rate">{_count_text([sample])} replaced</span></div>
{_ribbon(sample.tokens)}
<h2>Prompt</h2><p class="prompt">{html.escape(sample.prompt)}</p>
<h2>Response</h2><p class="response">{tokens}</p>
<h2>Reference</h2><p class="reference">{html.escape(sample.reference)}</p>
</article>"""


def _ribbon(tokens: Sequence[TokenView]) -> str:
  """Draws the response as a strip with a mark at each replaced token."""
  marks = "".join(
    f"M{i} 0h1v1h-1z"
    for i, token in enumerate(tokens)
    if token.source == "teacher"
  )
  width = max(1, len(tokens))
  return (
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
