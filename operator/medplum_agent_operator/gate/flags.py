"""The command line of the gate. `__main__` parses it; the operator writes it in `core.objects.gate_pod`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from medplum_agent_operator.gate.effects import Rules


@dataclass(frozen=True, slots=True)
class Channel:
    """A port for devices.

    Attributes:
        name: the channel's name.
        hl7: whether the gate relays HL7 messages; False: plain bytes.
        port: the port that devices connect to.
        service_port: the name of the port of the agent's Service; the channel's name by default.
    """

    name: str
    hl7: bool
    port: int
    service_port: str

    @classmethod
    def parse(cls, text: str) -> "Channel":
        """Read `adt:HL7:10000:p2575`.

        >>> Channel.parse("adt:HL7:10000:p2575")
        Channel(name='adt', hl7=True, port=10000, service_port='p2575')
        >>> Channel.parse("adt:HL7:2575").service_port
        'adt'

        Raises:
            argparse.ArgumentTypeError: if the text has another form.
        """
        name, _, rest = text.partition(":")
        protocol, _, rest = rest.partition(":")
        port, _, service_port = rest.partition(":")
        if not (name and protocol in {"HL7", "DICOM", "ASTM", "TCP"} and port.isdecimal() and int(port) <= 65_535):  # noqa: PLR2004 - TCP's own number
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a channel; write name:protocol:port[:service-port-name] with the protocol HL7, DICOM, ASTM or TCP, "
                "for example adt:HL7:2575"
            )
        return cls(name, protocol == "HL7", int(port), service_port or name)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the flags. A wrong flag prints an error and exits with code 2."""
    rules = Rules()
    parser = argparse.ArgumentParser(
        prog="medplum-agent-gate",
        description="A relay in front of a Medplum Agent. Devices keep their connections while the agent behind the gate changes.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"%(prog)s {version('medplum-agent-operator')}",
        help="show the version and exit",
    )
    parser.add_argument("--namespace", required=True, help="namespace of the agent's Service")
    parser.add_argument(
        "--service", required=True, help="name of the agent's own Service; the gate watches its EndpointSlices"
    )
    parser.add_argument(
        "--channel",
        required=True,
        action="append",
        type=Channel.parse,
        help=(
            "name:protocol:port[:service-port-name], for example adt:HL7:2575; repeat the flag for each channel; the name of the Service's "
            "port defaults to the channel's name"
        ),
    )
    parser.add_argument(
        "--hold-seconds",
        type=float,
        default=rules.hold_seconds,
        help="how long to hold a message, or a new connection of another protocol, until an agent accepts it (default: %(default)g)",
    )
    parser.add_argument(
        "--answer-seconds",
        type=float,
        default=rules.answer_seconds,
        help="how long a message waits for its answer before the next one is sent (default: %(default)g)",
    )
    parser.add_argument(
        "--move-seconds",
        type=float,
        default=rules.move_seconds,
        help="after a move to another agent, how long the previous agent may take to answer its message (default: %(default)g)",
    )
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=25.0,
        help="after SIGTERM, how long messages may take to finish before all connections are closed (default: %(default)g)",
    )
    parser.add_argument(
        "--max-message-bytes",
        type=int,
        default=rules.frame_bytes,
        help="longest HL7 message or answer, with its framing (default: %(default)d)",
    )
    parser.add_argument(
        "--max-connections", type=int, default=2000, help="device connections in total (default: %(default)d)"
    )
    parser.add_argument(
        "--max-connections-per-address",
        type=int,
        default=1000,
        help="device connections from one address (default: %(default)d)",
    )
    parser.add_argument(
        "--shared-bytes",
        type=int,
        help=(
            "memory for messages over 16 KiB, of which an address may use half and a channel three quarters; one message at a time may go "
            "beyond it (default: --max-message-bytes and 8 MiB)"
        ),
    )
    parser.add_argument(
        "--no-send-again",
        action="store_true",
        help="when an agent stops without answering a message, close the device's connection instead of sending the message to the next agent",
    )
    parser.add_argument("--host", help="address to listen on (default: all)")
    parser.add_argument(
        "--http-port",
        type=int,
        default=8081,
        help="port of /healthz, /readyz, /metrics and /status (default: %(default)d)",
    )
    parser.add_argument(
        "--log-format", choices=("json", "console"), default="json", help="format of log lines (default: %(default)s)"
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="lowest level to log (default: %(default)s)",
    )
    return parser.parse_args(arguments)
