"""How an agent of a given version behaves: one property for each threshold of the real agent that the stand-in copies.

Pure. Asked by the whole agent stand-in; no other module compares versions.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Literal, Self

_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z]+))?")

AckMode = Literal["original", "enhanced", "enhanced-aa"]
BindFault = Literal["dies silently", "hangs", "dies with a message"]


@dataclass(frozen=True, slots=True)
class AgentTraits:
    """A version, and what follows from it. Compared by its three numbers alone."""

    numbers: tuple[int, int, int]
    build: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `5.1.15` or `5.1.15-abc1234`; without a build id one is made up that stays the same."""
        found = _VERSION.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a version such as 5.1.15 or 5.1.15-abc1234")
        major, minor, patch, build = found.groups()
        invented = hashlib.sha256(f"{major}.{minor}.{patch}".encode()).hexdigest()[:7]
        return cls((int(major), int(minor), int(patch)), build or invented)

    @property
    def reported(self) -> str:
        """What heartbeats say: `X.Y.Z-<7 characters>`."""
        return f"{'.'.join(map(str, self.numbers))}-{self.build}"

    @property
    def hands_over(self) -> bool:
        """The generation: from 4.2.4 on an agent is meant to start beside its predecessor."""
        return self.numbers >= (4, 2, 4)

    @property
    def handles_sigterm_as_pid_1(self) -> bool:
        """Before, there is no handler, and the kernel keeps a signal without one from PID 1."""
        return self.numbers >= (4, 1, 0)

    @property
    def retries_login(self) -> bool:
        """Every 10 s, for ever. Before, the agent ends, with exit code 0."""
        return self.numbers >= (4, 1, 3)

    @property
    def waits_for_a_busy_port(self) -> bool:
        """HL7 and DICOM try again every 50 ms. Before, exit 1 without a word."""
        return self.numbers >= (4, 2, 1)

    @property
    def bind_fault(self) -> BindFault:
        """What any other error of bind does."""
        if self.numbers < (4, 2, 0):
            return "dies silently"
        return "hangs" if self.numbers < (5, 1, 14) else "dies with a message"

    @property
    def has_log_files(self) -> bool:
        """Daily files, and logs of their own for channels; a folder that cannot be written ends the agent without a word."""
        return self.numbers >= (4, 3, 14)

    @property
    def has_byte_streams(self) -> bool:
        """Channels with `tcp://`."""
        return self.numbers >= (4, 3, 0)

    @property
    def finds_frames(self) -> bool:
        """The new framer. The old one only looks at the last two bytes of each read."""
        return self.numbers >= (5, 0, 0)

    @property
    def rebuilds_messages(self) -> bool:
        """Up to 5.0.x a message is put together again from its segments: any run of CR and LF becomes one CR."""
        return self.numbers < (5, 1, 0)

    @property
    def reports_success_unbound(self) -> bool:
        """Before 5.0.0 "started successfully" is logged whether or not a port is bound."""
        return self.numbers < (5, 0, 0)

    @property
    def stays_a_zombie(self) -> bool:
        """Before 5.1.18 a refused connect request or one failed refresh of the token silences the agent for good."""
        return self.numbers < (5, 1, 18)

    @property
    def keeps_push_connections(self) -> bool:
        """Devices' connections outlive a push, and an answer counts by its MSA-2. Before, any answer counts, and ends it."""
        return self.numbers >= (5, 0, 0)

    def ack_mode(self, enhanced: str | None) -> AckMode:
        """What `?enhanced=` of an Endpoint's address means to this version. What it does not know is original mode."""
        match (enhanced or "").lower():
            case "true" if self.numbers >= (4, 1, 9):
                return "enhanced"
            case "aa" if self.numbers >= (5, 0, 12):
                return "enhanced-aa"
            case _:
                return "original"
