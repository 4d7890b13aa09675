"""Examples that share a row do not see each other."""

import dataclasses

import jax
import numpy as np

from skd_jax import models
from skd_jax.data import packing
from skd_jax.models import forward
from tests.conftest import make_batch
from tests.data.test_input_pipeline import make_set
from tests.toy_models import GEMMA, noisy_params


def test_an_example_in_a_packed_row_is_as_alone():
  # Windows, caps and rotary embeddings, which all read positions.
  model, params = models.create(GEMMA), noisy_params(GEMMA)
  data = make_set(6, longest=9)
  data = dataclasses.replace(
    data,
    prompts=[row % GEMMA.vocab_size for row in data.prompts],
    responses=[row % GEMMA.vocab_size for row in data.responses],
  )
  together = packing.make_batch(data, [[0, 1, 2], [3, 4, 5]], 60)

  @jax.jit
  def hidden(batch):
    return forward.response_hidden(
      model,
      params,
      batch.prompt,
      batch.prompt_length,
      batch.reference,
      batch.learned,
    )

  packed = hidden(together)
  alone = hidden(make_batch(data.prompts, references=data.responses))
  for i in range(6):
    row, end = i // 3, 0
    for j in range(row * 3, i):
      end += len(data.prompts[j]) + len(data.responses[j])
    first = end + len(data.prompts[i]) - 1
    size = len(data.responses[i])
    np.testing.assert_allclose(
      packed[row, first : first + size],
      alone[i, :size],
      rtol=1e-4,
      atol=1e-5,
    )
