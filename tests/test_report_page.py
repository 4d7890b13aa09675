"""The page of a run says what its files say, and no text can break it."""

import json
import shutil
import subprocess

import pytest

from skd_jax import report_page
from tests import finished_run
from tests.finished_run import PROMPTS, SEEDS, Page

_EVIL = "<script>alert(1)</script>\"'>&amp;<img src=x>{{ 7 * 7 }}"


def page_of(*workdirs, names=("",)):
  path = workdirs[0].parent / "page.html"
  runs = {
    name: (workdir, report_page.read_report(workdir))
    for name, workdir in zip(names, workdirs, strict=True)
  }
  report_page.write(path, runs)
  return Page(path)


@pytest.fixture
def workdir(tmp_path):
  return finished_run.write(tmp_path / "run")


def test_numbers_are_those_of_the_report(workdir):
  page = page_of(workdir)
  assert ["", "accuracy", "kl"] in page.rows
  assert ["student, start", "17.00 ± 0.00", "0.2500 ± 0.0000"] in page.rows
  assert ["student, distilled", "33.00 ± 2.83", "0.2500 ± 0.0000"] in page.rows
  assert ["replacement rate", "8.14 %"] in page.rows
  assert ["generate", "13 min 32 s", "20 %"] in page.rows
  assert "accuracy is 33.00, its start's 17.00: +16.00" in page.text
  assert "rollout.threshold25.0" in page.text.replace("\n", "")
  for said in ("skd: 4 steps of 8", "--config=mine.py", "jax 0.10.2", "abc"):
    assert said in page.text


def test_verdict_and_warnings_stand_above_the_scores(tmp_path):
  verdict = {"verdict": "fits: 12% is replaced"}
  page = page_of(
    finished_run.write(
      tmp_path / "run", probe=verdict, warnings=["the gate is inert"]
    )
  )
  first = page.text.index("Scores")
  assert page.text.index("start: fits: 12% is replaced.") < first
  assert page.text.index("the gate is inert") < first


def test_each_answer_is_scored_alone_with_its_interval(workdir):
  page = page_of(workdir)
  rows = {row[0]: row[1:] for row in page.rows if len(row) == 3}
  assert rows["teacher"][0] == "100.00 (100.00 to 100.00)"
  # Of 6 answers 2 are right: 100 sqrt(1/3 2/3 6/5) / sqrt(6) 1.96 = 41.32.
  assert rows["student, distilled"][0] == "33.33 (-7.99 to 74.65)"
  assert rows["student, distilled"][1].startswith("+16.67 (")
  assert rows["student, start"][1] == ""


def test_cards_have_their_ranks_in_the_filters(workdir):
  cards = page_of(workdir).all("article")
  ranks = [
    {name[5:]: int(x) for name, x in card.items() if name.startswith("data-")}
    for card in cards
  ]
  # The student is wrong from the third on; at the fourth its start is right.
  # Of the first, 1 of 8 tokens was replaced, of the second 7 of 8.
  assert ranks == [
    {"hardest": 4, "corrected": 1},
    {"hardest": 5, "corrected": 0},
    {"hardest": 0},
    {"hardest": 1, "regressed": 0},
    {"hardest": 2},
    {"hardest": 3},
  ]
  for card, of_card in zip(cards, ranks, strict=True):
    style = "".join(f"--{name}:{rank};" for name, rank in of_card.items())
    assert card["style"] == style


def test_answers_and_rollouts_stand_with_their_prompt(workdir):
  text = page_of(workdir).source
  card = text[text.index("Example 2<") : text.index("Example 3<")]
  for shown in ("Frage 1", "c d", "student, on_policy_kd", ">z<", "step 9"):
    assert shown in card
  assert "Frage 0" not in card
  assert card.count("tokens (") == 2
  assert "4 of 4 tokens (100.0\N{NBSP}%) replaced" in card
  assert 'id="t-2-1-0"' in card


def test_markup_in_any_text_stays_text(workdir):
  clean = page_of(workdir)
  changes = {
    "task": _EVIL,
    "asked": _EVIL,
    "command": _EVIL,
    "git": _EVIL,
    "versions": {"jax": _EVIL},
    "signature": {"accuracy": _EVIL},
    "config": {"rollout": {"mode": _EVIL, _EVIL: 1}, "seed": 0},
  }
  finished_run.write(workdir, **changes)
  for name in ("teacher", "student_init", f"distill_seed_{SEEDS[0]}"):
    path = workdir / "answers" / f"{name}.txt"
    finished_run.write_answers(path, [f"{name} {_EVIL}"] * 6)
  examples = [{"source": _EVIL + p, "target": _EVIL} for p in PROMPTS]
  path = report_page.examples_path(workdir)
  path.write_text(json.dumps({"only": examples}), "utf-8")
  folder = report_page.samples_folder(workdir, SEEDS[0])
  for path in folder.iterdir():
    samples = json.loads(path.read_text("utf-8"))
    for sample in samples:
      sample["prompt"] = _EVIL + sample["prompt"]
      sample["tokens"][0]["text"] = _EVIL
    path.write_text(json.dumps(samples), "utf-8")
  hurt = page_of(workdir)
  assert [name for name, _ in hurt.elements] == [n for n, _ in clean.elements]
  assert [list(attrs) for _, attrs in hurt.elements if "id" in attrs] == [
    list(attrs) for _, attrs in clean.elements if "id" in attrs
  ]
  # Title twice, seven more above; 6 cards have prompt, reference and 3
  # answers, and 4 rollouts a token.
  assert hurt.text.count(_EVIL) == 2 + 7 + 6 * 5 + 4


def test_page_needs_no_network(workdir):
  page = page_of(workdir)
  for name, attrs in page.elements:
    assert not {"src", "srcset", "action", "data"} & attrs.keys(), name
    assert attrs.get("href", "#").startswith("#")
  assert "link" not in {name for name, _ in page.elements}
  for outside in ("http:", "https:", "url(", "@import", "fetch(", 'src="'):
    assert outside not in page.source


def test_page_without_rollouts_has_the_answers(workdir):
  shutil.rmtree(workdir / "samples")
  page = page_of(workdir)
  assert len(page.all("article")) == 6
  assert 'class="response"' not in page.source
  assert not any("data-corrected" in card for card in page.all("article"))


def test_lines_of_other_seeds_are_not_drawn(workdir):
  drawn = page_of(workdir).all("polyline")
  with (workdir / "metrics.jsonl").open("a") as file:
    line = {"stage": "distill", "seed": 99, "step": 1, "kl": 50.0}
    file.write(json.dumps(line) + "\n")
  assert page_of(workdir).all("polyline") == drawn


def test_several_runs_stand_beside_each_other(tmp_path):
  one = finished_run.write(tmp_path / "one")
  config = {"rollout": {"mode": "skd", "threshold": 5.0}, "seed": 0}
  two = finished_run.write(tmp_path / "two", config=config)
  path = two / "answers" / f"distill_seed_{SEEDS[0]}.txt"
  finished_run.write_answers(path, finished_run.REFERENCES)
  page = page_of(one, two, names=("one", "two"))
  assert ["two: teacher", "100.00 ± 0.00", "0.2500 ± 0.0000"] in page.rows
  assert ["", "one: time", "one: share", "two: time", "two: share"] in page.rows
  # Of the settings, the one that differs.
  assert ["rollout.threshold", "25.0", "5.0"] in page.rows
  assert "rollout.mode" not in page.text
  # What both answered is there once; the filters are of both.
  assert "<h3>one: teacher, two: teacher<" in page.source
  assert page.source.count("<h3>two: teacher<") == 0
  cards = page.all("article")
  assert [card["data-hardest"] for card in cards[:4]] == ["4", "5", "0", "1"]
  assert "data-regressed" in cards[3]


def test_prompts_that_one_run_lacks_are_left_out(tmp_path):
  one = finished_run.write(tmp_path / "one")
  two = finished_run.write(tmp_path / "two")
  path = report_page.examples_path(two)
  path.write_text(path.read_text("utf-8").replace("Frage 4", "Frage 9"))
  page = page_of(one, two, names=("one", "two"))
  assert "5 of 5 test prompts that all runs have" in page.text
  assert "Frage 4" not in page.text
  path.write_text(path.read_text("utf-8").replace("Frage", "Question"))
  page = page_of(one, two, names=("one", "two"))
  assert "0 of 0 test prompts" in page.text


def test_rows_that_are_twice_in_the_split_are_both_counted(tmp_path):
  workdir = finished_run.write(tmp_path / "run")
  path = report_page.examples_path(workdir)
  row = {"source": PROMPTS[0], "target": "a b"}
  path.write_text(json.dumps({"only": [row] * 6}), "utf-8")
  page = page_of(workdir)
  assert len(page.all("article")) == 6
  rows = {row[0]: row[1:] for row in page.rows if len(row) == 3}
  assert rows["student, distilled"][0].startswith("16.67 (")
  page = page_of(workdir, workdir, names=("one", "two"))
  assert len(page.all("article")) == 6


def test_tasks_have_their_own_metric_and_answers(tmp_path):
  scores = {"mean": 50.0, "sums": {"accuracy": 33.0}, "words": {"bleu": 20.0}}
  models = ("teacher", "student_init", "student")
  per_seed = [
    {"seed": 3, "replacement_by_position": {"student": []}}
    | {"metrics": dict.fromkeys(models, scores)}
  ]
  workdir = finished_run.write(
    tmp_path / "run",
    metrics=dict.fromkeys(models, scores),
    per_seed=per_seed,
    main_metric="mean",
  )
  path = report_page.examples_path(workdir)
  (examples,) = json.loads(path.read_text("utf-8")).values()
  path.write_text(json.dumps({"sums": examples, "words": examples}), "utf-8")
  for file in (workdir / "answers").glob("*.txt"):
    for task in ("sums", "words"):
      shutil.copy(file, file.with_suffix(f".{task}.txt"))
    file.unlink()
  page = page_of(workdir)
  assert len(page.all("article")) == 12
  assert "student's accuracy 100.0" in page.text
  assert "student's sentence chrF" in page.text
  assert "words: sentence chrF" in page.text


def test_file_that_does_not_fit_is_named(workdir):
  path = workdir / "answers" / "teacher.txt"
  finished_run.write_answers(path, ["a", "b"])
  with pytest.raises(ValueError, match=r"teacher\.txt has 2 answers: must be"):
    page_of(workdir)
  path.unlink()
  with pytest.raises(ValueError, match=r"teacher\.txt is missing: delete the"):
    page_of(workdir)
  report_page.examples_path(workdir).unlink()
  with pytest.raises(ValueError, match=r"examples\.json is missing: it is"):
    report_page.read_report(workdir)


_CLICK = """<script>
const shown = () => [...document.querySelectorAll("article")]
  .filter((card) => card.offsetParent !== null)
  .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top
    || a.getBoundingClientRect().left - b.getBoundingClientRect().left)
  .map((card) => card.querySelector("b").textContent.split(" ")[1]);
const found = {};
for (const id of ["all", "hardest", "corrected", "regressed"]) {
  document.querySelector("#" + id).click();
  found[id] = shown();
}
document.querySelector("#all").click();
const token = document.querySelector(".response .token");
token.click();
found.tip = document.querySelector("#tip").textContent;
document.title = JSON.stringify(found);
</script>"""


def test_filters_show_their_cards_in_a_browser(workdir, tmp_path):
  browser = shutil.which("chromium") or shutil.which("google-chrome")
  if browser is None:
    pytest.skip("needs chromium on the PATH: the filters are not clicked")
  path = tmp_path / "clicked.html"
  path.write_text(page_of(workdir).source + _CLICK, "utf-8")
  options = "--headless --no-sandbox --disable-gpu --window-size=1200,900"
  profile = f"--user-data-dir={tmp_path / 'profile'}"
  done = subprocess.run(
    [browser, *options.split(), profile, "--dump-dom", path.as_uri()],
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  )
  title = done.stdout[done.stdout.index("<title>") + 7 :].split("</title>")[0]
  found = json.loads(title)
  assert found["all"] == ["1", "2", "3", "4", "5", "6"]
  assert found["hardest"] == ["3", "4", "5", "6", "1", "2"]
  assert found["corrected"] == ["2", "1"]
  assert found["regressed"] == ["4"]
  assert found["tip"].startswith("Replaced by the teacherEmitted t0")


def test_samples_page_is_the_answers_and_rollouts_alone(workdir):
  report_page.write_of_run(workdir, report_page.read_report(workdir))
  whole, samples = (
    Page(workdir / f"{name}.html") for name in ("report", "samples")
  )
  assert "Time and cost" in whole.text
  assert "Time and cost" not in samples.text
  for prompt in PROMPTS:
    assert prompt in samples.text
  assert "proposed it" in samples.text
  assert "accuracy is 33.00, its start's 17.00: +16.00" in samples.text
