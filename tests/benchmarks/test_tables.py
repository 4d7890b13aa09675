"""The tables of the result pages."""

import pytest

from benchmarks import harness, tables
from skd_jax import records
from tests.comparison_lines import LINES

NAMES = {
  "quality": ("comparisons",),
  "speed": (
    "rollout_speed",
    "speculative_decoding",
    "step_cost",
    "method_cost",
    "loss_memory",
    "long_sequences",
    "packing",
    "device_limits",
    "gpu_kernels",
  ),
  "tpu": ("tpu_plan", "gpu_plan", "tpu_cycles"),
}


def page(*names):
  return "".join(
    f"a\n<!-- table: {name} -->\nold\n<!-- end -->\nb\n" for name in names
  )


@pytest.fixture
def pages(tmp_path, monkeypatch):
  """Pages in place of those of the project, without results."""
  paths = [tmp_path / f"{name}.md" for name in NAMES]
  for path in paths:
    path.write_text(page(*NAMES[path.stem]))
  monkeypatch.setattr(tables, "PAGES", paths)
  monkeypatch.setattr(harness, "RESULTS", tmp_path)
  return paths


class Flag:
  def __init__(self, value):
    self.value = value


def test_tables_replace_what_stands_between_the_comments():
  rows = [{"vocab": 8, "length": 2, "memory_ratio": 0.5, "time_ratio": 1.0}]
  before = page(*tables.NAMES)
  text = tables.rebuild(
    before,
    [
      harness.result_object("loss_memory", rows, device)
      for device in ("cpu-2", "nvidia-h200")
    ],
  )
  assert "old" not in text
  assert text.count("|       8 |") == 2
  assert "nvidia-h200" in text
  assert text.count("Not measured yet.") == len(tables.NAMES) - 1
  assert tables.rebuild(text, []) == tables.rebuild(before, [])


def test_page_shows_a_comparison_from_its_lines(tmp_path, monkeypatch):
  monkeypatch.setattr(tables, "ROOT", tmp_path)
  path = tmp_path / "quality" / "tiny" / "methods" / "runs.jsonl"
  records.write(path, LINES)
  tables.draw(tmp_path)
  (found,) = tables.read_results(tmp_path)
  text = tables.rebuild(page(*tables.NAMES), [found])
  assert "**tiny: methods**" in text
  assert "24.50 ± 0.71" in text
  # Over the usual baselines, and there over SKD as well.
  assert "bleu over on_policy_kd" in text
  assert "bleu over skd" in text
  assert "(../../quality/tiny/methods/validation_by_step.png)" in text
  assert "\nold\n" not in text


def test_page_shows_the_drafters_of_each_pair(tmp_path, monkeypatch):
  monkeypatch.setattr(tables, "ROOT", tmp_path)
  folder = tmp_path / "speed" / "cpu-2"
  of_drafter = {"predicted_speedup": 1.6, "acceptance": 0.7}
  for pair in ("big", "small"):
    rows = [
      {"what": what, "batch": batch, "speedup": speedup, **more}
      | {"pair": pair, "prompts": 16, "tokens_per_s": 9.0}
      for batch in (1, 4)
      for what, speedup, more in (
        ("plain", 1.0, {}),
        ("student", 1.5, of_drafter),
        ("hf_plain", 1.0, {}),
      )
    ]
    rows.append({"what": "hf_assisted", "batch": 4, "note": "not installed"})
    found = harness.result_object("speculative_decoding", rows, "cpu-2")
    harness.write_json(folder / f"speculative_decoding_{pair}.json", found)
  tables.draw(tmp_path)
  text = tables.rebuild(page(*tables.NAMES), tables.read_results(tmp_path))
  for pair in ("big", "small"):
    assert f"{pair}, 16 prompts:" in text
    image = f"speed/cpu-2/speculative_decoding_{pair}.png"
    assert f"(../../{image})" in text
    assert (tmp_path / image).stat().st_size > 1000


def test_speed_has_a_column_for_each_batch():
  rows = [
    {"what": "student", "batch": 16, "tokens_per_s": 20.0},
    {"what": "student", "batch": 4, "tokens_per_s": 10.0},
    {"what": "peer", "batch": 4, "tokens_per_s": None, "note": "absent"},
  ]
  lines = tables.pivot(rows).splitlines()
  cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
  assert cells[0] == ["what", "4", "16"]
  assert cells[2:] == [["student", "10", "20"], ["peer", "absent", "-"]]


def test_page_without_a_table_is_an_error(pages):
  pages[1].write_text(page("rollout_speed", "other"))
  with pytest.raises(SystemExit, match=r"must have .*step_cost"):
    tables.main(["tables"])


def test_check_fails_where_a_page_differs(pages, monkeypatch):
  before = [path.read_text() for path in pages]
  monkeypatch.setattr(tables, "_CHECK", Flag(True))
  with pytest.raises(SystemExit, match=r"tpu\.md: differs"):
    tables.main(["tables"])
  assert [path.read_text() for path in pages] == before
  monkeypatch.setattr(tables, "_CHECK", Flag(False))
  tables.main(["tables"])
  monkeypatch.setattr(tables, "_CHECK", Flag(True))
  tables.main(["tables"])


def test_pages_show_the_kept_results():
  if not tables.PAGES[0].exists():
    pytest.skip("docs/results is not there")
  results = tables.read_results(harness.RESULTS)
  texts = [path.read_text("utf-8") for path in tables.PAGES]
  tables.check_names(texts)
  assert [tables.rebuild(text, results) for text in texts] == texts


def test_kept_results_are_of_known_tables():
  results = tables.read_results(harness.RESULTS)
  assert {result["benchmark"] for result in results} <= set(tables.NAMES)
