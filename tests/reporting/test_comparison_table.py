"""Tables of a comparison: what their cells say."""

from skd_jax.reporting import comparison_table

TEST = {"difference": 3.5, "low": -0.5, "high": 7.5, "p_value": 0.084}


def test_difference_is_bold_where_p_is_small():
  said = comparison_table.difference
  assert said(TEST) == "+3.50 [-0.50, +7.50], p = 0.084"
  assert said(TEST | {"p_value": 0.01}).startswith("+3.50")
  assert said(TEST | {"p_value": 0.0099}) == (
    "**+3.50 [-0.50, +7.50], p = 0.010**"
  )
  assert said(TEST | {"p_value": 1e-4}).endswith("p < 0.001**")


def test_difference_of_one_seed_stands_alone():
  bare = {"difference": -0.25, "low": None, "high": None, "p_value": None}
  assert comparison_table.difference(bare) == "-0.25"


def against(**others):
  kinds = {"test": TEST, "validation": None, "bootstrap": None}
  return {"score": "bleu", **kinds, **others}


def test_columns_are_those_of_the_tests_that_were_made():
  tests = {
    "kd": {"skd": against(), "gkd": against(validation=TEST)},
    "skd": {"kd": against(bootstrap=TEST)},
    "sft": {},
  }
  header, _, *rows = comparison_table.differences_table(
    ["kd", "sft", "gkd", "skd"], tests
  ).splitlines()
  assert [cell.strip() for cell in header.strip("|").split("|")] == [
    "arm",
    "bleu over kd",
    "validation over kd",
    "bleu over skd",
    "bleu over skd, bootstrap",
  ]
  names = [row.strip("| ").split(" ")[0] for row in rows]
  assert names == ["kd", "gkd", "skd"]
  assert comparison_table.differences_table(["kd"], {"kd": {}}) == ""


def test_arms_have_means_only_where_every_seed_has_a_number():
  arms = [
    comparison_table.Arm("teacher", {"bleu": [50.0]}),
    comparison_table.Arm(
      "skd",
      {"bleu": [24.0, 25.0], "agreement": [0.5, 0.75]},
      seeds=[0, 1],
      collapsed=[1],
      replaced=[0.1, None],
    ),
  ]
  text = comparison_table.scores_table(arms, ["bleu"])
  header, _, teacher, skd = (
    [cell.strip() for cell in row.strip("|").split("|")]
    for row in text.splitlines()
  )
  assert header[:4] == ["arm", "seeds", "collapsed", "bleu"]
  # Agreement is shown where the first of the arms has it.
  assert "top-1" not in header
  assert teacher[:4] == ["teacher", "-", "-", "50.00"]
  assert skd[:4] == ["skd", "2", "1: 1", "24.50 ± 0.71"]
  assert skd[header.index("replaced")] == "-"
  assert len({len(row) for row in text.splitlines()}) == 1
