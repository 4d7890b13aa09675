"""Scores by name, against their libraries and by hand."""

import json
import sys
import unicodedata
from fractions import Fraction

import pytest
import sacrebleu

from skd_jax.evaluation import metrics as metrics_lib

SOURCES = ["eins", "zwei", "drei"]
ANSWERS = ["the cat sat on the mat", "a dog", "it is raining today , no"]
REFERENCES = ["the cat sat on a mat", "the dog", "it is raining today, no"]
ROUGE = ("rouge1", "rouge2", "rougeL")
NO_COMET = metrics_lib.Comet("", "")


def test_translations_are_scored_as_sacrebleu_does():
  values, signatures = metrics_lib.score(
    ("chrf", "bleu"), SOURCES, ANSWERS, REFERENCES
  )
  assert list(values) == ["chrf", "bleu"]
  assert values == {
    "bleu": sacrebleu.corpus_bleu(ANSWERS, [REFERENCES]).score,
    "chrf": sacrebleu.corpus_chrf(ANSWERS, [REFERENCES]).score,
  }
  assert 20 < values["bleu"] < 100
  assert "tok:13a" in signatures["bleu"]
  assert "nc:6" in signatures["chrf"]


def test_perfect_answers_score_100():
  lines = ["the cat sat on the mat #### 3", "it is raining today #### 4"]
  metrics = ("bleu", "chrf", *ROUGE, "accuracy", "steps")
  values, _ = metrics_lib.score(metrics, lines, lines, lines)
  assert values == pytest.approx(dict.fromkeys(metrics, 100.0))


def test_rouge_is_the_f_measure_of_what_both_sides_have():
  # Of 6 answer words and 5 reference words; the second pair shares nothing.
  values, signatures = metrics_lib.score(
    ROUGE,
    SOURCES[:2],
    ["On the mat a cat lay.", "yes"],
    ["the cat lay on mat", "no"],
  )
  for name, common, pairs in (
    ("rouge1", 5, 0),  # on, the, mat, cat, lay
    ("rouge2", 1, 1),  # cat lay
    ("rougeL", 3, 0),  # the ... cat lay
  ):
    precision, recall = common / (6 - pairs), common / (5 - pairs)
    f_measure = 2 * precision * recall / (precision + recall)
    assert values[name] == pytest.approx(100 * f_measure / 2), name
  assert "rouge-score:" in signatures["rougeL"]


def test_accuracy_counts_right_final_answers():
  values, _ = metrics_lib.score(
    ("accuracy",),
    [""] * 4,
    ["3 * 4 = 12 #### 12", "it is 12", "#### 13", "none"],
    ["#### 12", "#### 12.0", "12 #### 12", "#### 12"],
  )
  assert values == {"accuracy": 50.0}


def test_a_fraction_is_right_where_its_value_is():
  values, _ = metrics_lib.score(
    ("accuracy",),
    [""] * 3,
    ["#### 6/8", "#### 0.75", "#### 3"],
    ["#### 3/4"] * 3,
  )
  assert values == {"accuracy": pytest.approx(200 / 3)}


@pytest.mark.parametrize("metric", ["bleu", "chrf", "comet"])
def test_each_translation_is_scored_alone_by_sentence_chrf(metric):
  decomposed = [unicodedata.normalize("NFD", text) for text in ("ü", *ANSWERS)]
  name, scores = metrics_lib.score_each(metric, decomposed, ["ü", *REFERENCES])
  assert name == "sentence chrF"
  pairs = zip(ANSWERS, REFERENCES, strict=True)
  expected = [sacrebleu.sentence_chrf(a, [r]).score for a, r in pairs]
  assert scores == [100.0, *expected]


@pytest.mark.parametrize("metric", ["rougeL", "accuracy", "steps"])
def test_each_answer_is_scored_alone_so_that_the_mean_is_the_metric(metric):
  answers, references = ["1;2#### 2", "3 #### 4"], ["1;3#### 2", "3 #### 5"]
  name, scores = metrics_lib.score_each(metric, answers, references)
  assert name == metric
  values, _ = metrics_lib.score((metric,), ["", ""], answers, references)
  assert sum(scores) / 2 == pytest.approx(values[metric])
  assert scores[0] != scores[1]


def test_formulas_are_right_where_their_value_is():
  pytest.importorskip("math_verify", reason="needs the extra `math`")
  metrics_lib.check_metrics(("math",), NO_COMET)
  references = [
    r"so it is $\boxed{\frac{3}{4}}$.",
    r"\boxed{x^2+1}",
    "$12$",
  ] * 2
  answers = [r"thus \boxed{0.75}", r"\boxed{1 + x^2}", "it is 12"]
  wrong = [r"3/4 or \boxed{4/3}", r"\boxed{x^2-1}", ""]
  values, signatures = metrics_lib.score(
    ("math",), [""] * 6, answers + wrong, references
  )
  assert values == {"math": 50.0}
  assert signatures["math"].startswith("math-verify:")
  with pytest.raises(ValueError, match="the reference 'none' has no formula"):
    metrics_lib.score(("math",), [""], ["12"], ["none"])


def test_missing_library_of_formulas_says_how_to_install_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "math_verify", None)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(
    ValueError, match=r"^metrics has 'math': needs math-verify \(pip"
  ):
    metrics_lib.check_metrics(("bleu", "math"), NO_COMET)


@pytest.mark.parametrize("side", ["answers", "references"])
def test_text_in_decomposed_form_scores_as_its_composed_form(side):
  # NFC takes the sign U+09DC apart as well: it is not always shorter.
  lines = ["M\u00e4nner \u00fcber B\u00fcsche", "\u09dc\u09cb\u09a8"] * 3
  composed = [unicodedata.normalize("NFC", line) for line in lines]
  other = [unicodedata.normalize("NFD", line) for line in lines]
  assert composed != other
  given = {"answers": composed, "references": composed} | {side: other}
  metrics = ("bleu", "chrf", "rougeL", "accuracy", "steps")
  values, _ = metrics_lib.score(metrics, [""] * 6, **given)
  expected, _ = metrics_lib.score(metrics, [""] * 6, composed, composed)
  assert values == expected
  assert values["chrf"] == pytest.approx(100)


CHAIN = "7+5=12;12-3=9;9+9=18 #### 18"


@pytest.mark.parametrize(
  ("answer", "index"),
  [
    (CHAIN, 3),
    ("7+5=12; 12-3=9 ;9+9=18", 3),
    ("7+5=12;12-3=9;9+9=18;18-1=17 #### 17", 3),
    # What comes right again after an error does not count.
    ("7+5=12;12-3=8;9+9=18 #### 18", 1),
    # Right by itself, but from a wrong result.
    ("7+5=13;13-3=10;10+9=19 #### 19", 0),
    ("7+5=12;12-3=9;9+8=17 #### 18", 2),
    ("7+5=12;12-3=9 #### 9", 2),
    ("7+5=12;12-3=9;9+9=1", 2),
    ("12-3=9;7+5=12;9+9=18 #### 18", 0),
    ("#### 18", 0),
    ("", 0),
  ],
)
def test_first_error_is_the_first_step_that_is_wrong_or_missing(answer, index):
  assert metrics_lib.first_error(answer, CHAIN) == index


def test_steps_are_the_share_before_the_first_error():
  answers = [
    CHAIN,
    "7+5=12;12-3=8;8+9=17 #### 17",
    "1+1=2;2+1=4 #### 4",
    "no",
  ]
  references = [CHAIN, CHAIN, "1+1=2;2+1=3 #### 3", CHAIN]
  values, signatures = metrics_lib.score(
    ("steps", "accuracy"), [""] * 4, answers, references
  )
  shares = [1, 1 / 3, 1 / 2, 0]
  assert values == pytest.approx({"steps": 25 * sum(shares), "accuracy": 25.0})
  assert "steps before the first error" in signatures["steps"]


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    ("3 * 4 = 12 #### 42", Fraction(42)),
    ("#### $1,234,567.50 in all", Fraction("1234567.5")),
    ("#### 42. And 5 more. #### 7", Fraction(42)),
    ("#### -5", Fraction(-5)),
    ("-$5", Fraction(-5)),
    ("so 12 - 5 = 7 are left.", Fraction(7)),
    ("12-5", Fraction(5)),
    ("7 - -3", Fraction(-3)),
    ("it costs .5 dollars", Fraction("0.5")),
    ("1, 2 and 3,000", Fraction(3000)),
    ("1,2", Fraction(2)),
    ("#### -.5", Fraction(-1, 2)),
    ("it fell by -.5", Fraction(-1, 2)),
    ("#### \N{MINUS SIGN}5", Fraction(-5)),
    ("\N{MINUS SIGN}$1,200", Fraction(-1200)),
    ("12\N{MINUS SIGN}5", Fraction(5)),
    ("#### 3/4", Fraction(3, 4)),
    ("they ate 6/8.", Fraction(3, 4)),
    ("#### -1 3/4 cups", Fraction(-7, 4)),
    ("12/4 = 3", Fraction(3)),
    ("on 3/4/2024", Fraction(2024)),
    ("#### 3/0", Fraction(3)),
    ("#### 50 %", Fraction(50)),
    ("#### 2,500.50km in all", Fraction(5001, 2)),
    ("\N{EURO SIGN}7", Fraction(7)),
    ("#### -\N{INDIAN RUPEE SIGN}5", Fraction(-5)),
    ("it is -$ 5", Fraction(-5)),
    ("#### - 5 degrees", Fraction(-5)),
    ("#### \N{MINUS SIGN} 5", Fraction(-5)),
    ("12 - 5", Fraction(5)),
    ("- 5 apples, - 6 pears", Fraction(6)),
    ("#### 3 / 4", Fraction(3, 4)),
    ("12 / 4 = 3", Fraction(3)),
    ("on 3 / 4 / 2024", Fraction(2024)),
    ("#### 3\N{FRACTION SLASH}4", Fraction(3, 4)),
    ("#### -\N{VULGAR FRACTION ONE HALF} a cup", Fraction(-1, 2)),
    ("1\N{VULGAR FRACTION ONE HALF} cups", Fraction(3, 2)),
    ("2 \N{VULGAR FRACTION SEVEN EIGHTHS}", Fraction(23, 8)),
    ("#### 5,000.", Fraction(5000)),
    ("#### 1" + "0" * 5000, "1" + "0" * 5000),
    ("1,000" + ",000" * 2000, "1000" + "000" * 2000),
    ("vitamin B12", "vitamin b12"),
    ("#### Monday ", "monday"),
    ("", ""),
  ],
)
def test_final_answer_is_after_the_mark_or_the_last_number(text, answer):
  assert metrics_lib.final_answer(text) == answer
  assert type(metrics_lib.final_answer(text)) is type(answer)


@pytest.mark.parametrize(
  ("metrics", "message"),
  [
    ((), "at least one"),
    (("bleu", "bleu"), "distinct"),
    (("blue",), "metrics has 'blue': must be one of bleu, chrf, rouge1"),
    (("rouge_l", "bleu"), "metrics has 'rouge_l'"),
    (("comet",), "evaluate.comet_checkpoint = ''"),
  ],
)
def test_metric_that_cannot_be_computed_is_named(metrics, message):
  with pytest.raises(ValueError, match=message) as caught:
    metrics_lib.check_metrics(metrics, NO_COMET)
  assert "\n" not in str(caught.value)


@pytest.fixture
def comet(tmp_path, monkeypatch):
  """A stand-in for the library, which scores by the share of equal words."""
  library = tmp_path / "library"
  (library / "comet").mkdir(parents=True)
  (library / "comet" / "__init__.py").write_text(
    "import pathlib, types\n"
    "print('a library that talks')\n"
    "def load_from_checkpoint(path, local_files_only):\n"
    "  assert local_files_only and pathlib.Path(path).is_absolute()\n"
    "  if 'bad' in pathlib.Path(path).read_text():\n"
    "    raise OSError('a bad checkpoint')\n"
    "  def predict(samples, batch_size, gpus, progress_bar):\n"
    "    assert all(set(s) == {'src', 'mt', 'ref'} for s in samples)\n"
    "    equal = sum(s['mt'] == s['ref'] != s['src'] for s in samples)\n"
    "    return types.SimpleNamespace(system_score=equal / len(samples))\n"
    "  return types.SimpleNamespace(predict=predict)\n"
  )
  (library / "unbabel_comet-2.2.9.dist-info").mkdir()
  (library / "unbabel_comet-2.2.9.dist-info" / "METADATA").write_text(
    "Metadata-Version: 2.1\nName: unbabel-comet\nVersion: 2.2.9\n"
  )
  checkpoint = tmp_path / "small-da" / "checkpoints" / "model.ckpt"
  checkpoint.parent.mkdir(parents=True)
  checkpoint.write_text("good")
  monkeypatch.setenv("PYTHONPATH", str(library))
  return metrics_lib.Comet(str(checkpoint), sys.executable)


def test_comet_is_run_by_its_own_python(comet):
  metrics_lib.check_metrics(("bleu", "comet"), comet)
  values, signatures = metrics_lib.score(
    ("comet",), SOURCES, ["eins", "b", "ü"], ["eins", "x", "ü"], comet
  )
  assert values == {"comet": pytest.approx(100 / 3)}
  assert signatures == {"comet": "unbabel-comet:2.2.9|model:small-da"}
  assert json.dumps(values)


def test_comet_that_fails_says_why(comet):
  with open(comet.checkpoint, "w", encoding="utf-8") as file:
    file.write("bad")
  with pytest.raises(ValueError, match=r"model\.ckpt: .*a bad checkpoint"):
    metrics_lib.score(("comet",), SOURCES, ANSWERS, REFERENCES, comet)


@pytest.mark.parametrize("python", ["", "no/such/python", sys.executable])
def test_missing_comet_library_says_how_to_install_it(
  comet, monkeypatch, python
):
  monkeypatch.delenv("PYTHONPATH")
  with pytest.raises(ValueError, match="pip install 'unbabel-comet") as caught:
    metrics_lib.check_metrics(
      ("comet",), metrics_lib.Comet(comet.checkpoint, python)
    )
  assert f"evaluate.comet_python = {python!r}" in str(caught.value)
