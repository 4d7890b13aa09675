"""Toy models and settings that the tests share."""

import contextlib
import shutil
from collections.abc import Iterator

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from skd_jax import structs
from skd_jax.decoding import stopping

# How many cases each of the 14 tests in tests/properties draws: 500 in all that
# are always the same, or 10,000 new ones by `--hypothesis-profile=long`.
_ALWAYS = {"deadline": None, "database": None}
hypothesis.settings.register_profile(
  "quick", max_examples=35, derandomize=True, **_ALWAYS
)
hypothesis.settings.register_profile("long", max_examples=720, **_ALWAYS)
hypothesis.settings.load_profile("quick")


@contextlib.contextmanager
def settings(**values) -> Iterator[None]:
  """Has other settings of JAX for a while; compiles by the new ones."""
  before = {name: jax.config.values[name] for name in values}
  try:
    for name, value in values.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


def pytest_sessionstart(session):
  """Forgets compiled programs once they are many; before workers start."""
  if hasattr(session.config, "workerinput"):
    return
  folder = session.config.cache.mkdir("compiled")
  if sum(file.stat().st_size for file in folder.iterdir()) > 2**30:
    shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def _quick_compilation(pytestconfig):
  """Compiles without optimizing, and each function once for all sessions."""
  with settings(
    jax_disable_most_optimizations=True,
    jax_compilation_cache_dir=str(pytestconfig.cache.mkdir("compiled")),
    jax_persistent_cache_min_compile_time_secs=0.0,
    jax_persistent_cache_min_entry_size_bytes=-1,
  ):
    yield


@pytest.fixture(autouse=True)
def _optimized(request):
  """Compiles as users do, where a test is slow or looks at the program."""
  marker = request.node.get_closest_marker
  if not marker("optimized") and not marker("slow"):
    yield
    return
  with settings(
    jax_disable_most_optimizations=False, jax_compilation_cache_dir=None
  ):
    yield


@pytest.fixture
def strict():
  """No silent promotion of types, ranks or NaNs."""
  with (
    jax.numpy_dtype_promotion("strict"),
    jax.numpy_rank_promotion("raise"),
    jax.debug_nans(True),
  ):
    yield


def trigram_model() -> structs.LanguageModel:
  """A language model that is a table: logits = table[before, last].

  The cache holds the tokens by slot, so a stale slot that is read shows.
  """

  def apply(params, tokens, positions, cache):
    if cache is None:
      cache = jnp.zeros((tokens.shape[0], tokens.shape[1]), jnp.int32)
    rows = jnp.arange(tokens.shape[0])[:, None]
    cache = cache.at[rows, positions].set(tokens)
    before = jnp.where(
      positions > 0, cache[rows, jnp.maximum(positions - 1, 0)], 0
    )
    return params["table"][before, tokens], cache

  return structs.LanguageModel(
    apply=apply,
    head=lambda head_params, hidden: hidden @ head_params.T,
    head_params=lambda params: params["head"],
    init_cache=lambda rows, slots: jnp.full((rows, slots), -1, jnp.int32),
  )


def trigram_params(vocab_size: int, seed: int, scale: float = 1.0):
  table = np.random.default_rng(seed).normal(
    size=(vocab_size, vocab_size, vocab_size)
  )
  return {
    "table": jnp.asarray(scale * table, jnp.float32),
    "head": jnp.eye(vocab_size, dtype=jnp.float32),
  }


def trigram_logits(params):
  """The same model, as a plain function of a sequence."""
  table = np.asarray(params["table"])

  def logits(sequence):
    before = sequence[-2] if len(sequence) > 1 else 0
    return table[before, sequence[-1]]

  return logits


def make_batch(
  prompts, prompt_size=None, references=None, task_id=None, max_new_tokens=None
) -> structs.Batch:
  """Right-pads lists of ids to a Batch; the padding is poisoned with 1.

  One task and no limits of the rows, unless `task_id` and `max_new_tokens`
  say so.
  """
  references = references or [[1]] * len(prompts)
  prompt_size = prompt_size or max(map(len, prompts))
  new_size = max(map(len, references))

  def pad(rows, size):
    return jnp.asarray(
      [list(row) + [1] * (size - len(row)) for row in rows], jnp.int32
    )

  return structs.Batch(
    prompt=pad(prompts, prompt_size),
    prompt_length=jnp.asarray([len(p) for p in prompts], jnp.int32),
    reference=pad(references, new_size),
    reference_length=jnp.asarray([len(r) for r in references], jnp.int32),
    index=jnp.arange(len(prompts), dtype=jnp.int32),
    task_id=jnp.asarray(task_id or [0] * len(prompts), jnp.int32),
    max_new_tokens=jnp.asarray(
      max_new_tokens or [1_000_000] * len(prompts), jnp.int32
    ),
  )


def tokens_until_done(stop_table: stopping.StopTable, tokens) -> int | None:
  """How many tokens a row of one task has when it ends; None: it does not."""
  state = stop_table.start[:1]
  for count, token in enumerate(tokens, 1):
    state = stopping.advance(stop_table, state, jnp.array([token]))
    if int(state[0]) == stopping.DONE:
      return count
  return None
