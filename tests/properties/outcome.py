"""What a call comes to: a value, or the one line that refuses."""


def outcome(function, *arguments, **settings):
  """Returns (the value, ""), or (None, the message of a ValueError)."""
  try:
    return function(*arguments, **settings), ""
  except ValueError as error:
    message = str(error)
  assert message
  assert "\n" not in message
  return None, message
