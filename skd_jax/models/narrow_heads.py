"""The cache of narrow heads, several groups in a row of lanes, on TPU.

The memory of a TPU holds rows of 128 numbers. So heads of 64 fill half of it,
or the compiler turns the cache around and moves it whole for a new slot. Here
groups share the row of a slot, and a query has zeros where another's keys are:

  lanes            0 ..... 63   64 .... 127
  keys of a slot   group 0      group 1          N = 3: 2 rows, the last
                   group 2      0                half empty
  a query of 0     x            0                query . keys is its own score
  a query of 1     0            x
  what 0 mixes     x            group 1's        cut off

Scores are the same; their product takes as many times the operations as groups
are in a row, where memory is what decoding waits for.
"""

import jax
import jax.numpy as jnp

from skd_jax.parallel import sharding

_LANES = 128


def cache_shape(
  batch_size: int, num_groups: int, num_slots: int, head_dim: int
) -> tuple[int, int, int, int]:
  """Returns the shape of a cache, [B, N, S, H] or [B, N', S, 128].

  On TPU, groups share lanes if several fit, and if a device of the mesh of the
  context has several.

  Args:
    batch_size: B.
    num_groups: N.
    num_slots: S.
    head_dim: H.
  """
  together = _LANES // head_dim
  rows = -(-num_groups // max(together, 1))
  parts = sharding.num_tensor_parts()
  torn = num_groups % parts == 0 and rows % parts
  fit = together > 1 and num_groups > 1 and _LANES % head_dim == 0
  if sharding.platform() != "tpu" or not fit or torn:
    return batch_size, num_groups, num_slots, head_dim
  return batch_size, rows, num_slots, _LANES


def share_lanes(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Lays out keys or values as a cache has them.

  Args:
    x: [B, N, n, H].
    shape: [B, N', S, H'] of the cache, from `cache_shape`.

  Returns:
    [B, N', n, H'].
  """
  batch, groups, n, size = x.shape
  together = shape[3] // size
  if together == 1:
    return x
  empty = shape[1] * together - groups
  x = jnp.pad(x, ((0, 0), (0, empty), (0, 0), (0, 0)))
  x = x.reshape(batch, shape[1], together, n, size)
  return x.transpose(0, 1, 3, 2, 4).reshape(batch, shape[1], n, shape[3])


def spread_queries(
  query: jax.Array, num_groups: int, shape: tuple[int, ...]
) -> jax.Array:
  """Puts queries where the keys of their group are, and zeros elsewhere.

  Args:
    query: [B, n, N*R, H]; head N*R = group * R + r.
    num_groups: N.
    shape: [B, N', S, H'] of the cache.

  Returns:
    [B, n, N'*R', H']; head R' = group of those that share lanes * R + r.
  """
  batch, n, heads, size = query.shape
  together = shape[3] // size
  if together == 1:
    return query
  each = heads // num_groups
  empty = shape[1] * together * each - heads
  query = jnp.pad(query, ((0, 0), (0, 0), (0, empty), (0, 0)))
  query = query.reshape(batch, n, shape[1], together, each, 1, size)
  is_own = jnp.eye(together, dtype=bool)[:, None, :, None]
  return jnp.where(is_own, query, 0).reshape(batch, n, -1, shape[3])


def own_lanes(
  mixed: jax.Array, query: jax.Array, num_groups: int, shape: tuple[int, ...]
) -> jax.Array:
  """Takes of what each query has mixed the values of its own group.

  Args:
    mixed: [B, n, N'*R'*H'], by queries from `spread_queries`.
    query: [B, n, N*R, H], as given to it.
    num_groups: N.
    shape: [B, N', S, H'] of the cache.

  Returns:
    [B, n, N*R*H].
  """
  batch, n, heads, size = query.shape
  together = shape[3] // size
  if together == 1:
    return mixed
  each = heads // num_groups
  mixed = mixed.reshape(batch, n, shape[1], together, each, together, size)
  own = [mixed[:, :, :, i, :, i] for i in range(together)]
  mixed = jnp.stack(own, axis=3).reshape(batch, n, -1)
  return mixed[:, :, : heads * size]
