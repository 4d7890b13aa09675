"""TensorBoard event files, read without TensorFlow."""

import pathlib
import struct
from collections.abc import Iterator

from tensorboardX.proto import event_pb2


def read(folder: pathlib.Path) -> Iterator[event_pb2.Event]:
  """Yields the events of all files in a folder."""
  for path in sorted(folder.glob("events*")):
    data = path.read_bytes()
    while data:  # length, its checksum, the event, its checksum
      (size,) = struct.unpack("<Q", data[:8])
      yield event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[size + 16 :]


def texts(folder: pathlib.Path) -> dict[str, dict[int, str]]:
  """Returns the texts of a folder by their names and steps."""
  found: dict[str, dict[int, str]] = {}
  for event in read(folder):
    for value in event.summary.value:
      if value.metadata.plugin_data.plugin_name == "text":
        name = value.tag.removesuffix("/text_summary")
        (text,) = value.tensor.string_val
        found.setdefault(name, {})[event.step] = text.decode()
  return found
