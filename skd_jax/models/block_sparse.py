"""Attention to some blocks of keys: the near ones, and one in so many others.

That of Phi-3-small (arXiv 2404.14219, section 2). With 2 local blocks and a
vertical stride of 3:

  head 0                           head 1
  block of keys    0 1 2 3 4 5     0 1 2 3 4 5
  of queries  0    l               l               l: local
              1    l l             l l             v: one in every 3 blocks,
              2    . l l           . l l              which head h sees h blocks
              3    . . l l         . v l l            earlier
              4    . . v l l       . v . l l
              5    . . v . l l     . v . . l l     blank: the future

It is a mask, and every score is computed: it costs what dense attention does.
"""

import jax
import jax.numpy as jnp
import numpy as np

from skd_jax.models.config import BlockSparsity


def sees_all(blocks: BlockSparsity, num_slots: int) -> bool:
  """Whether every block of so many slots is local."""
  return num_slots <= blocks.local_blocks * blocks.block_size


def block_mask(
  blocks: BlockSparsity,
  positions: jax.Array,
  starts: jax.Array | None,
  num_heads: int,
  num_slots: int,
) -> jax.Array:
  """Which slots are in a block that a query sees, also those past the query.

  Blocks are counted from the start of the sequence, so that those of a sequence
  in a packed row, or over a cache, are those that it has alone.

  Args:
    blocks: the pattern.
    positions: int32 [B, n], the slot of each query.
    starts: int32 [B, n], the slot in which the sequence of each query begins;
      None: 0.
    num_heads: N*R, query heads.
    num_slots: S.

  Returns:
    bool [B, N*R, n, S], True means visible; [B, 1, n, S] where heads are alike.
  """
  start = jnp.zeros_like(positions) if starts is None else starts
  slots = jnp.arange(num_slots)
  # Slots before the start have negative blocks, and are masked elsewhere.
  of_key = (slots - start[:, :, None]) // blocks.block_size
  of_query = (positions - start)[:, :, None] // blocks.block_size
  local = of_query - of_key < blocks.local_blocks
  # Fewer heads than the stride are spread over it: with stride 8, the blocks of
  # 3 heads are 2 apart, and those of 8 heads or more 1.
  step = max(1, blocks.vertical_stride // num_heads)
  heads = np.arange(1 if blocks.heads_alike else num_heads)[:, None, None]
  # The last block of each stride: (2 + 1) % 3 is 0.
  nth = of_key[:, None] + heads * step + 1
  return local[:, None] | (nth % blocks.vertical_stride == 0)
