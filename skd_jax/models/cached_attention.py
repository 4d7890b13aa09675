"""Attention of a few queries to the slots of a long cache in use, on TPU.

A cache has slots for the longest row. A kernel walks over blocks of slots, and
fetches those alone in which a query of its row sees a key:

  block of slots   0    1    2    3
  row 0            x    x    .    .     its last query is in block 1
  row 1            x    x    x    .
  row 2, window    .    .    x    .     what its first query no longer sees

Scores and their softmax never leave the fast memory of the core: the maximum
and the sum so far are corrected by each block (arXiv 2205.14135, section 3.1).

JAX has such kernels for caches of another form: paged_attention takes one query
a row, ragged_paged_attention keys and values that alternate, [.., 2N, H], in
pages.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# Of keys, and of values, that are fetched at once: in the time that a v5e takes
# for them, 0.64 us each, the step of a kernel begins twice.
_BLOCK_BYTES = 2**19
_LANES = 128
_LOWEST = float(jnp.finfo(jnp.float32).min)


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  positions: jax.Array,
  *,
  window: int | None,
  cap: float | None,
  block: int | None = None,
  interpret: bool = False,
) -> jax.Array:
  """Mixes the values of the slots that each query sees.

  Args:
    query: [B, n, N*R, H], scaled; head N*R = group * R + r.
    key: [B, N, S, H].
    value: [B, N, S, H].
    positions: int32 [B, n], the slot of each query, the last that it sees;
      contiguous in each row.
    window: how many slots a query sees, its own the last; None: all up to it.
    cap: the soft cap of the scores, or None.
    block: slots that are fetched at once; None: as many as fit.
    interpret: run it without a TPU.

  Returns:
    [B, n, N*R, H], in the dtype of `value`. Scores are in float32.
  """
  batch, n, num_heads, size = query.shape
  groups, num_slots = key.shape[1:3]
  block = block or block_size(groups, num_slots, size, key.dtype)
  first = positions[:, 0]
  oldest = 0 if window is None else jnp.maximum(first - window + 1, 0)
  newest = jnp.minimum(first + n - 1, num_slots - 1)
  begin = jnp.minimum(oldest, newest) // block
  bounds = jnp.stack([first, begin, newest // block])

  # Row r * n + i of a group is query i of its head r.
  query = query.reshape(batch, n, groups, -1, size)
  query = query.transpose(0, 2, 3, 1, 4).reshape(batch, groups, -1, size)
  rows = query.shape[2]

  def of_row(b, j, bounds):
    del j, bounds
    return b, 0, 0, 0

  def of_block(b, j, bounds):
    # The same block once more is not fetched again.
    return b, 0, jnp.minimum(bounds[1, b] + j, bounds[2, b]), 0

  if not interpret:
    # Else the compiler would move a whole cache to fast memory, for all slots.
    key, value = (
      pltpu.with_memory_space_constraint(x, pltpu.HBM) for x in (key, value)
    )
  own = pl.BlockSpec((1, groups, rows, size), of_row)
  slots = pl.BlockSpec((1, groups, block, size), of_block)
  mixed = pl.pallas_call(
    functools.partial(_kernel, n, num_slots, window, cap),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(batch, jnp.max(bounds[2] - bounds[1]) + 1),
      in_specs=[own, slots, slots],
      out_specs=own,
      scratch_shapes=[
        pltpu.VMEM((groups, rows, width), jnp.float32)
        for width in (_LANES, _LANES, size)
      ],
    ),
    out_shape=jax.ShapeDtypeStruct(query.shape, value.dtype),
    # Chips with two cores share the rows.
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary")
    ),
    interpret=interpret,
  )(bounds, query, key, value)
  mixed = mixed.reshape(batch, groups, -1, n, size)
  return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, n, num_heads, size)


def block_size(
  groups: int, num_slots: int, size: int, dtype: jax.typing.DTypeLike
) -> int:
  """Returns how many of S slots of N groups and heads of H are fetched at once.

  A multiple of 128: as many as fit in _BLOCK_BYTES, or where no more blocks
  come of it fewer. 520 slots are 384 and 136, not 512 and 8, so that a row that
  uses 300 of them has 384 fetched.
  """
  rows = -(-num_slots // _LANES)
  fit = _BLOCK_BYTES // (groups * size * jnp.dtype(dtype).itemsize) // _LANES
  num_blocks = -(-rows // max(fit, 1))
  return -(-rows // num_blocks) * _LANES


def _kernel(
  n, num_slots, window, cap, bounds, query, key, value, out, top, total, mixed
):
  """One block of slots of one row; see `attend`.

  Args:
    n: queries of a head.
    num_slots: S.
    window: as in `attend`.
    cap: likewise.
    bounds: int32 [3, B], the slot of the first query, the first block in use
      and the last.
    query: [1, N, R*n, H].
    key: [1, N, block, H].
    value: [1, N, block, H].
    out: [1, N, R*n, H], written with the last block.
    top: [N, R*n, 128], the highest score so far.
    total: [N, R*n, 128], the sum of the weights so far.
    mixed: [N, R*n, H], the weighted values so far.
  """
  b, j = pl.program_id(0), pl.program_id(1)
  groups, rows = query.shape[1:3]
  block = key.shape[2]
  at = bounds[1, b] + j

  @pl.when(j == 0)
  def _():
    top[...] = jnp.full(top.shape, _LOWEST, jnp.float32)
    total[...] = jnp.zeros(total.shape, jnp.float32)
    mixed[...] = jnp.zeros(mixed.shape, jnp.float32)

  @pl.when(at <= bounds[2, b])
  def _():
    shape = rows, block
    slot = at * block + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    of = bounds[0, b] + jax.lax.broadcasted_iota(jnp.int32, shape, 0) % n
    sees = (slot <= of) & (slot < num_slots)
    if window is not None:
      sees &= slot > of - window
    # Past the last slot a block holds anything, and 0 times that may be NaN.
    column = jax.lax.broadcasted_iota(jnp.int32, (block, 1), 0)
    is_slot = at * block + column < num_slots
    for group in range(groups):
      scores = jax.lax.dot_general(
        query[0, group],
        key[0, group],
        (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
      )
      if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
      scores = jnp.where(sees, scores, _LOWEST)
      before = top[group][:, :1]
      highest = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
      # A query that sees nothing of its first blocks has no weight there.
      weights = jnp.where(sees, jnp.exp(scores - highest), 0.0)
      fades = jnp.exp(before - highest)
      top[group] = jnp.broadcast_to(highest, (rows, _LANES))
      total[group] = total[group] * fades + jnp.sum(
        weights, axis=1, keepdims=True
      )
      values = jnp.where(is_slot, value[0, group], 0)
      mixed[group] = mixed[group] * fades + jax.lax.dot_general(
        weights.astype(values.dtype),
        values,
        (((1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
      )

  @pl.when(j == pl.num_programs(1) - 1)
  def _():
    for group in range(groups):
      # The highest score has weight 1; a query past all slots has seen none.
      weight = jnp.maximum(total[group][:, :1], 1.0)
      out[0, group] = (mixed[group] / weight).astype(out.dtype)
