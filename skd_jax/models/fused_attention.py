"""Attention in one kernel: of a sequence among itself, and to a long cache.

A kernel holds the scores of a block of queries and keys at a time, in fast
memory, and computes them once more for the gradient:

  keys       0..511  512..1023  ...
  queries
     0..511     x                    x: computed; what no query of the block
  512..1023     x        x           sees is left out
        ...     x        x       x

Sequences are causal and padded on the right, so that a mask is known before
anything runs. Of a cache it is not: that kernel, of a TPU, takes positions.
"""

import functools

import jax
import jax.numpy as jnp

from skd_jax.parallel import sharding

# Tokens of a sequence from which a kernel pays. TPU: forward and backward pass
# of one layer, eight rows on one v5e, in thousands of cycles that the compiler
# schedules (one-off counts); P + T = 384 are 383 tokens:
#
#   tokens                                  255    300    383    511
#   Qwen2 0.5B, N 2, R 7, H 64    `attend`  387    514    981   1964
#                                 splash    329    550    555    732
#   Gemma 2B, N 1, R 1, H 256     `attend`   33     68     90    150
#                                 splash     46     79     83    123
#
# GPU: of 8,192 tokens and one layer of Llama 1B, forward and backward in a
# trial on an H200, rows of 256 took 2.4 ms by `attend` and 0.6 by cuDNN, rows
# of 2,048 8.0 and 1.0.
FUSED_FROM = {"tpu": 383, "gpu": 256}
_MAX_CUDNN_HEAD = 128  # What every GPU with bfloat16 can; some can 256.
# Slots from which the kernels of a cache pay, on TPU. Gemma 2B drafts and 7B
# judges on eight v5e; thousands of cycles that the compiler schedules, without
# latency (docs/results/tpu.md has these and other models):
#
#   8 rows of 517 slots    draft step    judging
#   `attend`               1332          4898
#   the kernels            1307          4471
#
# Shorter caches are a small part of what a model reads.
LONG_CACHE = 512
SLOTS_TOGETHER = 8  # In the memory of a TPU, which holds no part of these.
_MAX_CACHE_QUERIES = 128  # Of a group, whose scores fill a matrix unit.


def choose_kernel(
  platform: str,
  *,
  length: int,
  dtype: jax.typing.DTypeLike,
  head_dim: int,
  cap: float | None,
  packed: bool,
  block_sparse: bool,
) -> str:
  """Chooses how a sequence attends to itself.

  |          | where it is used                                    |
  |:---------|:----------------------------------------------------|
  | `splash` | on TPU, from FUSED_FROM tokens on                   |
  | `cudnn`  | on GPU, likewise; 16 bits, no soft cap, heads of at |
  |          | most 128, a multiple of 8; one sequence a row       |
  | `scores` | else: `attention.attend`, whole or by chunks; where |
  |          | a query sees some blocks alone                      |

  Args:
    platform: "cpu", "gpu" or "tpu".
    length: n, tokens of a row.
    dtype: of queries, keys and values.
    head_dim: H.
    cap: the soft cap of the scores, or None.
    packed: whether a row holds several sequences.
    block_sparse: whether a query sees some blocks alone; no kernel knows these.

  Returns:
    The name.
  """
  if platform not in FUSED_FROM or length < FUSED_FROM[platform]:
    return "scores"
  if block_sparse:
    return "scores"
  if platform == "tpu":
    return "splash"
  fits_cudnn = (
    jnp.dtype(dtype).itemsize == 2
    and cap is None
    and head_dim <= _MAX_CUDNN_HEAD
    and head_dim % 8 == 0
    and not packed
  )
  return "cudnn" if fits_cudnn else "scores"


def attend_fused(
  kernel: str,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  starts: jax.Array | None,
  *,
  window: int | None,
  cap: float | None,
) -> jax.Array:
  """Mixes the values of the tokens that each token sees, by a kernel.

  Each device has its rows and, where they divide, its heads, else a part of
  these rows; a kernel cannot be partitioned.

  Args:
    kernel: "splash" or "cudnn", as chosen for these arguments.
    query: [B, n, N*R, H], scaled; head N*R = group * R + r.
    key: [B, N, n, H].
    value: [B, N, n, H].
    starts: int32 [B, n], the slot of each token's first visible one; None: 0.
    window: how many slots a query sees, its own the last; None: all up to it.
    cap: the soft cap of the scores, or None.

  Returns:
    [B, n, N*R*H], in the dtype of `value`. Scores are in float32.
  """
  parts = sharding.num_tensor_parts()
  if query.shape[2] % parts == 0 and parts % key.shape[1] == 0:
    # Devices that share a group, N = 2 on 4: each has a copy of its keys.
    copies = parts // key.shape[1]
    key, value = (jnp.repeat(x, copies, axis=1) for x in (key, value))
  splits = key.shape[1] % parts == 0
  row = "row" if splits else "spread_row"
  heads, groups = ("heads", "kv_heads") if splits else (None, None)
  of_query = sharding.spec(query.shape, row, None, heads, None)
  of_keys = sharding.spec(key.shape, row, groups, None, None)
  of_starts = None
  if starts is not None:
    of_starts = sharding.spec(starts.shape, row, None)
  attend = functools.partial(_cudnn, window=window)
  if kernel == "splash":
    # Imported where it is used: it takes half a second.
    from skd_jax.models import splash

    attend = functools.partial(splash.attend, window=window, cap=cap)
  mixed = sharding.on_each_device(
    attend, specs=(of_query, of_keys, of_keys, of_starts), out=of_query
  )(query, key, value, starts)
  return mixed.reshape(*mixed.shape[:2], -1)


def _cudnn(query, key, value, starts, *, window):
  """Returns [B, n, N*R, H] by the kernel of NVIDIA GPUs; see attend_fused."""
  del starts  # There are none where choose_kernel chooses it; so of caps.
  return jax.nn.dot_product_attention(
    query,
    key.transpose(0, 2, 1, 3),
    value.transpose(0, 2, 1, 3),
    scale=1.0,
    is_causal=True,
    local_window_size=None if window is None else (window - 1, 0),
    implementation="cudnn",
  )


def works_on_cache(
  platform: str,
  query_shape: tuple[int, ...],
  cache_shape: tuple[int, ...],
  *,
  block_sparse: bool,
) -> bool:
  """Whether `attend_to_cache` serves, which reads the slots in use alone.

  On TPU, where a cache is long and the queries are few. Heads must be whole
  lanes, as narrow_heads.py makes them: XLA turns a cache of others around, and
  a kernel would copy it.
  Each device must have the keys of its queries.

  Args:
    platform: "cpu", "gpu" or "tpu".
    query_shape: [B, n, N*R, H].
    cache_shape: [B, N, S, H].
    block_sparse: whether a query sees some blocks alone.
  """
  _, n, heads, size = query_shape
  _, groups, num_slots, _ = cache_shape
  parts = sharding.num_tensor_parts()
  # Devices have groups with their heads, or all groups: with some of the heads
  # of the only one, or with all.
  has_keys = groups % parts == 0 or groups == 1 or heads % parts != 0
  return (
    platform == "tpu"
    and num_slots >= LONG_CACHE
    and n * heads // groups <= _MAX_CACHE_QUERIES
    and size % 128 == 0
    and not block_sparse
    and has_keys
  )


def attend_to_cache(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  cache: dict[str, jax.Array],
  positions: jax.Array,
  *,
  window: int | None,
  cap: float | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns what `attention.attend_to_cache` does, by kernels on each device.

  Where works_on_cache says that they serve.
  """
  from skd_jax.models import cache_writes, cached_attention

  of_query = sharding.spec(query.shape, "row", None, "heads", None)
  of_keys = sharding.spec(cache["k"].shape, "row", "kv_heads", None, None)
  of_positions = sharding.spec(positions.shape, "row", None)

  def on_one(query, new, cache, positions):
    keys, values = cache_writes.write(cache, new, positions[:, 0])
    mixed = cached_attention.attend(
      query, keys, values, positions, window=window, cap=cap
    )
    return mixed, keys, values

  pair = of_keys, of_keys
  mixed, keys, values = sharding.on_each_device(
    on_one,
    specs=(of_query, pair, pair, of_positions),
    out=(of_query, *pair),
  )(query, (key, value), (cache["k"], cache["v"]), positions)
  mixed = mixed.reshape(*mixed.shape[:2], -1)
  return mixed, {"k": keys, "v": values}
