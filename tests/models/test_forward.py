"""Hidden states of a given response, from the slots that predict it."""

import jax.numpy as jnp
import numpy as np
import pytest

from skd_jax.models import forward
from tests.conftest import make_batch, trigram_model, trigram_params

pytestmark = pytest.mark.usefixtures("strict")

V = 23
MODEL = trigram_model()


def test_first_response_token_and_eos_are_predicted_from_the_right_slots():
  # Prompts of different lengths; EOS is the last token of each response.
  params = trigram_params(V, seed=0)
  batch = make_batch([[3], [1, 2, 5]], references=[[7, 8, 2], [9, 2]])
  hidden = forward.response_hidden(
    MODEL, params, batch.prompt, batch.prompt_length, batch.reference
  )
  table = params["table"]
  np.testing.assert_array_equal(hidden[0, 0], table[0, 3])  # predicts 7
  np.testing.assert_array_equal(hidden[0, 1], table[3, 7])  # predicts 8
  np.testing.assert_array_equal(hidden[0, 2], table[7, 8])  # predicts EOS
  np.testing.assert_array_equal(hidden[1, 0], table[2, 5])  # predicts 9
  np.testing.assert_array_equal(hidden[1, 1], table[5, 9])  # predicts EOS


def test_positions_of_a_packed_row_begin_again_with_each_example():
  # a a A A | b B B | - -, of which the first token has no flag.
  learned = jnp.array([[0, 1, 1, 0, 1, 1, 0, 0]], bool)
  found = forward.packed_positions(learned)
  np.testing.assert_array_equal(found, [[0, 1, 2, 3, 0, 1, 2, 0, 1]])
