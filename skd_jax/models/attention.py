"""Attention over keys and values, and the cache that holds them.

Letters beyond those of structs.py: n queries of one call, R query heads per
key/value head. Keys and values are never repeated for the heads that share
them: the queries are viewed as [B, N, R*n, H] beside keys and values
[B, N, S, H].

A matrix of all scores [n, S] grows with the square of the length. Beyond a
thousand tokens or so the queries are taken in chunks, and the backward pass
computes the scores of a chunk once more. TPU and GPU have kernels for a long
sequence that attends to itself; fused_attention.py says which is used.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from skd_jax.models import block_sparse, fused_attention, narrow_heads
from skd_jax.models.config import BlockSparsity
from skd_jax.parallel import sharding

# Scores of one head and row that are held at once, 4 bytes each: those of a
# sequence of 1,024 tokens.
_MAX_SCORES = 2**20
_CHUNK_MULTIPLE = 128  # Rows of a matrix unit.


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
  """`cap * tanh(x / cap)` as in Gemma 2 (arXiv 2408.00118), or `x`."""
  return x if cap is None else cap * jnp.tanh(x / cap)


def attend_itself(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  starts: jax.Array | None = None,
  *,
  window: int | None,
  cap: float | None,
  blocks: BlockSparsity | None = None,
) -> jax.Array:
  """Mixes the values of a sequence that attends to itself.

  Args:
    query: [B, n, N*R, H], scaled; head N*R = group * R + r.
    key: [B, N, n, H].
    value: [B, N, n, H].
    starts: int32 [B, n], the slot in which the sequence of each token begins,
      where a row holds several; None: 0.
    window: how many slots a query sees, its own the last; None: all up to it.
    cap: the soft cap of the scores, or None.
    blocks: which blocks of these it sees; None: all.

  Returns:
    [B, n, N*R*H], in the dtype of `value`. Scores are in float32.
  """
  kernel = _kernel(query, cap, blocks, packed=starts is not None)
  if kernel != "scores":
    return fused_attention.attend_fused(
      kernel, query, key, value, starts, window=window, cap=cap
    )
  slots = jnp.broadcast_to(jnp.arange(query.shape[1]), query.shape[:2])
  return attend(
    query, key, value, slots, starts, window=window, cap=cap, blocks=blocks
  )


def _kernel(
  query: jax.Array,
  cap: float | None,
  blocks: BlockSparsity | None,
  *,
  packed: bool,
) -> str:
  """Returns how the queries [B, n, N*R, H] attend to their own sequence."""
  return fused_attention.choose_kernel(
    sharding.platform(),
    length=query.shape[1],
    dtype=query.dtype,
    head_dim=query.shape[3],
    cap=cap,
    packed=packed,
    block_sparse=blocks is not None,
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
  blocks: BlockSparsity | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Writes to a cache, and mixes the values that each query sees there.

  Args:
    query: [B, n, N*R, H], scaled; head N*R = group * R + r.
    key: [B, N, n, H], new.
    value: [B, N, n, H], new.
    cache: {"k", "v"} of narrow_heads.cache_shape.
    positions: int32 [B, n], the slot of each query, the last that it sees;
      contiguous in each row.
    window: how many slots a query sees, its own the last; None: all up to it.
    cap: the soft cap of the scores, or None.
    blocks: which blocks of these slots a query sees; None: all.

  Returns:
    ([B, n, N*R*H] in the dtype of the cache, the written cache). Scores are in
    float32.
  """
  groups, shape = key.shape[1], cache["k"].shape
  spread = narrow_heads.spread_queries(query, groups, shape)
  key, value = (narrow_heads.share_lanes(x, shape) for x in (key, value))
  options: dict[str, Any] = {"window": window, "cap": cap}
  if fused_attention.works_on_cache(
    sharding.platform(), spread.shape, shape, block_sparse=blocks is not None
  ):
    mixed, cache = fused_attention.attend_to_cache(
      spread, key, value, cache, positions, **options
    )
  else:
    cache = write_cache(cache, key, value, positions)
    mixed = attend(
      spread, cache["k"], cache["v"], positions, blocks=blocks, **options
    )
  return narrow_heads.own_lanes(mixed, query, groups, shape), cache


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  positions: jax.Array,
  starts: jax.Array | None = None,
  *,
  window: int | None,
  cap: float | None,
  bias: jax.Array | None = None,
  blocks: BlockSparsity | None = None,
) -> jax.Array:
  """Mixes the values that each query sees: softmax(query key^T) value.

  Args:
    query: [B, n, N*R, H], scaled; head N*R = group * R + r.
    key: [B, N, S, H].
    value: [B, N, S, H].
    positions: int32 [B, n], the slot of each query, the last that it sees.
    starts: int32 [B, n], the first slot that each query may see; None: 0.
    window: how many slots a query sees, its own the last; None: all up to it.
    cap: the soft cap of the scores, or None.
    bias: float32, added to the scores; broadcasts to [B, N*R, n, S].
    blocks: which blocks of these slots a query sees; None: all.

  Returns:
    [B, n, N*R*H], in the dtype of `value`. Scores are in float32.
  """
  num_queries, num_slots = query.shape[1], key.shape[2]
  if num_queries * num_slots <= _MAX_SCORES:
    return _attend(
      query, key, value, positions, starts, window, cap, bias, blocks
    )
  chunk = _MAX_SCORES // num_slots // _CHUNK_MULTIPLE * _CHUNK_MULTIPLE
  return attend_in_chunks(
    query,
    key,
    value,
    positions,
    starts,
    window=window,
    cap=cap,
    bias=bias,
    blocks=blocks,
    chunk_size=max(chunk, _CHUNK_MULTIPLE),
  )


def attend_in_chunks(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  positions: jax.Array,
  starts: jax.Array | None = None,
  *,
  window: int | None,
  cap: float | None,
  chunk_size: int,
  bias: jax.Array | None = None,
  blocks: BlockSparsity | None = None,
) -> jax.Array:
  """Returns what `attend` does, from scores [chunk_size, S] at a time.

  The softmax of a query is over its whole row of scores, as there. The backward
  pass keeps no scores: a chunk is computed again.

    queries   0 1 2 3 4 | 5 6 7 8 9 | 10 11 - - -      n = 12, chunks of 5
  """
  batch, num_queries, num_heads, size = query.shape
  num_chunks = -(-num_queries // chunk_size)
  padding = num_chunks * chunk_size - num_queries

  def split(x):
    # What fills the last chunk sees slot 0, and is cut off.
    x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(batch, num_chunks, chunk_size, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def one_chunk(part):
    query, positions, starts, first = part
    bias = bias_of_chunk(first)
    return _attend(
      query, key, value, positions, starts, window, cap, bias, blocks
    )

  def bias_of_chunk(first):
    if bias is None or bias.shape[2] == 1:
      return bias
    padded = jnp.pad(bias, ((0, 0), (0, 0), (0, padding), (0, 0)))
    return jax.lax.dynamic_slice_in_dim(padded, first, chunk_size, axis=2)

  first = jnp.arange(num_chunks) * chunk_size
  parts = *jax.tree.map(split, (query, positions, starts)), first
  mixed = jax.lax.map(one_chunk, parts)
  mixed = jnp.moveaxis(mixed, 0, 1).reshape(batch, -1, num_heads * size)
  return mixed[:, :num_queries]


def _attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  positions: jax.Array,
  starts: jax.Array | None,
  window: int | None,
  cap: float | None,
  bias: jax.Array | None,
  blocks: BlockSparsity | None,
) -> jax.Array:
  """Returns what `attend` does, from all scores at once."""
  batch, n, num_heads, size = query.shape
  groups, num_slots = key.shape[1:3]
  # [B, N, R*n, H]: only the small queries and results are moved, the cache is
  # read in the layout that it has.
  query = query.reshape(batch, n, groups, -1, size)
  query = query.transpose(0, 2, 3, 1, 4).reshape(batch, groups, -1, size)
  scores = jax.lax.dot_general(
    query,
    key,
    (((3,), (3,)), ((0, 1), (0, 1))),
    preferred_element_type=jnp.float32,
  )
  scores = soft_cap(scores, cap)
  scores = scores.reshape(batch, groups, -1, n, num_slots)

  def by_group(x):  # [B, N*R, n, S], or what broadcasts to it.
    heads = (groups, -1) if x.shape[1] == num_heads else (1, 1)
    return x.reshape(x.shape[0], *heads, *x.shape[2:])

  if bias is not None:
    scores += by_group(bias)
  mask = attention_mask(positions, num_slots, window)
  if starts is not None:
    mask &= jnp.arange(num_slots) >= starts[:, :, None]
  mask = mask[:, None, None]
  if blocks is not None and not block_sparse.sees_all(blocks, num_slots):
    mask &= by_group(
      block_sparse.block_mask(blocks, positions, starts, num_heads, num_slots)
    )
  lowest = jnp.finfo(jnp.float32).min
  scores = jnp.where(mask, scores, lowest)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  weights = weights.reshape(batch, groups, -1, num_slots)
  mixed = (weights @ value).reshape(batch, groups, -1, n, size)
  return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, n, num_heads * size)


def attention_mask(
  query_positions: jax.Array, num_slots: int, window: int | None
) -> jax.Array:
  """Which slots a query sees: bool [B, n, S], True means visible.

  With window 3, and a query at position 4:

    slot     0  1  2  3  4  5
    visible  .  .  x  x  x  .    slots past the query are stale or the future
  """
  slots = jnp.arange(num_slots)
  query = query_positions[:, :, None]
  visible = slots <= query
  if window is not None:
    visible &= slots > query - window
  return visible


def write_cache(
  cache: dict[str, jax.Array],
  key: jax.Array,
  value: jax.Array,
  positions: jax.Array | None,
) -> dict[str, jax.Array]:
  """Writes key and value [B, N, n, H]; see write_slots."""
  return {
    name: place_cache(
      write_slots(
        cache[name], narrow_heads.share_lanes(new, cache[name].shape), positions
      )
    )
    for name, new in (("k", key), ("v", value))
  }


def write_slots(
  cache: jax.Array, new: jax.Array, positions: jax.Array | None
) -> jax.Array:
  """Writes new [B, N, n, H] to the slots positions [B, n] of [B, N, S, H].

  None: to the first n. A slot past the end of the cache is dropped, never
  clamped onto a valid one.
  """
  if positions is None:
    first = new[:, :, : cache.shape[2]].astype(cache.dtype)
    return jax.lax.dynamic_update_slice(cache, first, (0, 0, 0, 0))
  # A scatter, since it was the fastest of six in a decode loop on a 2-core CPU
  # (B=16, N=4, S=96, H=32, 6 arrays; microseconds per step, n=1 and n=5):
  # scatter 261 and 636, vmapped dynamic_update_slice 294 and 660, one
  # dynamic_update_slice a row 328 and 705, select over all slots 332 and 589.
  row = jnp.arange(cache.shape[0])[:, None]
  return cache.at[row, :, positions].set(
    new.transpose(0, 2, 1, 3).astype(cache.dtype),
    mode="drop",
    unique_indices=True,
    indices_are_sorted=True,
  )


def place_cache(x: jax.Array) -> jax.Array:
  """Fixes how keys or values [B, N, S, H] are placed on the mesh; inside jit.

  Where the heads do not divide, each device has all of them for its rows.
  """
  return sharding.constrain(x, "row", "kv_heads", None, None)
