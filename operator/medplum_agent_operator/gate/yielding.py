"""What a conversation gives up where other connections need it: its turn, the copy of a message, its place. No I/O.

Between `delivery` and `conversation`. `device_connection` asks here for `limits`, `budget` and `pace`.
"""

from medplum_agent_operator.gate.delivery import Delivery
from medplum_agent_operator.gate.effects import Ending, Kind


class Yielding(Delivery):
    """What others may ask of a conversation."""

    @property
    def busy(self) -> bool:
        """Whether there is a current message."""
        return self._message is not None

    @property
    def receiving(self) -> bool:
        """Whether a message has begun to arrive, and is not complete."""
        return not self._ended and self._message is None and self._device.in_frame

    @property
    def only_waits(self) -> bool:
        """Whether the device sends nothing more, and no message of it is left to send."""
        if self._ended:
            return True
        message = self._message
        sent = message is None or message.link is not None
        return self._device.closed_at is not None and sent and not len(self._device)

    @property
    def sent_on(self) -> int | None:
        """The number of the link that the current message was written to, if the gate may drop its copy; else None.

        Not after the device has closed its side: then only the gate can send the message again.
        """
        message = self._message
        if message is None or message.link is None or not message.frame or self._device_finished:
            return None
        return message.link.number

    def forget_sent(self) -> None:
        """Drop the copy of the current message, which an agent has. If that agent ends without an answer, only the device can resend it."""
        if self._message is not None and self._message.link is not None:
            self._message.frame = bytearray()

    def take_turn(self, now: float) -> None:
        """Continue where the last turn ended."""
        self._advance(now)

    def too_slow(self) -> None:
        """The current message arrives too slowly, and others wait for its bytes."""
        self._end(Ending.TOO_SLOW)

    def give_way(self) -> None:
        """Another connection gets the place."""
        owed = sum(len(link.owed) for link in self._links)
        if owed and not self._ended:
            self._count(Kind.MISSED, owed)
        self._end(Ending.DISPLACED)
