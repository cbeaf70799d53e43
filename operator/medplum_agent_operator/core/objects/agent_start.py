"""How the agent's container starts: its start script, agent.properties, and the credentials from the Secret.

Called by `agent_pod`, and by `policy.prepull` and `rollout.revisions` for the same credentials and properties. No secret
value is ever in here: the kubelet fills the variables.
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
"""From this version on, channels have a log level of their own; before, one level applies to everything."""

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
# Arguments: what to call the two credentials, the folder of the file, its other lines, and the agent's own command.
# `exec`: the agent becomes PID 1. It has no arguments of ours, so it reads agent.properties from its working directory.


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
    return {"command": ["sh", "-c", _START, AGENT_CONTAINER], "args": [_literal(argument) for argument in arguments]}


def _properties(spec: MedplumAgentSpec, version: AgentVersion) -> list[str]:
    """The lines of agent.properties that are no secret.

    Both log folders must be named, or the agent logs beside its program and dies of EACCES. Before 4.3.14 one level rules
    everything, channel logs with patient data included: then the stricter of the two counts. From then on that one must not
    be there: it replaces the two others (medplum/medplum, packages/agent/src/agent-main.ts), and the channel's log, which
    holds whole messages, would be as loud as the main one.
    """
    order = ["DEBUG", "INFO", "WARN", "ERROR"]
    level, channel = str(spec.logging.level), str(spec.logging.channel_level)
    one_level: list[str] = []
    if version < SPLIT_LOG_LEVELS:
        level = max(level, channel, key=order.index)
        one_level = [f"logLevel={level}"]
    return [
        f"baseUrl={spec.server.base_url}",
        f"agentId={spec.server.agent_id}",
        *one_level,
        f"logger.main.logDir={LOG_DIR}",
        f"logger.main.logLevel={level}",
        "logger.main.maxFileSizeMb=10",
        "logger.main.filesToKeep=10",
        f"logger.channel.logDir={LOG_DIR}",
        f"logger.channel.logLevel={channel}",
        "logger.channel.maxFileSizeMb=10",
        "logger.channel.filesToKeep=10",
    ]


def properties_in(template: Mapping[str, Any]) -> str:
    """The text of agent.properties in a rendered template, which has no credentials; empty where it cannot be found."""
    arguments = next(
        (one.get("args") or () for one in template["spec"]["containers"] if one["name"] == AGENT_CONTAINER), ()
    )
    found = next((text for text in arguments if text.startswith("baseUrl=")), None)
    return "" if found is None else found.replace("$$", "$") + "\n"


def credentials(spec: MedplumAgentSpec) -> list[dict[str, Any]]:
    """The variables that are filled from the Secret: without it, or one of its keys, the kubelet does not make the container."""
    secret = spec.server.credentials_secret_ref
    keys = {"CLIENT_ID": secret.client_id_key, "CLIENT_SECRET": secret.client_secret_key}
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key}}} for name, key in keys.items()
    ]


def _literal(argument: str) -> str:
    """An argument that the kubelet leaves as it is: `$(CLIENT_SECRET)` would put the secret into the agent's command line.

    Source: https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/

    >>> _literal("--price=$(CLIENT_SECRET)")
    '--price=$$(CLIENT_SECRET)'
    """
    return argument.replace("$", "$$")
