"""The arithmetic of a step on a mesh of chips, against small sums by hand."""

import dataclasses

import pytest

from benchmarks.tpu import checkpoints, chips, roofline
from skd_jax import models

CHIP = chips.Chip("toy", 1e12, 1e9, 1e9, 1e8, 1e9, "default")
CONFIG = models.ModelConfig(
  vocab_size=64,
  hidden_size=16,
  intermediate_size=32,
  num_layers=2,
  num_heads=8,
  num_kv_heads=4,
  head_dim=8,
  tie_embeddings=True,
)
WORK = roofline.Work(
  student=CONFIG,
  teacher=CONFIG,
  rows=8,
  prompt_tokens=4,
  response_tokens=8,
  num_draft_tokens=4,
  replacement_rate=0.5,
)
LAYERS = 2 * (16 * (2 * 64 + 2 * 32) + 3 * 16 * 32 + 2 * 16) + 16


def machine(data=1, fsdp=1, tensor=1, chip=CHIP):
  return roofline.Machine(chip, data, fsdp, tensor)


def test_rounds_follow_the_replacement_rate():
  rounds = {
    rate: dataclasses.replace(WORK, replacement_rate=rate).rounds
    for rate in (0.0, 0.5, 1.0)
  }
  # Of a draft of 4, half replaced: 1 + 1/2 + 1/4 + 1/8 tokens.
  assert rounds == {0.0: 2, 0.5: 8 / 1.875, 1.0: 8}


def test_a_pass_reads_weights_and_cache():
  part = machine().one_pass(CONFIG, rows=3, tokens=5, context=10)
  weights = LAYERS + 64 * 16
  cached = 2 * 2 * 3 * 4 * 8 * 10
  assert part.memory == pytest.approx(2 * (weights + cached) / 1e9)
  attention = 4 * 2 * 3 * 5 * 8 * 8 * 10
  flops = 2 * 3 * 5 * weights + attention
  assert part.compute == pytest.approx(flops / 1e12)
  assert part.network == 0


def test_tensor_shards_weights_and_adds_sums():
  one, four = (
    machine(tensor=n).one_pass(CONFIG, rows=3, tokens=5, context=10)
    for n in (1, 4)
  )
  assert one.memory / 4 < four.memory < one.memory / 3.9  # Norms stay whole.
  reduced = (2 * 2 + 1) * 3 * 5 * 16 * 2
  logits = 3 * 5 * 64 * 4 / 4
  network = (2 * reduced + logits) * 3 / 4 / 1e8
  assert four.network == pytest.approx(network)


def test_heads_that_do_not_divide_stay_whole():
  assert machine(tensor=8).part_of(CONFIG, "kv_heads", 4) == 4
  assert machine(tensor=4).part_of(CONFIG, "kv_heads", 4) == 1


def test_fsdp_shards_trained_weights_and_gathers_them():
  work = dataclasses.replace(WORK, rows=16)
  whole, cut = machine(data=2).step(work), machine(fsdp=2).step(work)
  assert whole["gather"].network == 0 < cut["gather"].network
  assert cut["update"].memory < 0.6 * whole["update"].memory
  assert cut["train"].network > whole["train"].network
  assert cut["train"].compute == whole["train"].compute


def test_compact_teacher_is_read_in_its_bytes():
  steps = [
    machine().step(dataclasses.replace(WORK, teacher_bytes=size))
    for size in (2, 1)
  ]
  whole, small = (step["verify"] for step in steps)
  weights = (LAYERS + 64 * 16) * WORK.rounds
  assert whole.memory - small.memory == pytest.approx(weights / 1e9)
  assert whole.compute == small.compute
  assert steps[0]["draft"] == steps[1]["draft"]


def test_adapters_have_no_gradient_of_the_weights():
  work = dataclasses.replace(WORK, remat=False)
  whole, adapted = (
    machine(data=2, fsdp=2).step(
      dataclasses.replace(work, rows=16, trains_adapters=frozen)
    )
    for frozen in (False, True)
  )
  assert adapted["update"].memory == adapted["gather"].network == 0
  assert adapted["train"].network == 0 < whole["train"].network
  # Two passes of bf16 where there are three of float32.
  assert adapted["train"].memory == pytest.approx(whole["train"].memory / 3)


def test_summary_names_what_bounds_the_step():
  parts = {
    "draft": roofline.Part(memory=3, compute=1),
    "train": roofline.Part(compute=2, network=1),
    "update": roofline.Part(memory=0.5),
  }
  assert roofline.summary(parts) == {
    "step_s": 5.5,
    "rollout_s": 3,
    "training_s": 2.5,
    "bound": "draft memory",
  }


@pytest.mark.parametrize("name", ["google/gemma-7b-it", "Qwen/Qwen3-8B"])
def test_published_weights_divide(name):
  config = checkpoints.load(name)[0]
  whole = roofline.weights_per_chip(config)
  assert whole == checkpoints.num_params(config)
  part = roofline.weights_per_chip(config, tensor=8)
  assert part == pytest.approx(whole / 8, rel=0.001)
  part = roofline.weights_per_chip(config, fsdp=2, tensor=4)
  assert part == pytest.approx(whole / 8, rel=0.001)


@pytest.mark.parametrize(
  ("topology", "message"),
  [
    ("v9:2x2", r"topology = 'v9:2x2': the chip must be one of \['v4', 'v5e'"),
    ("v5e", "topology = 'v5e': the shape must be like 2x4"),
    ("v5e:2xa", "topology = 'v5e:2xa': the shape must be"),
    ("v5e:0x2", "topology = 'v5e:0x2': the shape must be"),
  ],
)
def test_bad_topology_is_one_clear_line(topology, message):
  with pytest.raises(ValueError, match=message):
    chips.parse_topology(topology)


def test_topology_is_a_chip_and_a_shape():
  assert chips.parse_topology("v5p:2x2x1") == (chips.CHIPS["v5p"], (2, 2, 1))
