"""What a gate is told on its command line. Read by `__main__`; written by the operator's `core.gate`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from medplum_agent_operator.gate.effects import Rules


@dataclass(frozen=True, slots=True)
class Channel:
    """A port for devices.

    Attributes:
        name: of the channel.
        hl7: whether it carries HL7 messages; else bytes.
        port: that devices connect to.
        endpoint: the name of the port of the agent's Service; that of the channel where nothing else is said.
    """

    name: str
    hl7: bool
    port: int
    endpoint: str

    @classmethod
    def parse(cls, text: str) -> "Channel":
        """Read `adt:HL7:10000:p2575`.

        >>> Channel.parse("adt:HL7:10000:p2575")
        Channel(name='adt', hl7=True, port=10000, endpoint='p2575')
        >>> Channel.parse("adt:HL7:2575").endpoint
        'adt'

        Raises:
            argparse.ArgumentTypeError: where it does not look like that.
        """
        name, _, rest = text.partition(":")
        protocol, _, rest = rest.partition(":")
        port, _, endpoint = rest.partition(":")
        if not (name and protocol in {"HL7", "DICOM", "ASTM", "TCP"} and port.isdecimal() and int(port) <= 65_535):  # noqa: PLR2004 - TCP's own number
            raise argparse.ArgumentTypeError(
                f"{text!r} is no channel; write name:protocol:port, with HL7, DICOM, ASTM or TCP, such as adt:HL7:2575, and, where it has "
                "another name, :port-of-the-service"
            )
        return cls(name, protocol == "HL7", int(port), endpoint or name)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the flags; a wrong one ends the process with a sentence."""
    rules = Rules()
    parser = argparse.ArgumentParser(
        prog="medplum-agent-gate",
        description="A relay in front of a Medplum Agent: devices keep their connections while the agent behind them changes.",
    )
    parser.add_argument("--namespace", required=True, help="namespace of the agent")
    parser.add_argument("--service", required=True, help="the agent's own Service, whose EndpointSlices are followed")
    parser.add_argument(
        "--channel",
        required=True,
        action="append",
        type=Channel.parse,
        help="name:protocol:port, one for each, and :name of the Service's port where that is another",
    )
    parser.add_argument("--hold-seconds", type=float, default=rules.hold_seconds, help="a message waits for an agent")
    parser.add_argument(
        "--answer-seconds", type=float, default=rules.answer_seconds, help="a message waits for its answer"
    )
    parser.add_argument(
        "--move-seconds", type=float, default=rules.move_seconds, help="an agent that was left may answer"
    )
    parser.add_argument("--grace-seconds", type=float, default=25.0, help="after SIGTERM, until everything is dropped")
    parser.add_argument("--max-message-bytes", type=int, default=rules.frame_bytes, help="the longest message")
    parser.add_argument("--max-connections", type=int, default=2000, help="of devices, in all")
    parser.add_argument("--max-connections-per-address", type=int, default=1000, help="of devices, from one address")
    parser.add_argument("--medium-messages", type=int, default=4, help="over 16 KiB, in memory at once")
    parser.add_argument("--large-messages", type=int, default=1, help="of those over 256 KiB, in memory at once")
    parser.add_argument("--no-send-again", action="store_true", help="leave to the device what died with an agent")
    parser.add_argument("--host", help="address to listen on; left out: all")
    parser.add_argument("--http-port", type=int, default=8081, help="of /readyz and /metrics")
    parser.add_argument("--log-format", choices=("json", "console"), default="json")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(arguments)
