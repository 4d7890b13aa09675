"""Numbers, texts and histograms arrive in TensorBoard as it draws them."""

import numpy as np
import pytest

from skd_jax.reporting import boards
from tests import tensorboard_events


@pytest.fixture
def written(tmp_path):
  """The folder of one step with an entry of each kind."""
  board = boards.TensorBoard(boards.Place(tmp_path, "distill", 3, -1))
  board.write(
    7,
    {
      "loss": 0.5,
      "samples": boards.Texts(("prompt", "answer"), [("a|b", "c\n# d & *e*")]),
      "length": boards.Histogram((0, 1, 2, 4), (1, 0, 2.5)),
    },
  )
  board.close()
  return tmp_path / "tensorboard" / "distill" / "seed_3"


def test_text_is_a_table_in_which_nothing_of_a_model_is_markup(written):
  texts = tensorboard_events.texts(written)
  assert texts == {
    "samples": {
      7: "| prompt | answer |\n| --- | --- |\n"
      "| a&#124;b | c<br>&#35; d &#38; &#42;e&#42; |"
    }
  }


def test_histogram_has_its_counts_between_its_edges(written):
  values = [
    (event.step, value)
    for event in tensorboard_events.read(written)
    for value in event.summary.value
    if value.HasField("histo")
  ]
  ((step, value),) = values
  histogram = value.histo
  assert (step, value.tag) == (7, "length")
  assert (histogram.min, histogram.max, histogram.num) == (0, 4, 3.5)
  # A bucket lies between the limit before it and its own.
  assert list(histogram.bucket_limit) == [0, 1, 2, 4]
  assert list(histogram.bucket) == [0, 1, 0, 2.5]
  middles = np.array([0.5, 1.5, 3.0])
  weights = np.array([1, 0, 2.5])
  assert histogram.sum == pytest.approx((middles * weights).sum())
  assert histogram.sum_squares == pytest.approx((middles**2 * weights).sum())


def test_number_is_a_scalar_at_its_step(written):
  scalars = [
    (event.step, value.tag, value.simple_value)
    for event in tensorboard_events.read(written)
    for value in event.summary.value
    if value.HasField("simple_value")
  ]
  assert scalars == [(7, "loss", 0.5)]
