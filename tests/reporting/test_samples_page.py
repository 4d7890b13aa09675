"""samples.html says what happened, and no text can break the page."""

import dataclasses
import html.parser
import json
import math

import pytest

from skd_jax.reporting.samples_page import (
  SampleView,
  TokenView,
  replacement_rate,
  write_samples,
)


def token(text: str, source: str = "student", **changes) -> TokenView:
  view = TokenView(text, source, text, text, 0, 0.5, 0.25, 0.25)
  return dataclasses.replace(view, **changes)


def sample(*tokens: TokenView, prompt="p", step=0, truncated=False):
  return SampleView(prompt, "r", tokens, truncated, step)


class Page(html.parser.HTMLParser):
  """Collects the elements of a page, and the text of the responses."""

  def __init__(self, path):
    super().__init__()
    self.elements = []
    self.text = ""
    self.feed(path.read_text(encoding="utf-8"))

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.text += data

  def all(self, tag: str, cls: str = "") -> list[dict]:
    return [
      attrs
      for name, attrs in self.elements
      if name == tag and cls in [*(attrs.get("class") or "").split(" "), ""]
    ]


@pytest.fixture
def page(tmp_path):
  def write(*samples, title="title", subtitle="subtitle") -> Page:
    path = tmp_path / "samples.html"
    write_samples(path, samples, title=title, subtitle=subtitle)
    return Page(path)

  return write


def response_tokens(page: Page) -> list[dict]:
  return [attrs for attrs in page.all("span", "token") if "id" in attrs]


def test_markup_in_any_text_stays_text(page):
  evil = "<script>alert(1)</script>\"'>&amp;<img src=x>"
  hurt = page(
    SampleView(
      evil,
      evil,
      [token(evil, "teacher", student_token=evil, teacher_token=evil)],
      False,
      0,
    ),
    title=evil,
    subtitle=evil,
  )
  clean = page(sample(token("a", "teacher")))
  tags = [name for name, _ in hurt.elements]
  assert tags == [name for name, _ in clean.elements]
  assert hurt.text.count(evil) == 7  # Title twice, and each text once.
  (attrs,) = response_tokens(hurt)
  assert json.loads(attrs["data-token"])[:3] == [evil] * 3


def test_every_token_carries_its_source_and_details(page):
  shown = page(
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
  student, teacher = response_tokens(shown)
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
  assert len(shown.all("del")) == 1


@pytest.mark.parametrize(
  ("text", "signs"),
  [("\n", "↵\n"), (" ", "␣"), ("  ", "␣␣"), ("\t", "⇥"), ("", "∅")],
)
def test_token_without_ink_is_visible(page, text, signs):
  shown = page(sample(token("a"), token(text), token("b")))
  assert "a" + signs + "b" in shown.text


def test_blanks_beside_ink_are_written_as_they_are(page):
  shown = page(sample(token("a"), token("  b c\n"), token(" d", "teacher")))
  assert "a  b c\n" in shown.text
  assert "␣" not in shown.text
  assert "↵" not in shown.text


def test_rate_counts_tokens_not_samples(page):
  short = sample(token("a", "teacher"), step=0)
  long = sample(*[token("b")] * 9, step=7)
  assert replacement_rate([short, long]) == 0.1
  assert math.isnan(replacement_rate([sample()]))
  shown = page(short, long)
  assert "1 of 10 tokens (10.0\N{NBSP}%)" in shown.text
  assert "100.0\N{NBSP}% replaced" in shown.text
  assert "Step 70.0\N{NBSP}% replaced" in shown.text


def test_same_prompt_is_paired_between_first_and_last_step(page):
  shown = page(
    sample(prompt="late only", step=9),
    sample(prompt="a", step=9),
    sample(prompt="a", step=5),
    sample(prompt="a", step=0),
    sample(prompt="early only", step=0),
  )
  cards = [(a["data-step"], a["data-pair"]) for a in shown.all("article")]
  assert cards == [("0", "0"), ("0", ""), ("5", ""), ("9", ""), ("9", "1")]
  views = [a["value"] for a in shown.all("input") if a.get("name") == "view"]
  assert views == ["compare", "all", "0", "5", "9"]


def test_one_step_offers_no_comparison(page):
  shown = page(sample(prompt="a"), sample(prompt="a"))
  views = [a["value"] for a in shown.all("input") if a.get("name") == "view"]
  assert views == ["all"]


def test_truncated_rollout_says_so(page):
  ended, cut = sample(token("a")), sample(token("a"), truncated=True)
  assert "length limit" not in page(ended).text
  assert "length limit" in page(cut).text


def test_unknown_probability_is_null_not_nan(page):
  nan = float("nan")
  shown = page(
    sample(
      token("a", student_prob=nan, teacher_prob=nan, emitted_teacher_prob=nan)
    )
  )
  (attrs,) = response_tokens(shown)
  assert json.loads(attrs["data-token"])[4:] == [None, None, None]


def test_page_needs_no_network(page):
  shown = page(sample(token("a")))
  assert not any({"src", "href"} & attrs.keys() for _, attrs in shown.elements)
  assert "url(" not in shown.text
  assert "@import" not in shown.text


def test_each_rollout_is_one_tab_stop(page):
  shown = page(sample(token("a"), token("b"), token("c")))
  assert [a["tabindex"] for a in response_tokens(shown)] == ["0", "-1", "-1"]


def test_no_samples_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="samples is empty"):
    write_samples(tmp_path / "x.html", [], title="", subtitle="")


def test_unknown_source_is_an_error():
  with pytest.raises(ValueError, match="'reference'; allowed: student, teach"):
    token("a", "reference")
