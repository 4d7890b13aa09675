"""The page of a comparison, from its lines."""

import matplotlib
import pytest

from skd_jax import comparison_page, comparison_tests, records
from skd_jax.reporting import comparison_plots
from tests.comparison_lines import LINES, line, write_answers


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "methods" / "runs.jsonl"
  records.write(path, LINES)
  return path


def cells(text, name, table=0):
  """{column: cell} of the row of an arm, in one of the tables."""
  tables = [part for part in text.split("\n\n") if part.startswith("| arm")]
  lines = [
    [cell.strip() for cell in row.strip("|").split(" | ")]
    for row in tables[table].splitlines()
  ]
  header = lines[0]
  (row,) = [row for row in lines[2:] if row[0] == name]
  return dict(zip(header, row, strict=True))


def test_page_has_the_tables_and_the_figures(path):
  text = comparison_page.write(path, None, ["on_policy_kd"])
  page = (path.parent / "comparison.md").read_text("utf-8")
  assert text in page
  assert page.startswith("# tiny: methods\n")
  assert "`python -m skd_jax.compare` at commit abc\n\non cpu-2 (jax" in text
  names = [
    "differences",
    "validation_by_step",
    "validation_by_seconds",
    "replacement_by_step",
    "replacement_by_position",
  ]
  assert [p.stem for p in sorted(path.parent.glob("*.png"))] == sorted(names)
  for name in names:
    assert f"![{name}]({name}.png)" in page


def test_row_has_scores_rates_and_cost():
  tests = comparison_tests.run_tests(LINES, ["on_policy_kd"])
  text = comparison_page.section(LINES, tests)
  skd = cells(text, "skd")
  assert (skd["seeds"], skd["collapsed"]) == ("2", "0")
  assert skd["bleu"] == "24.50 ± 0.71"
  assert skd["chrf"] == "49.00 ± 1.41"
  assert skd["KL"] == "0.50 ± 0.00"
  assert skd["top-1"] == "75.00 ± 0.00 %"
  assert skd["validation"] == "25.50 ± 0.71"
  assert skd["replaced"] == "15.00 ± 7.07 %"
  assert skd["changed"] == "-"  # Of one run it is not known.
  assert (skd["seconds"], skd["cost"]) == ("9.0 ± 1.4", "0.90")
  baseline = cells(text, "on_policy_kd")
  assert (baseline["replaced"], baseline["cost"]) == ("-", "1.00")
  teacher = cells(text, "teacher")
  assert (teacher["seeds"], teacher["bleu"]) == ("-", "50.00")
  difference = cells(text, "skd", 1)["bleu over on_policy_kd"]
  assert difference.startswith("+3.50 [-2.85, +9.85], p = 0.09")


def test_collapsed_seeds_are_named_by_the_start_of_their_group():
  lines = [
    line("student_init, small", None, 8.0),
    line("student_init", None, 15.0),
    line("small, skd", 0, 5.0),
    line("small, skd", 3, 3.0),
    line("other, skd", 0, 5.0),
    line("other, skd", 1, 9.0),
  ]
  text = comparison_page.section(lines, {})
  assert cells(text, "small, skd")["collapsed"] == "1: 3"
  assert cells(text, "other, skd")["collapsed"] == "1: 0"
  text = comparison_page.section(lines[2:], {})
  assert cells(text, "small, skd")["collapsed"] == "-"


def test_cost_is_that_of_the_baseline_of_the_group():
  lines = [
    line("a, on_policy_kd", 0, 20.0, seconds=10.0),
    line("a, skd", 0, 20.0, seconds=5.0),
    line("b, on_policy_kd", 0, 20.0, seconds=1.0),
    line("b, skd", 0, 20.0, seconds=5.0),
  ]
  tests = comparison_tests.run_tests(lines, ["on_policy_kd"])
  text = comparison_page.section(lines, tests)
  assert cells(text, "a, skd")["cost"] == "0.50"
  assert cells(text, "b, skd")["cost"] == "5.00"


def test_all_commands_and_commits_of_the_lines_are_named():
  others = [
    LINES[-1] | {"seed": 2, "git": "def"},
    LINES[-1] | {"seed": 3, "command": "python -m elsewhere"},
  ]
  text = comparison_page.section([*LINES, *others], {})
  assert (
    "`python -m skd_jax.compare` at commit abc, def\n"
    "`python -m elsewhere` at commit abc\n"
  ) in text


def test_page_is_rebuilt_from_lines_and_tests_without_answers(
  path, tmp_path, monkeypatch
):
  monkeypatch.setattr(comparison_page, "_CURVES", {})  # They take a while.
  references = [f"the dog sees a tree and {n} balls" for n in range(8)]
  monkeypatch.setattr(records, "references", lambda workdir, run: references)
  for run in LINES[2:]:
    wrong = 6 - 3 * (run["method"] == "skd") - run["seed"]
    answers = [*["the dog sees it"] * wrong, *references[wrong:]]
    write_answers(tmp_path, run, answers)
  text = comparison_page.write(path, tmp_path, ["on_policy_kd"])
  assert "bleu over on_policy_kd, bootstrap" in text
  page = (path.parent / "comparison.md").read_bytes()
  elsewhere = tmp_path / "kept" / "methods"
  elsewhere.mkdir(parents=True)
  for name in ("runs.jsonl", "tests.json"):
    (path.parent / name).rename(elsewhere / name)
  again = comparison_page.write(
    elsewhere / "runs.jsonl", None, ["on_policy_kd"]
  )
  assert again == text
  assert (elsewhere / "comparison.md").read_bytes() == page


def figures_of(lines, baselines, tmp_path, monkeypatch):
  """{title: figure} of what is drawn."""
  found = []
  monkeypatch.setattr(
    matplotlib.figure.Figure, "savefig", lambda f, *_, **__: found.append(f)
  )
  tests = comparison_tests.run_tests(lines, baselines)
  drawn = comparison_page.draw(lines, tests, tmp_path)
  return dict(zip([path.stem for path in drawn], found, strict=True))


def lines_of(axes):
  return {line.get_label(): line for line in axes.lines}


def test_figures_are_drawn_of_what_was_measured(tmp_path, monkeypatch):
  figures = figures_of(LINES, ["on_policy_kd"], tmp_path, monkeypatch)
  (axes,) = figures["validation_by_seconds"].axes
  assert list(lines_of(axes)["skd"].get_xdata()) == [4.5, 9.0]
  assert list(lines_of(axes)["skd"].get_ydata()) == [23.5, 25.5]
  (axes,) = figures["validation_by_step"].axes
  assert list(lines_of(axes)["skd"].get_xdata()) == [4, 8]
  (axes,) = figures["replacement_by_position"].axes
  assert list(lines_of(axes)) == ["skd"]
  assert list(lines_of(axes)["skd"].get_xdata()) == [1, 2]
  plain = [line("sft", 0, 20.0, rate=None), line("sft", 1, 21.0, rate=None)]
  alone = figures_of(plain, ["sft"], tmp_path, monkeypatch)
  assert set(alone) == {"validation_by_step", "validation_by_seconds"}


def test_one_validation_is_no_curve(tmp_path, monkeypatch):
  once = [
    {**run, "curve": run["curve"][-1:]} for run in LINES if "curve" in run
  ]
  figures = figures_of(once, ["on_policy_kd"], tmp_path, monkeypatch)
  assert not {"validation_by_step", "validation_by_seconds"} & set(figures)
  assert "differences" in figures


def test_arms_are_divided_over_panels_of_few_lines(tmp_path, monkeypatch):
  names = ["on_policy_kd", "skd", *(f"m{i}" for i in range(15))]
  lines = [line(name, 0, 20.0) for name in names]
  figures = figures_of(lines, ["skd", "on_policy_kd"], tmp_path, monkeypatch)
  panels = [
    list(lines_of(axes))
    for axes in figures["validation_by_step"].axes
    if axes.lines
  ]
  assert [len(panel) for panel in panels] == [7, 7, 7]
  assert max(map(len, panels)) <= comparison_plots.MAX_LINES
  for panel in panels:
    assert panel[:2] == ["skd", "on_policy_kd"]
  assert [n for panel in panels for n in panel[2:]] == names[2:]


def test_each_group_has_a_panel_of_its_own(tmp_path, monkeypatch):
  lines = [
    line(f"{group}, {name}", 0, 20.0)
    for group in "ab"
    for name in ("skd", "on_policy_kd")
  ]
  figures = figures_of(lines, ["on_policy_kd"], tmp_path, monkeypatch)
  found = [list(lines_of(a)) for a in figures["validation_by_step"].axes]
  assert found == [
    ["a, on_policy_kd", "a, skd"],
    ["b, on_policy_kd", "b, skd"],
  ]


def test_scores_go_from_group_to_group(tmp_path, monkeypatch):
  """An arm that is in one group alone has no line."""
  scores = {"a, skd": (20, 22), "b, skd": (30, 30), "b, sft": (5, 5)}
  scores |= {f"{group}, on_policy_kd": (10, 10) for group in "ab"}
  lines = [
    line(name, seed, bleu)
    for name, of_seeds in scores.items()
    for seed, bleu in enumerate(of_seeds)
  ]
  figures = figures_of(lines, ["on_policy_kd"], tmp_path, monkeypatch)
  (axes,) = figures["score_by_group"].axes
  assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b"]
  drawn = lines_of(axes)
  assert list(drawn) == ["on_policy_kd", "skd"]
  assert list(drawn["skd"].get_ydata()) == [21, 30]
  assert "score_by_group" not in figures_of(LINES, [], tmp_path, monkeypatch)
