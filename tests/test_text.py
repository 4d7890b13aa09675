"""The function that answers lines of text."""

import dataclasses
import re

import jax.numpy as jnp
import pytest

import skd_jax
from skd_jax import models, text
from skd_jax.data import tokenizer as tokenizer_lib
from tests import tiny_run
from tests.toy_models import M2M100, noisy_params


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny_run.finish(tmp_path_factory)


@pytest.fixture(scope="module")
def lines(workdir):
  path = workdir.parent / "data" / "test.de"
  return path.read_text("utf-8").splitlines()


@pytest.fixture(scope="module")
def model(workdir):
  return skd_jax.load_model(workdir / "export")


@pytest.fixture(scope="module")
def tokenizer(workdir):
  return skd_jax.load_tokenizer(workdir / "export")


OPTIONS = {"max_new_tokens": 16, "batch_size": 8}


def test_answers_are_those_of_the_run(workdir, lines, model, tokenizer):
  expected = (workdir / "answers" / "distill_seed_0.txt").read_text("utf-8")
  answers = skd_jax.generate(lines, model, tokenizer, **OPTIONS)
  assert list(answers) == expected.splitlines()


def test_lines_are_read_a_batch_at_a_time(lines, model, tokenizer):
  read = []

  def stream():
    for number, line in enumerate(lines):
      read.append(number)
      yield line

  answers = skd_jax.generate(
    stream(), model, tokenizer, **OPTIONS | {"batch_size": 2}
  )
  assert read == []
  next(answers)
  assert read == [0, 1]
  next(answers)
  next(answers)
  assert read == [0, 1, 2, 3]


def test_draft_gives_the_same_answers_and_says_what_it_brought(
  workdir, lines, model, tokenizer
):
  teacher = skd_jax.load_model(workdir / "teacher")
  plain = text.TextGenerator(teacher, tokenizer, **OPTIONS)
  expected = list(plain.answers(lines))
  assert plain.summary() == ""
  drafted = text.TextGenerator(
    teacher, tokenizer, draft=model, num_draft_tokens=2, **OPTIONS
  )
  assert drafted.summary() == ""  # Nothing is answered yet.
  assert list(drafted.answers(lines)) == expected
  stats = drafted.stats
  # Every line has at least one token, EOS included where it came.
  assert len(lines) <= stats.rounds < stats.emitted
  assert 0 < sum(stats.accepted) <= sum(stats.judged)
  assert drafted.timed.speedup > 0
  assert drafted.timed.tokens_per_second > 0
  shown = re.fullmatch(
    r"Drafts: \d+% of the judged tokens accepted \(by position \d+%, \d+%\), "
    r"([\d.]+) tokens per teacher pass; \d+ tokens per second, "
    r"[\d.]+ times the speed of plain decoding, by (\d) of (\d) batches",
    drafted.summary(),
  )
  assert shown
  assert float(shown[1]) == pytest.approx(
    stats.emitted / stats.rounds, abs=0.01
  )


def test_batches_of_the_whole_input_are_timed_both_ways(
  lines, model, tokenizer, monkeypatch
):
  timed, decoded = [], text._timed
  monkeypatch.setattr(
    text, "_timed", lambda decode: timed.append(decode) or decoded(decode)
  )
  options = OPTIONS | {"batch_size": 1}
  drafted = text.TextGenerator(
    model, tokenizer, draft=skd_jax.PromptLookup(), **options
  )
  answers = list(drafted.answers(lines[:1] * 5))
  assert len(set(answers)) == 1
  # The batches 1, 2 and 4 of 5.
  assert len(timed) == 2 * drafted.timed.num_batches == 6
  assert drafted.num_batches == 5
  # Drafts that adapt are the program of those that do not.
  assert drafted.costs
  assert drafted._speculate.func._cache_size() == 1
  of_answer = drafted.stats.emitted / 5
  assert drafted.timed.num_tokens == 3 * of_answer


@pytest.mark.slow
def test_lookup_gives_the_same_answers_when_they_are_sampled(
  lines, model, tokenizer
):
  options = OPTIONS | {"temperature": 1.0, "top_p": 0.9, "seed": 3}
  plain = skd_jax.generate(lines, model, tokenizer, **options)
  drafted = text.TextGenerator(
    model, tokenizer, draft=skd_jax.PromptLookup(), **options
  )
  # The second batch drafts as long as paid in the first.
  answers = list(drafted.answers([*lines, *lines[:2]]))
  assert answers[: len(lines)] == list(plain)
  assert len(answers) == len(lines) + 2
  assert sum(drafted.stats.judged) > 0


@pytest.mark.slow
def test_drafts_cost_nothing_where_their_length_would_change_the_answers(
  lines, model, tokenizer, monkeypatch
):
  measured = {"draft_cost": 0.5, "round_cost": 0.1}
  monkeypatch.setattr(
    text.draft_lengths, "measured_costs", lambda *seconds, draft_cost: measured
  )
  for temperature, costs in ((0.0, measured), (1.0, {})):
    drafted = text.TextGenerator(
      model, tokenizer, draft=model, **OPTIONS | {"temperature": temperature}
    )
    list(drafted.answers(lines[:2]))
    assert drafted.costs == costs


@pytest.mark.slow
def test_draft_that_does_not_pay_is_off_from_the_second_batch_on(
  lines, model, tokenizer, monkeypatch
):
  # Each drafted token costs more than the pass that it can save.
  measured = {"draft_cost": 1.5, "round_cost": 0.1}
  monkeypatch.setattr(
    text.draft_lengths, "measured_costs", lambda *seconds, draft_cost: measured
  )
  drafted = text.TextGenerator(model, tokenizer, draft=model, **OPTIONS)
  answers = list(drafted.answers(lines))
  judged = sum(drafted.stats.judged)
  assert judged > 0
  assert list(drafted.answers(lines)) == answers
  assert sum(drafted.stats.judged) == judged


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"max_new_tokens": 48}, r"max_new_tokens = 48: must be in \[1, 47\]"),
    ({"batch_size": 0}, "batch_size = 0: must be at least 1"),
    ({"num_draft_tokens": 0}, "num_draft_tokens = 0: must be at least 1"),
    ({"top_p": 0.0}, "top_p = 0.0"),
    ({"temperature": -1.0}, "temperature = -1.0"),
  ],
)
def test_bad_option_is_named(model, tokenizer, options, message):
  with pytest.raises(ValueError, match=message):
    text.TextGenerator(model, tokenizer, **options)


def test_draft_of_another_vocabulary_is_refused(model, tokenizer):
  size = model.config.vocab_size
  other = dataclasses.replace(
    model, config=dataclasses.replace(model.config, vocab_size=size + 1)
  )
  with pytest.raises(
    ValueError, match=f"has {size + 1} tokens, must be {size}"
  ):
    text.TextGenerator(model, tokenizer, draft=other)


def test_draft_that_reads_less_limits_the_prompts(lines, model, tokenizer):
  config = dataclasses.replace(model.config, max_position_embeddings=20)
  draft = dataclasses.replace(model, config=config)
  with pytest.raises(ValueError, match=r"\[1, 19\], as the draft reads 20"):
    text.TextGenerator(model, tokenizer, draft=draft, max_new_tokens=20)
  drafted = text.TextGenerator(model, tokenizer, draft=draft, max_new_tokens=16)
  with pytest.raises(
    ValueError, match=r"line 1: the prompt .* at most 4 leave"
  ):
    list(drafted.answers(lines))


def test_draft_larger_than_the_model_is_refused(model, tokenizer):
  larger = dataclasses.replace(
    model, params={**model.params, "more": jnp.zeros(1)}
  )
  text.TextGenerator(larger, tokenizer, draft=model)
  with pytest.raises(
    ValueError, match=r"draft: it has [\d,]+ weights, must have at most"
  ):
    text.TextGenerator(model, tokenizer, draft=larger)


def test_an_encoder_must_have_a_token_to_read(monkeypatch):
  model = models.LoadedModel(
    M2M100, models.create(M2M100), noisy_params(M2M100)
  )
  generator = text.TextGenerator(model, None, max_new_tokens=4, eos_ids=[0])
  monkeypatch.setattr(
    tokenizer_lib, "encode_prompts", lambda *args: [[5, 6, 7], [5, 6]]
  )
  with pytest.raises(ValueError, match="has 2 tokens: must have at least 3"):
    list(generator.answers(["three", "two"]))
