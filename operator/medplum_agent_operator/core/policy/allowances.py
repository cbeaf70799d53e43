"""What the operator's settings let MedplumAgents use: images, servers, Secrets, service accounts, priority classes, ports of the node.

Called by `verdict` before any other judgement. A spec that is refused leaves the applied one in force, so a new limit stops no agent. Pure.
"""

from collections.abc import Iterator

from medplum_agent_operator.api.spec import MedplumAgentSpec
from medplum_agent_operator.core.observed.findings import Message
from medplum_agent_operator.core.observed.identity import normalised
from medplum_agent_operator.core.observed.model import Observed
from medplum_agent_operator.core.observed.scope import Config
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.phrases import listed


def not_allowed(observed: Observed, config: Config) -> Message | None:
    """Why the operator's settings refuse the spec: the first field; None if they allow all of it."""
    for field, value, flag, allowed in _limited(observed.agent.spec, config):
        if not any(_matches(value, pattern) for pattern in allowed):
            return Message(
                f'{field} "{value}" is not allowed by the operator\'s settings.',
                cause=f"The setting --{flag} allows {listed(allowed)}." if allowed else f"The setting --{flag} is off.",
                impact=f"{Availability.of(observed).now} No edit of the spec is applied.",
                fix=f"{_fix(field, flag, allowed)} The operator then continues automatically.",
            )
    return None


def _fix(field: str, flag: str, allowed: tuple[str, ...]) -> str:
    if not allowed:
        return f"Remove {field}, or ask the operator's administrator to turn on the setting --{flag}."
    return f"Set {field} to an allowed value, or ask the operator's administrator to extend the setting --{flag}."


def _limited(spec: MedplumAgentSpec, config: Config) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Each field with a limit: its path, its value, the setting, and what that allows. An empty setting is no limit."""
    limits, pod = config.limits, spec.pod_template
    repository = spec.image.repository
    if limits.image_repositories and repository and repository != config.image_repository:
        yield "spec.image.repository", repository, "allowed-image-repositories", limits.image_repositories
    if limits.servers:
        patterns = tuple(one if one.endswith("*") else f"{normalised(one)}/" for one in limits.servers)
        yield "spec.server.baseUrl", f"{normalised(spec.server.base_url)}/", "allowed-servers", patterns
    if limits.secrets:
        names = [("spec.server.credentialsSecretRef.name", spec.server.credentials_secret_ref.name)]
        names += [("spec.image.pullSecrets[].name", one.name) for one in spec.image.pull_secrets]
        for field, name in names:
            yield field, name, "allowed-secrets", limits.secrets
    if limits.service_accounts and pod.service_account_name:
        field = "spec.podTemplate.serviceAccountName"
        yield field, pod.service_account_name, "allowed-service-accounts", limits.service_accounts
    if limits.priority_classes and pod.priority_class_name:
        field = "spec.podTemplate.priorityClassName"
        yield field, pod.priority_class_name, "allowed-priority-classes", limits.priority_classes
    if not limits.node_ports and spec.uses_host_ports:
        field = "spec.podTemplate.hostNetwork" if pod.host_network else "spec.channels[].hostPort"
        yield field, "true" if pod.host_network else _first_host_port(spec), "allow-host-ports", ()


def _first_host_port(spec: MedplumAgentSpec) -> str:
    return next(str(channel.host_port) for channel in spec.channels if channel.host_port)


def _matches(value: str, pattern: str) -> bool:
    """Whether a value is the pattern or, for a pattern that ends with `*`, begins with the rest of it.

    >>> _matches("registry.example.org/agent", "registry.example.org/*"), _matches("registry.example.org.evil/x", "registry.example.org")
    (True, False)
    """
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern
