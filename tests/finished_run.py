"""The files of a finished run that its page is made of, made up."""

import dataclasses
import html.parser
import json
import pathlib

from skd_jax import report_page
from skd_jax.reporting import files
from skd_jax.reporting.rollouts import SampleView, TokenView

SEEDS = (3, 5)
PROMPTS = [f"Frage {i}" for i in range(6)]
REFERENCES = ["a b", "c d", "e f", "g h", "i j", "k l"]
# The student is right twice; once its start alone is.
ANSWERS = {
  "teacher": ["a b", "c d", "e f", "g h", "i j", "k l"],
  "student_init": ["x", "x", "x", "g h", "x", "x"],
  "student": ["a b", "c d", "y", "y", "y", "y"],
  "on_policy_kd": ["a b", "z", "z", "z", "z", "z"],
}


def _metrics(student: float) -> dict:
  means = {"teacher": 100.0, "student_init": 17.0, "student": student}
  return {
    model: {"accuracy": mean, "kl": 0.25}
    for model, mean in (means | {"on_policy_kd": 16.0}).items()
  }


def make_report(**changes) -> dict:
  """Returns a report of two seeds with a baseline, as in report.json."""
  per_seed = [
    {
      "seed": seed,
      "metrics": _metrics(score),
      "replacement_by_position": {
        "student": [[0, 0.5], [1, 0.25]],
        "on_policy_kd": [],
      },
    }
    for seed, score in zip(SEEDS, (31.0, 35.0), strict=True)
  ]
  return {
    "task": "questions",
    "asked": "skd: 4 steps of 8 prompts, rule top_k",
    "config": {"rollout": {"mode": "skd", "threshold": 25.0}, "seed": 0},
    "seeds": list(SEEDS),
    "main_metric": "accuracy",
    "metrics": _metrics(33.0),
    "per_seed": per_seed,
    "rollout": {"replacement_rate": 0.0814, "tokens_per_s": 3124.3},
    "seconds": {"generate": 812.2, "train": 55.12, "total": 4030.0},
    "signature": {"accuracy": "exact match"},
    "command": "python -m skd_jax.main --config=mine.py",
    "versions": {"jax": "0.10.2"},
    "devices": ["cpu:0"],
    "git": "abc",
  } | changes


def make_sample(prompt: str, step: int, num_replaced: int) -> SampleView:
  """Returns a rollout of four tokens, the first of them the teacher's."""
  sources = ["teacher"] * num_replaced + ["student"] * (4 - num_replaced)
  tokens = [
    TokenView(f" t{i}", source, f" d{i}", f" t{i}", i, 0.5, 0.25, 0.75)
    for i, source in enumerate(sources)
  ]
  return SampleView(prompt, "r", tokens, False, step)


def write(workdir: pathlib.Path, **changes) -> pathlib.Path:
  """Writes a finished run; `changes` are of its report. Returns workdir."""
  files.write_json(workdir / "report.json", make_report(**changes))
  examples = [
    {"source": prompt, "target": reference}
    for prompt, reference in zip(PROMPTS, REFERENCES, strict=True)
  ]
  files.write_json(report_page.examples_path(workdir), {"only": examples})
  baseline = workdir / "baselines" / "on_policy_kd"
  for model, lines in ANSWERS.items():
    folder = baseline if model == "on_policy_kd" else workdir
    is_before = model in ("teacher", "student_init")
    name = model if is_before else f"distill_seed_{SEEDS[0]}"
    write_answers(folder / "answers" / f"{name}.txt", lines)
  for folder in (workdir, baseline):
    log = [
      {"stage": "distill", "seed": seed, "step": step, "kl": seed / step}
      for seed in SEEDS
      for step in (1, 2)
    ]
    text = "".join(json.dumps(line) + "\n" for line in log)
    (folder / "metrics.jsonl").write_text(text, "utf-8")
  for step, counts in {0: (1, 4), 9: (0, 3)}.items():
    samples = [
      dataclasses.asdict(make_sample(PROMPTS[i], step, count))
      for i, count in enumerate(counts)
    ]
    folder = report_page.samples_folder(workdir, SEEDS[0])
    files.write_json(folder / f"{step}.json", samples)
  return workdir


def write_answers(path: pathlib.Path, lines: list[str]) -> None:
  """Writes answers, one per line."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(line + "\n" for line in lines), "utf-8")


class Page(html.parser.HTMLParser):
  """The elements of a page, its tables, its cards and its text."""

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self.source = path.read_text("utf-8")
    self.elements: list[tuple[str, dict]] = []
    self.rows: list[list[str]] = []
    self.text = ""
    self.feed(self.source)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag == "tr":
      self.rows.append([])
    if tag in ("th", "td"):
      self.rows[-1].append("")

  def handle_data(self, data):
    self.text += data
    if self.elements and self.elements[-1][0] in ("th", "td"):
      self.rows[-1][-1] += data.strip()

  def all(self, tag: str) -> list[dict]:
    """Returns the attributes of all elements of a kind."""
    return [attrs for name, attrs in self.elements if name == tag]
