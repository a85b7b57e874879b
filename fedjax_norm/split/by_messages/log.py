"""How many messages of each kind went from whom to whom, and of how many bytes."""

import collections

from fedjax_norm.algorithms.ledger import Traffic
from fedjax_norm.split.messages import Message


class MessageLog:
  """Counts messages; it keeps none of them."""

  def __init__(self) -> None:
    """Nothing has been sent."""
    self._since: int | None = None
    self._counts: dict[tuple[str, ...], list[int]] = collections.defaultdict(lambda: [0, 0])

  def begin(self, round_: int) -> None:
    """Notes the round that comes next; a run that goes on counts from there."""
    if self._since is None:
      self._since = round_

  def observe(self, message: Message) -> None:
    """Counts a message."""
    reader = message.reader or message.receiver
    count = self._counts[message.kind, message.sender, message.receiver, reader]
    count[0] += 1
    count[1] += message.num_bytes

  def traffic(self, party: str) -> Traffic:
    """The bytes that a party has sent, as going up, and received; trips are not told."""
    up = sum(count[1] for (_, sender, _, _), count in self._counts.items() if sender == party)
    down = sum(count[1] for (_, _, to, _), count in self._counts.items() if to == party)
    return Traffic(up, down)

  def rows(self) -> list[dict[str, str | int]]:
    """The rows of a table, in the order in which they first came up."""
    names = ("kind", "sender", "receiver", "reader", "messages", "bytes", "since_round")
    return [
      dict(zip(names, (*key, *count, self._since or 0), strict=True))
      for key, count in self._counts.items()
    ]
