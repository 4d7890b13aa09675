"""The slow, obvious versions of what skd_jax does fast. numpy, one row."""

import jax
import numpy as np
from scipy import optimize

from skd_jax.decoding import sampling


def softmax(logits):
  logits = np.asarray(logits, np.float64)
  exp = np.exp(logits - logits.max(-1, keepdims=True))
  return exp / exp.sum(-1, keepdims=True)


def log_softmax(logits):
  with np.errstate(divide="ignore"):
    return np.log(softmax(logits))


def nucleus(probs, top_p):
  """The smallest set of most probable tokens that reaches top_p, by a sort."""
  order = np.argsort(-probs, kind="stable")
  before = np.cumsum(probs[order]) - probs[order]
  keep = np.zeros(len(probs), bool)
  keep[order[before < top_p]] = True
  return keep | (probs >= probs[keep].min())


def sampling_distribution(logits, how):
  """What tokens are drawn from: temperature, then top-p."""
  if how.temperature == 0:
    return np.eye(len(logits))[np.argmax(logits)]
  probs = softmax(np.asarray(logits, np.float64) / how.temperature)
  if how.top_p < 1:
    probs = np.where(nucleus(probs, how.top_p), probs, 0)
  return probs / probs.sum()


def draw(probs, uniform):
  """The first token at which the running sum passes the uniform number."""
  return int(np.argmax(np.cumsum(probs / probs.sum()) > uniform))


def uniform(row_key, role, position):
  key = jax.random.fold_in(jax.random.fold_in(row_key, role), position)
  return float(jax.random.uniform(key))


def kl(a, b):
  """KL(a || b) in nats, where b may be zero only where a is."""
  where = a > 0
  return float(np.sum(a[where] * (np.log(a[where]) - np.log(b[where]))))


def bridge(p, q, eps):
  """p^(1 - beta) q^beta / Z with the largest beta whose KL to p is eps."""

  def at(beta):
    b = np.where(p > 0, np.where(p > 0, p, 1) ** (1 - beta) * q**beta, 0)
    return b / b.sum()

  if kl(at(1.0), p) <= eps:
    return at(1.0)
  if eps == 0:
    return p
  return at(optimize.brentq(lambda beta: kl(at(beta), p) - eps, 0, 1))


def target_distribution(accept, teacher_logits, p, q, threshold, how):
  """What the residual of a rule is of; `how` the teacher draws."""
  if accept != "bridge":
    return q
  tempered = np.asarray(teacher_logits, np.float64) / how.temperature
  return bridge(p, softmax(tempered), threshold)


def accepts(rule, token, p, q, u, threshold, logits, how, second):
  """One acceptance decision; p and q are the two sampling distributions.

  `logits` are the student's and the teacher's, `how` the teacher draws, and
  `second` is another draw from p, which released_top_k checks instead.
  """
  student, raw = map(softmax, logits)
  if rule == "released_top_k":
    rank = sorted(q, reverse=True).index(q[second])
    return q[second] > 0 and rank < threshold
  if rule == "top_k":
    return sorted(raw, reverse=True).index(raw[token]) < threshold
  if rule == "top_p":
    return bool(nucleus(raw, threshold)[token])
  if rule == "prob_floor":
    return raw[token] >= threshold
  if rule == "mixture":
    return u < min(1, 1 - threshold + threshold * q[token] / p[token])
  if rule == "lossless":
    return u < min(1, q[token] / p[token])
  if rule == "bridge":
    b = target_distribution(rule, logits[1], p, q, threshold, how)
    return u < min(1, b[token] / p[token])
  if rule == "divergence":
    middle = (student + raw) / 2
    return (kl(student, middle) + kl(raw, middle)) / 2 <= threshold
  return {"always": True, "never": False, "random": u >= threshold}[rule]


def replacement_distribution(replace, teacher_logits, p, q, target=None):
  if replace == "sample":
    return q
  if replace == "argmax":
    return np.eye(len(q))[np.argmax(teacher_logits)]
  target = q if target is None else target
  residual = np.maximum(target - p, 0)
  return residual / residual.sum() if residual.sum() > 0 else target


def next_token(
  student_logits,
  teacher_logits,
  row_key,
  position,
  *,
  accept,
  replace,
  threshold,
  threshold_decay=0.0,
  author=None,
  student_sampling=sampling.Sampling(),
  teacher_sampling=sampling.Sampling(),
):
  """One token of a response: proposed, judged, perhaps replaced.

  Args:
    student_logits: [V].
    teacher_logits: [V].
    row_key: of the row.
    position: of the token in the response.
    author: "student" or "teacher", where no rule decides.

  Returns:
    (token, source, draft); source 0 is the student, 1 the teacher.
  """
  p = sampling_distribution(student_logits, student_sampling)
  q = sampling_distribution(teacher_logits, teacher_sampling)
  threshold = threshold * np.exp(-threshold_decay * position)
  draft = draw(p, uniform(row_key, sampling.STUDENT_DRAW, position))
  u = uniform(row_key, sampling.ACCEPT_DRAW, position)
  second = draw(p, uniform(row_key, sampling.SECOND_DRAW, position))
  logits = student_logits, teacher_logits
  if author == "teacher":
    is_argmax = replace == "argmax"
    instead = np.eye(len(q))[np.argmax(teacher_logits)] if is_argmax else q
  elif author == "student" or accepts(
    accept, draft, p, q, u, threshold, logits, teacher_sampling, second
  ):
    return draft, 0, draft
  else:
    target = target_distribution(
      accept, teacher_logits, p, q, threshold, teacher_sampling
    )
    instead = replacement_distribution(replace, teacher_logits, p, q, target)
  token = draw(instead, uniform(row_key, sampling.TEACHER_DRAW, position))
  return token, 1, draft


def skd(
  student_logits,
  teacher_logits,
  prompt,
  row_key,
  *,
  eos_id,
  max_new_tokens,
  leg_length=1,
  max_interventions=np.inf,
  **how,
):
  """A response, token by token (the definition of the method).

  Args:
    student_logits: sequence -> logits [V] of the next token.
    teacher_logits: likewise.
    prompt: list of token ids.
    row_key: of the row.
    eos_id: ends the response.
    max_new_tokens: the most tokens.
    leg_length: N, tokens that the teacher generates from a rejection on.
    max_interventions: M, after which the student goes on alone.
    **how: of next_token.

  Returns:
    (tokens, sources, drafts): lists; source 0 is the student, 1 the teacher.
  """
  emitted = []
  sequence = list(prompt)
  leg_left, interventions = 0, 0
  for position in range(max_new_tokens):
    author = "teacher" if leg_left else None
    if not author and interventions >= max_interventions:
      author = "student"
    emitted.append(
      next_token(
        student_logits(sequence),
        teacher_logits(sequence),
        row_key,
        position,
        author=author,
        **how,
      )
    )
    if author == "teacher":
      leg_left -= 1
    elif emitted[-1][1]:
      leg_left, interventions = leg_length - 1, interventions + 1
    sequence.append(emitted[-1][0])
    if sequence[-1] == eos_id:
      break
  return tuple(map(list, zip(*emitted, strict=True)))


def judge(student_logits, teacher_logits, row_key, length, **how):
  """What a round emits: the accepted draft, and a token of the teacher's.

  Args:
    student_logits: [G, V], what each token was drafted from.
    teacher_logits: [n, V]; with n = G + 1 the last is of the token that follows
      a draft that is accepted as a whole.
    row_key: of the row.
    length: response tokens before the draft.
    **how: of next_token.

  Returns:
    As skd.
  """
  emitted = []
  for g, of_teacher in enumerate(teacher_logits):
    position = length + g
    if g < len(student_logits):
      of_student = student_logits[g]
      emitted.append(
        next_token(of_student, of_teacher, row_key, position, **how)
      )
      if emitted[-1][1]:
        break
    else:  # Nothing was proposed: the student's probabilities are all zero.
      q = sampling_distribution(of_teacher, how["teacher_sampling"])
      instead = replacement_distribution(how["replace"], of_teacher, 0 * q, q)
      token = draw(instead, uniform(row_key, sampling.TEACHER_DRAW, position))
      emitted.append((token, 1, token))
  return tuple(map(list, zip(*emitted, strict=True)))


def response_distribution(
  student_logits, teacher_logits, prompt, *, next_distribution, num_tokens
):
  """The exact distribution of responses of num_tokens tokens, by enumeration.

  Args:
    next_distribution: (student logits, teacher logits) -> probabilities [V] of
      the token that is emitted.

  Returns:
    dict from response tuple to probability.
  """
  found = {(): 1.0}
  for _ in range(num_tokens):
    longer = {}
    for response, mass in found.items():
      sequence = list(prompt) + list(response)
      probs = next_distribution(
        student_logits(sequence), teacher_logits(sequence)
      )
      for token, prob in enumerate(probs):
        longer[(*response, token)] = mass * prob
    found = longer
  return found


def prompt_lookup(tokens, max_ngram, num_tokens):
  """What followed an earlier occurrence of the last tokens; [] if none."""
  for n in range(max_ngram, 0, -1):
    for end in range(len(tokens) - 1, n - 1, -1):
      if tokens[end - n : end] == tokens[-n:]:
        copied = list(tokens)
        for _ in range(num_tokens):
          copied.append(copied[len(copied) - (len(tokens) - end)])
        return copied[len(tokens) :]
  return []


def tokens_until_stop(token_bytes, tokens, eos_ids, stop_strings):
  """How many tokens a response has when it ends; None: it does not.

  Looks at the whole text after every token.
  """
  text = b""
  for count, token in enumerate(tokens, 1):
    text += token_bytes[token]
    if token in eos_ids or any(stop in text for stop in stop_strings):
      return count
  return None


def divergence(name, teacher_logits, student_logits, beta=0.5, alpha=0.1, k=2):
  """Divergences of two rows of logits, in float64."""
  p, q = softmax(teacher_logits), softmax(student_logits)

  if name == "top_k_forward_kl":
    top = np.argsort(-p, kind="stable")[:k]
    rest = np.setdiff1d(np.arange(len(p)), top)
    return kl(*(np.append(x[top], x[rest].sum()) for x in (p, q)))
  return {
    "forward_kl": lambda: kl(p, q),
    "reverse_kl": lambda: kl(q, p),
    "jsd": lambda: (
      beta * kl(p, beta * p + (1 - beta) * q)
      + (1 - beta) * kl(q, beta * p + (1 - beta) * q)
    ),
    "skew_forward_kl": lambda: kl(p, alpha * p + (1 - alpha) * q),
    "skew_reverse_kl": lambda: kl(q, (1 - alpha) * p + alpha * q),
    "tvd": lambda: 0.5 * float(np.abs(p - q).sum()),
  }[name]()


def cached_divergence(name, teacher_logits, student_logits, k, **parameters):
  """The divergence over the teacher's top k and one bucket, in float64."""
  p, q = softmax(teacher_logits), softmax(student_logits)
  top = np.argsort(-p, kind="stable")[:k]
  rest = np.setdiff1d(np.arange(len(p)), top)
  p, q = (np.append(x[top], [x[rest].sum()][: len(rest)]) for x in (p, q))
  return divergence(name, np.log(p), np.log(q), **parameters)
