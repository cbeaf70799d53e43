"""How the agent's container starts: its start script, agent.properties, and the credentials from the Secret.

Called by `agent_pod`, and by `policy.prepull` and `rollout.revisions` for the same credentials and properties. It never
has a secret value: the kubelet fills in the variables.
"""

from collections.abc import Mapping
from typing import Any, Final

from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.pods import AGENT_CONTAINER
from medplum_agent_operator.core.observed.version import AgentVersion

WORK_DIR: Final = "/var/lib/medplum-agent"
LOG_DIR: Final = "/var/log/medplum-agent"
CONFIG_DIR: Final = "/run/medplum-agent"

SPLIT_LOG_LEVELS: Final = AgentVersion.parse("4.3.14")
"""From this version on, channels have their own log level. Earlier versions have one level for everything."""

_START: Final = r"""
set -eu
nl='
'
cr=$(printf '\r')
refuse() {
  printf '%s\n' "$1" > /dev/termination-log
  printf '%s\n' "$1" >&2
  exit 64
}
check() {
  case $2 in
    '') refuse "The $1 is empty." ;;
    *=*) refuse "The $1 contains '=', and agent.properties cuts a value at its first '='. Give the ClientApplication credentials without '=' and put them into the Secret." ;;
    *"$nl"* | *"$cr"*) refuse "The $1 contains a line break, which agent.properties cannot carry. Write it into the Secret without one (printf instead of echo, kubectl create secret --from-literal)." ;;
  esac
}
check "$1" "$CLIENT_ID"
check "$2" "$CLIENT_SECRET"
(umask 077 && printf '%s\n' "$4" "clientId=$CLIENT_ID" "clientSecret=$CLIENT_SECRET" > "$3/agent.properties")
ln -sf "$3/agent.properties" agent.properties
rm -rf "${TMPDIR:?}"/*
unset CLIENT_ID CLIENT_SECRET
shift 4
exec "$@"
""".lstrip()
# Arguments: names of the two credentials for messages, the folder of the file, its other lines, and the agent's own command.
# `exec` makes the agent PID 1. It gets no arguments from us, so it reads agent.properties from its working directory.


def start_command(spec: MedplumAgentSpec) -> dict[str, list[str]]:
    """`command` and `args` of the agent's container: the start script and its arguments."""
    secret = spec.server.credentials_secret_ref
    arguments = [
        f"client id (key {secret.client_id_key} of Secret {secret.name})",
        f"client secret (key {secret.client_secret_key} of Secret {secret.name})",
        CONFIG_DIR,
        "\n".join(_properties(spec, AgentVersion.parse(spec.version))),
        *spec.image.command,
    ]
    return {"command": ["sh", "-c", _START, AGENT_CONTAINER], "args": [_escaped(argument) for argument in arguments]}


def _properties(spec: MedplumAgentSpec, version: AgentVersion) -> list[str]:
    """The lines of agent.properties that are not secret.

    Both log folders must be set, or the agent logs next to its program and dies of EACCES. Before 4.3.14, `logLevel` applies
    to everything, including channel logs with patient data: it gets the stricter of the two levels. From 4.3.14 on,
    `logLevel` must be absent. It would override the two other levels (medplum/medplum, packages/agent/src/agent-main.ts), and
    the channel's log, which has whole messages, would be as verbose as the main log.
    """
    by_strictness = ["DEBUG", "INFO", "WARN", "ERROR"]
    level, channel_level = str(spec.logging.level), str(spec.logging.channel_level)
    common_level: list[str] = []
    if version < SPLIT_LOG_LEVELS:
        level = max(level, channel_level, key=by_strictness.index)
        common_level = [f"logLevel={level}"]
    return [
        f"baseUrl={spec.server.base_url}",
        f"agentId={spec.server.agent_id}",
        *common_level,
        f"logger.main.logDir={LOG_DIR}",
        f"logger.main.logLevel={level}",
        "logger.main.maxFileSizeMb=10",
        "logger.main.filesToKeep=10",
        f"logger.channel.logDir={LOG_DIR}",
        f"logger.channel.logLevel={channel_level}",
        "logger.channel.maxFileSizeMb=10",
        "logger.channel.filesToKeep=10",
    ]


def properties_in(template: Mapping[str, Any]) -> str:
    """The text of agent.properties in a rendered template, without credentials; empty if it is not found."""
    arguments = next(
        (one.get("args") or () for one in template["spec"]["containers"] if one["name"] == AGENT_CONTAINER), ()
    )
    properties = next((text for text in arguments if text.startswith("baseUrl=")), None)
    return "" if properties is None else properties.replace("$$", "$") + "\n"


def credentials(spec: MedplumAgentSpec) -> list[dict[str, Any]]:
    """The variables from the Secret. If it or one of its keys is missing, the kubelet does not create the container."""
    secret = spec.server.credentials_secret_ref
    keys = {"CLIENT_ID": secret.client_id_key, "CLIENT_SECRET": secret.client_secret_key}
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key}}} for name, key in keys.items()
    ]


def _escaped(argument: str) -> str:
    """Escape an argument so that the kubelet expands nothing: `$(CLIENT_SECRET)` would put the secret on the command line.

    Source: https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/

    >>> _escaped("--price=$(CLIENT_SECRET)")
    '--price=$$(CLIENT_SECRET)'
    """
    return argument.replace("$", "$$")
