"""Scores of answers by name, as their libraries compute them, from 0 to 100.

  bleu, chrf   sacrebleu, over the corpus
  rouge1, rouge2, rougeL
               rouge-score, the F-measure of common words, of pairs of words and
               of the longest common subsequence, a mean over the answers; it
               reads the letters a-z and digits only
  accuracy     answers whose final answer is right, see `final_answer`
  math         math-verify, an extra: answers whose formula, in \\boxed{} or at
               the end, has the value of that of the reference
  steps        the share of the steps before the first error, see `first_error`;
               a mean over the answers
  comet        unbabel-comet with a checkpoint, a mean over the answers
  acceptance, greedy_acceptance
               of no answers, but of a student's drafts; see drafting.py

All have one scale, so that a mean over tasks means something. Answers and
references are compared in NFC: a tokenizer may write no other form.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from sacrebleu.metrics import BLEU, CHRF

OF_PAIR = ("acceptance", "greedy_acceptance")
METRICS = (
  "bleu",
  "chrf",
  "rouge1",
  "rouge2",
  "rougeL",
  "accuracy",
  "math",
  "steps",
  "comet",
  *OF_PAIR,
)

Lines = Sequence[str]
# (sources, answers, references) -> (score, signature)
_Scorer = Callable[[Lines, Lines, Lines], tuple[float, str]]

# Not the minus of 7-5, nor a digit of a word such as B2, nor the fraction of a
# date.
_NUMBER = re.compile(
  r"(?P<sign>(?<![\w)])-)?(?<![\w.])"
  r"(?:(?<!/)(?<!/ )(?:(?P<whole>\d+) )?"
  r"(?P<part>\d+) ?/ ?(?P<of>\d*[1-9]\d*)(?!\d| ?/|\.\d)"
  r"|(?P<decimal>\d+(?:\.\d+)?|\.\d+))"
)
_CURRENCY = re.compile("[$\N{CENT SIGN}-\N{YEN SIGN}\u20a0-\u20cf] ?")
_FRACTIONS = "\xbc\xbd\xbe" + "".join(map(chr, range(0x2150, 0x215F)))
_SLASH = "\N{FRACTION SLASH}"
# A half, which is one character, becomes 1/2.
_SPELLED = str.maketrans(
  {
    sign: unicodedata.normalize("NFKC", sign).replace(_SLASH, "/")
    for sign in (*_FRACTIONS, _SLASH)
  }
)
_MAX_DIGITS = 1000  # Python reads no more than 4,300 as a number.
_COMET_PROGRAM = """
import json, sys
from importlib.metadata import version
from comet import load_from_checkpoint
model = load_from_checkpoint(sys.argv[1], local_files_only=True)
data = json.load(sys.stdin)
score = model.predict(data, batch_size=16, gpus=0, progress_bar=False)
print(json.dumps([float(score.system_score), version("unbabel-comet")]))
"""


@dataclasses.dataclass(frozen=True)
class Comet:
  """Where COMET is; its library needs an environment of its own.

  unbabel-comet 2 wants numpy 1 and transformers 4, so it is run by another
  Python than this one:

    python -m venv FOLDER && FOLDER/bin/pip install "unbabel-comet>=2.2,<3"
  """

  checkpoint: str  # The file checkpoints/model.ckpt, hparams.yaml above it.
  python: str  # FOLDER/bin/python


def check_metrics(metrics: Sequence[str], comet: Comet) -> None:
  """Checks that every metric is known and can be computed here.

  Raises:
    ValueError: a metric is unknown or twice, or comet has no model or library.
  """
  if not metrics or len(set(metrics)) != len(metrics):
    raise ValueError(
      f"metrics = {tuple(metrics)}: must be distinct, at least one"
    )
  for name in metrics:
    if name not in METRICS:
      raise ValueError(
        f"metrics has {name!r}: must be one of {', '.join(METRICS)}"
      )
  if "math" in metrics and importlib.util.find_spec("math_verify") is None:
    raise ValueError(
      "metrics has 'math': needs math-verify (pip install "
      "'math-verify[antlr4_13_2]>=0.9,<0.10')"
    )
  if "comet" not in metrics:
    return
  if not pathlib.Path(comet.checkpoint).is_file():
    raise ValueError(
      "metrics has 'comet': evaluate.comet_checkpoint = "
      f"{comet.checkpoint!r} must be the file model.ckpt of a checkpoint"
    )
  probe = "import importlib.util as u, sys; sys.exit(not u.find_spec('comet'))"
  program = shutil.which(comet.python)
  if program is None or _run_elsewhere(program, ["-c", probe]).returncode:
    raise ValueError(
      f"metrics has 'comet': evaluate.comet_python = {comet.python!r} must be "
      "the Python of an environment that has unbabel-comet (python -m venv "
      "FOLDER && FOLDER/bin/pip install 'unbabel-comet>=2.2,<3')"
    )


def score(
  metrics: Sequence[str],
  sources: Lines,
  answers: Lines,
  references: Lines,
  comet: Comet | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
  """Scores answers against references.

  Args:
    metrics: names among METRICS, but none of OF_PAIR.
    sources: what was asked; read by comet only.
    answers: one for each source.
    references: one for each source.
    comet: needed by the metric comet.

  Returns:
    (scores by name in the order of `metrics`, 0 to 100; their signatures: what
    to state beside a score so that it can be computed again).

  Raises:
    ValueError: a metric is unknown, or COMET failed.
  """
  scorers: dict[str, _Scorer] = {
    "bleu": _bleu,
    "chrf": _chrf,
    "rouge1": functools.partial(_rouge, "rouge1"),
    "rouge2": functools.partial(_rouge, "rouge2"),
    "rougeL": functools.partial(_rouge, "rougeL"),
    "accuracy": _accuracy,
    "math": _math,
    "steps": _steps,
    "comet": functools.partial(_comet, comet),
  }
  answers, references = composed(answers), composed(references)
  values, signatures = {}, {}
  for name in metrics:
    if name not in scorers:
      raise ValueError(
        f"metrics has {name!r}: must be one of {', '.join(scorers)}"
      )
    values[name], signatures[name] = scorers[name](sources, answers, references)
  return values, signatures


def composed(texts: Lines) -> list[str]:
  """Returns texts in Unicode's composed form (NFC), in which all are scored."""
  return [unicodedata.normalize("NFC", text) for text in texts]


def final_answer(text: str) -> Fraction | str:
  """Returns what a worked answer comes to, to be compared by ==.

  That is the first number after `####`, or without that mark the last number:

    "She pays 3 * 4 = 12 dollars. #### $1,200.00"   Fraction(1200)
    "so 12 - 5 = 7 are left."                       Fraction(7)
    "#### -1 3/4 cups"                              Fraction(-7, 4)
    "#### Monday"                                   "monday"

  A unit is no part of it, nor are a currency and %: 50 % is 50. Text without a
  number stands for itself, in lower case.
  """
  text = _CURRENCY.sub("", text).replace("\N{MINUS SIGN}", "-")
  text = re.sub(rf"(?<=\d) ?(?=[{_FRACTIONS}])", " ", text).translate(_SPELLED)
  _, mark, after = text.partition("####")
  part = re.sub(r"^\s*- ", "-", after) if mark else text
  part = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", part)
  numbers = list(_NUMBER.finditer(part))
  if not numbers:
    return part.strip().casefold()
  number = numbers[0] if mark else numbers[-1]
  # What never ends is no number, but is a student's answer at times.
  return number[0] if len(number[0]) > _MAX_DIGITS else _value(number)


def _value(number: re.Match[str]) -> Fraction:
  """Returns what a match of _NUMBER is worth."""
  if number["decimal"]:
    value = Fraction(number["decimal"])
  else:
    value = int(number["whole"] or 0) + Fraction(
      int(number["part"]), int(number["of"])
    )
  return -value if number["sign"] else value


def first_error(answer: str, reference: str) -> int:
  """Returns the index of the first step that is wrong or missing; H if none.

  The H steps of the reference stand before `####` and are separated by `;`. A
  step is right if its text is that of the reference's step at its place:

    reference                  7+5=12;12-3=9;9+9=18 #### 18    H = 3
    7+5=12;12-3=8;8+9=17 #### 17    1
    7+5=12;12-3=9 #### 9            2
  """
  found, expected = _split_steps(answer), _split_steps(reference)
  for index, step in enumerate(expected):
    if index >= len(found) or found[index] != step:
      return index
  return len(expected)


def _split_steps(text: str) -> list[str]:
  return [step.strip() for step in text.partition("####")[0].split(";")]


def _bleu(sources: Lines, answers: Lines, references: Lines):
  del sources
  scorer = BLEU()
  result = scorer.corpus_score(list(answers), [list(references)])
  return result.score, str(scorer.get_signature())


def _chrf(sources: Lines, answers: Lines, references: Lines):
  del sources
  scorer = CHRF()
  result = scorer.corpus_score(list(answers), [list(references)])
  return result.score, str(scorer.get_signature())


def _rouge(name: str, sources: Lines, answers: Lines, references: Lines):
  del sources
  version = importlib.metadata.version("rouge_score")
  score = 100 * _mean(_rouge_values(name, answers, references))
  return score, f"rouge-score:{version}|stemmer:no|fmeasure"


def _rouge_values(name: str, answers: Lines, references: Lines) -> list[float]:
  # Imported late: it imports nltk, which takes a second.
  from rouge_score import rouge_scorer

  scorer = rouge_scorer.RougeScorer([name])
  return [
    scorer.score(reference, answer)[name].fmeasure
    for answer, reference in zip(answers, references, strict=True)
  ]


def _accuracy(sources: Lines, answers: Lines, references: Lines):
  del sources
  score = 100 * _mean(_accuracy_values(answers, references))
  return score, "exact match of the final answer"


def _accuracy_values(answers: Lines, references: Lines) -> list[float]:
  return [
    float(final_answer(answer) == final_answer(reference))
    for answer, reference in zip(answers, references, strict=True)
  ]


def _math(sources: Lines, answers: Lines, references: Lines):
  del sources
  score = 100 * _mean(_math_values(answers, references))
  return score, f"math-verify:{importlib.metadata.version('math-verify')}"


def _math_values(answers: Lines, references: Lines) -> list[float]:
  # Imported late: it is an extra, and imports sympy.
  math_verify = importlib.import_module("math_verify")
  values = []
  for answer, reference in zip(answers, references, strict=True):
    expected = math_verify.parse(reference)
    if not expected:
      raise ValueError(
        f"metrics has 'math': the reference {reference[-60:]!r} has no formula"
      )
    found = math_verify.parse(answer)
    values.append(float(math_verify.verify(expected, found)))
  return values


def _steps(sources: Lines, answers: Lines, references: Lines):
  del sources
  score = 100 * _mean(_steps_values(answers, references))
  return score, "share of the steps before the first error"


def _steps_values(answers: Lines, references: Lines) -> list[float]:
  return [
    first_error(answer, reference) / len(_split_steps(reference))
    for answer, reference in zip(answers, references, strict=True)
  ]


# (answers, references) -> the value of each answer, from 0 to 1, whose mean the
# metric is. comet is a mean as well, but is scored in another process.
MEANS: Mapping[str, Callable[[Lines, Lines], list[float]]] = {
  "rouge1": functools.partial(_rouge_values, "rouge1"),
  "rouge2": functools.partial(_rouge_values, "rouge2"),
  "rougeL": functools.partial(_rouge_values, "rougeL"),
  "accuracy": _accuracy_values,
  "math": _math_values,
  "steps": _steps_values,
}


def score_each(
  metric: str, answers: Lines, references: Lines
) -> tuple[str, list[float]]:
  """Scores each answer alone, to find the hard ones.

  Args:
    metric: among METRICS.
    answers: the answers.
    references: one for each answer.

  Returns:
    (what the scores are of: the metric where it is a mean over the answers,
    else sentence chrF; a score of each answer, 0 to 100).
  """
  answers, references = composed(answers), composed(references)
  if metric in MEANS:
    return metric, [100 * x for x in MEANS[metric](answers, references)]
  scorer = CHRF()
  return "sentence chrF", [
    scorer.sentence_score(answer, [reference]).score
    for answer, reference in zip(answers, references, strict=True)
  ]


def _comet(
  comet: Comet | None, sources: Lines, answers: Lines, references: Lines
):
  if comet is None:
    raise ValueError("metrics has 'comet': needs a checkpoint")
  data = [
    {"src": source, "mt": answer, "ref": reference}
    for source, answer, reference in zip(
      sources, answers, references, strict=True
    )
  ]
  checkpoint = pathlib.Path(comet.checkpoint).resolve()
  arguments = ["-c", _COMET_PROGRAM, str(checkpoint)]
  result = _run_elsewhere(comet.python, arguments, json.dumps(data))
  if result.returncode:
    reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
    raise ValueError(f"comet with {comet.checkpoint}: {reason}")
  # The libraries beneath it may have printed before.
  value, version = json.loads(result.stdout.strip().splitlines()[-1])
  model = checkpoint.parent.parent.name
  return 100 * value, f"unbabel-comet:{version}|model:{model}"


def _run_elsewhere(
  program: str, arguments: Sequence[str], given: str = ""
) -> subprocess.CompletedProcess[str]:
  """Runs a Python that does not see the modules of this folder."""
  return subprocess.run(
    # Not resolved: the python of an environment is a link out of it.
    [os.path.abspath(shutil.which(program) or program), *arguments],
    input=given,
    cwd=tempfile.gettempdir(),
    capture_output=True,
    text=True,
    check=False,
  )


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values)
