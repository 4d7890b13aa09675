"""Attention by the splash kernel of JAX, on TPU.

It walks over blocks of queries and keys, and leaves out those in which no query
sees a key. Which these are is known before anything runs, as sequences are
causal. That of sequences in one row, and what fills the last block, is masked.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention

_BLOCK = 512  # Queries, and keys, of a block, at most.
_LANES = 128  # Which divide a block.
# Up to as many blocks of keys, the gradients of queries, keys and values are
# found at once. Each block of keys then has a gradient of all queries, which
# are added up; beyond, the scores are computed once more instead.
_MAX_PARTS = 4


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  starts: jax.Array | None,
  *,
  window: int | None,
  cap: float | None,
  max_block: int = _BLOCK,
  interpret: bool = False,
) -> jax.Array:
  """Mixes the values that each token of a sequence sees.

  Args:
    query: [B, n, N*R, H], scaled; head N*R = group * R + r.
    key: [B, N, n, H].
    value: [B, N, n, H].
    starts: int32 [B, n], the slot of each token's first visible one; None: 0.
    window: how many slots a query sees, its own the last; None: all up to it.
    cap: the soft cap of the scores, or None.
    max_block: queries, and keys, of a block at most; a multiple of 128.
    interpret: run it without a TPU.
  """
  length, num_heads = query.shape[1:3]
  num_blocks, block = blocks_of(length, max_block)
  padded = num_blocks * block
  kernel = _kernel(padded, num_heads, window, cap, block, interpret)

  def pad(x, axis):
    # To the right, where no token sees it.
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, padded - length)
    return jnp.pad(x, widths)

  segments = None
  if starts is not None:
    segments = splash_attention.SegmentIds(pad(starts, 1), pad(starts, 1))
  mixed = jax.vmap(kernel)(
    pad(query, 1).transpose(0, 2, 1, 3), pad(key, 2), pad(value, 2), segments
  )
  return mixed[:, :, :length].transpose(0, 2, 1, 3)


def blocks_of(length: int, max_block: int = _BLOCK) -> tuple[int, int]:
  """Returns (how many blocks a sequence has, their size), with little to fill.

  A sequence of 520 tokens has 2 blocks of 384, and not of 512.
  """
  num_blocks = -(-length // max_block)
  of_each = -(-length // num_blocks)
  return num_blocks, -(-of_each // _LANES) * _LANES


@functools.lru_cache(maxsize=16)
def _kernel(
  length: int,
  num_heads: int,
  window: int | None,
  cap: float | None,
  block: int,
  interpret: bool,
) -> Callable[..., jax.Array]:
  """Returns the kernel of one row: queries [N*R, n, H] and keys [N, n, H].

  It knows which blocks no query sees. To find out takes seconds where rows are
  long, and is the same in every layer.
  """
  shape = length, length
  mask = splash_attention.CausalMask(shape)
  if window is not None:
    mask = splash_attention.LocalMask(shape, (window - 1, 0), offset=0)
  is_short = length // block <= _MAX_PARTS
  of_gradient = None if is_short else block
  with jax.ensure_compile_time_eval():
    kernel = splash_attention.make_splash_mha_single_device(
      splash_attention.MultiHeadMask([mask] * num_heads),
      block_sizes=splash_attention.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=of_gradient,
        block_kv_dq=of_gradient,
        use_fused_bwd_kernel=is_short,
      ),
      attn_logits_soft_cap=cap,
      interpret=interpret,
    )
  # Constants of no device: the cache outlives a trace.
  return jax.tree.map(np.asarray, kernel)
