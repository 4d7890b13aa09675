"""A rollout says what happened, and no text can break the page."""

import dataclasses
import html.parser
import json

import pytest

from skd_jax.reporting.rollouts import (
  SampleView,
  TokenView,
  count_text,
  counts,
  response,
  ribbon,
)


def token(text: str, source: str = "student", **changes) -> TokenView:
  view = TokenView(text, source, text, text, 0, 0.5, 0.25, 0.25)
  return dataclasses.replace(view, **changes)


def sample(*tokens: TokenView, prompt="p", step=0, truncated=False):
  return SampleView(prompt, "r", tokens, truncated, step)


class Shown(html.parser.HTMLParser):
  """Collects the elements of a rollout, and its text."""

  def __init__(self, view: SampleView):
    super().__init__()
    self.elements = []
    self.text = ""
    self.feed(response(view, "t-1"))

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.text += data

  def tokens(self) -> list[dict]:
    return [attrs for _, attrs in self.elements if "id" in attrs]


def test_markup_in_any_text_stays_text():
  evil = "<script>alert(1)</script>\"'>&amp;<img src=x>"
  changes = {"student_token": evil, "teacher_token": evil}
  hurt = Shown(sample(token(evil, "teacher", **changes)))
  clean = Shown(sample(token("a", "teacher")))
  tags = [name for name, _ in hurt.elements]
  assert tags == [name for name, _ in clean.elements] == ["del", "span"]
  assert hurt.text == evil * 2
  (attrs,) = hurt.tokens()
  assert json.loads(attrs["data-token"])[:3] == [evil] * 3


def test_every_token_carries_its_source_and_details():
  shown = Shown(
    sample(
      token("Das"),
      token(
        " Haus",
        "teacher",
        student_token=" Maus",
        teacher_token=" Gebäude",
        rank=31,
        student_prob=0.4,
        teacher_prob=1 / 3e4,
        emitted_teacher_prob=0.2,
      ),
    )
  )
  student, teacher = shown.tokens()
  assert [student["id"], teacher["id"]] == ["t-1-0", "t-1-1"]
  assert student["class"] == "token student"
  assert teacher["class"] == "token teacher"
  assert json.loads(teacher["data-token"]) == [
    " Haus",
    " Maus",
    " Gebäude",
    31,
    0.4,
    pytest.approx(1 / 3e4, rel=1e-3),
    0.2,
  ]
  assert [name for name, _ in shown.elements].count("del") == 1


@pytest.mark.parametrize(
  ("text", "signs"),
  [("\n", "↵\n"), (" ", "␣"), ("  ", "␣␣"), ("\t", "⇥"), ("", "∅")],
)
def test_token_without_ink_is_visible(text, signs):
  shown = Shown(sample(token("a"), token(text), token("b")))
  assert "a" + signs + "b" in shown.text


def test_blanks_beside_ink_are_written_as_they_are():
  shown = Shown(sample(token("a"), token("  b c\n"), token(" d", "teacher")))
  assert "a  b c\n" in shown.text
  assert "␣" not in shown.text
  assert "↵" not in shown.text


def test_rate_counts_tokens_not_samples():
  short = sample(token("a", "teacher"), step=0)
  long = sample(*[token("b")] * 9, step=7)
  assert counts([short, long]) == (1, 10)
  assert count_text(short) == "1 of 1 tokens (100.0\N{NBSP}%) replaced"
  assert count_text(long) == "0 of 9 tokens (0.0\N{NBSP}%) replaced"
  assert count_text(sample()) == "no tokens"


def test_ribbon_marks_the_replaced_tokens():
  drawn = ribbon(sample(token("a"), token("b", "teacher"), token("c")))
  assert 'viewBox="0 0 3 1"' in drawn
  assert '<path d="M1 0h1v1h-1z"/>' in drawn


def test_unknown_probability_is_null_not_nan():
  names = ("student_prob", "teacher_prob", "emitted_teacher_prob")
  view = sample(token("a", **dict.fromkeys(names, float("nan"))))
  (attrs,) = Shown(view).tokens()
  assert json.loads(attrs["data-token"])[4:] == [None, None, None]


def test_each_rollout_is_one_tab_stop():
  shown = Shown(sample(token("a"), token("b"), token("c")))
  assert [a["tabindex"] for a in shown.tokens()] == ["0", "-1", "-1"]


def test_unknown_source_is_an_error():
  with pytest.raises(ValueError, match="'reference'; allowed: student, teach"):
    token("a", "reference")
