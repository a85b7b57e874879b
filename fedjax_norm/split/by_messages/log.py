"""Counts the messages and bytes that parties of split learning exchange."""

import collections

from fedjax_norm.algorithms.costs.ledger import Traffic
from fedjax_norm.split.messages import Message


class MessageLog:
  """Counts the messages and bytes of each kind between each pair of parties."""

  def __init__(self) -> None:
    """Creates an empty log."""
    self._since: int | None = None
    self._counts: dict[tuple[str, ...], list[int]] = collections.defaultdict(lambda: [0, 0])

  def begin(self, round_: int) -> None:
    """Records the first round of which messages are counted; later calls do nothing."""
    if self._since is None:
      self._since = round_

  def observe(self, message: Message) -> None:
    """Adds a message to the counts."""
    reader = message.reader or message.receiver
    count = self._counts[message.kind, message.sender, message.receiver, reader]
    count[0] += 1
    count[1] += message.num_bytes

  def traffic(self, party: str) -> Traffic:
    """Returns the bytes that a party has sent (up) and received (down); round trips are 0."""
    up = sum(count[1] for (_, sender, _, _), count in self._counts.items() if sender == party)
    down = sum(count[1] for (_, _, to, _), count in self._counts.items() if to == party)
    return Traffic(up, down)

  def rows(self) -> list[dict[str, str | int]]:
    """Returns the rows of ``messages.csv``, one per kind, sender, receiver and final reader."""
    names = ("kind", "sender", "receiver", "reader", "messages", "bytes", "since_round")
    return [
      dict(zip(names, (*key, *count, self._since or 0), strict=True))
      for key, count in self._counts.items()
    ]
