"""The operator's settings: one model for environment variables, flags and `--help`, validated at start.

Read by `__main__` and `startup_checks`. An invalid setting ends the process with a sentence, before the first request.
"""

import os
import re
from argparse import Action, ArgumentParser
from collections.abc import Mapping
from importlib.metadata import version
from inspect import cleandoc
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliImplicitFlag,
    CliSettingsSource,
    NoDecode,
    SettingsConfigDict,
    SettingsError,
)

from medplum_agent_operator.core.observed.scope import Limits
from medplum_agent_operator.errors import StartupError

ENV_PREFIX: Final = "MEDPLUM_AGENT_OPERATOR_"
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_REPOSITORY: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")

_TAINT: Final = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?|(?<=/)\*)")


def _split(value: object) -> object:
    """Split texts at commas."""
    parts = value if isinstance(value, list) else [value]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        return value
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())


Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Values separated by commas."""


class Settings(BaseSettings):
    """Kubernetes operator for the Medplum Agent.

    Every flag has an environment variable: MEDPLUM_AGENT_OPERATOR_ and the flag's name in capitals, with underscores.
    In a pod the operator connects with its service account, elsewhere with KUBECONFIG or ~/.kube/config.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        cli_prog_name="medplum-agent-operator",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
    )

    namespaces: Patterns = Field(
        default=(),
        description="Namespaces to watch, separated by commas. Empty: all namespaces, which needs the ClusterRole.",
    )
    image_repository: str | None = Field(
        default=None,
        description="Image repository, without a tag, for agents without spec.image.repository. Upstream publishes no image.",
    )
    watch_nodes: CliImplicitFlag[bool] = Field(
        default=True,
        description="Watch nodes, so that a node drain hands an agent over to another node (from 4.2.4 on). Needs the ClusterRole "
        "medplum-agent-operator-nodes. If off, every node drain stops the agent and starts it elsewhere.",
    )
    eviction_taints: Patterns = Field(
        default=(),
        description="Keys of further node taints that announce a node drain, separated by commas; prefix/* for all keys with a prefix. "
        "Those of Karpenter, cluster-autoscaler, GKE and AWS's node termination handler are known.",
    )
    gate_image: str | None = Field(
        default=None,
        description="Image of the gates, with tag or digest. Default: the image of the operator's own pod, which contains the gate too.",
    )
    allowed_image_repositories: Patterns = Field(
        default=(),
        description="Image repositories that agents may use besides --image-repository, separated by commas; prefix* for all with a prefix. Empty: all.",
    )
    allowed_servers: Patterns = Field(
        default=(),
        description="URLs of the Medplum servers that agents may connect to, separated by commas; prefix* for all with a prefix. Empty: all.",
    )
    allowed_secrets: Patterns = Field(
        default=(),
        description="Names of the Secrets that agents may use, for credentials and for pulls, separated by commas; prefix* for all with a prefix. Empty: all.",
    )
    allowed_service_accounts: Patterns = Field(
        default=(),
        description="Names of the service accounts that agents may use besides their own, separated by commas; prefix* for all with a prefix. Empty: all.",
    )
    allowed_priority_classes: Patterns = Field(
        default=(),
        description="Names of the priority classes that agents may use, separated by commas; prefix* for all with a prefix. Empty: all.",
    )
    allow_host_ports: CliImplicitFlag[bool] = Field(
        default=True, description="Let agents use ports of their node (hostNetwork, hostPort)."
    )
    pod: str | None = Field(
        default=None, description="Name of the operator's own pod, used to find its image. The manifests set it."
    )
    pod_namespace: str | None = Field(
        default=None, description="Namespace of the operator's own pod. The manifests set it."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="json (one object per line) or console (for humans)."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error."
    )
    health_host: str | None = Field(
        default=None, description="Address for /healthz and /readyz. Default: all addresses, IPv4 and IPv6."
    )
    health_port: int = Field(
        default=8080, ge=0, le=65535, description="Port for /healthz and /readyz. 0 chooses a free port and logs it."
    )
    workers: int = Field(default=8, ge=1, le=64, description="Number of agents that are reconciled at the same time.")
    resync_seconds: int = Field(
        default=300,
        ge=5,
        le=86_400,
        description="Interval between two LISTs of all watched objects, which find the changes that a watch missed. In seconds.",
    )
    request_timeout_seconds: float = Field(
        default=30.0, ge=1, le=300, description="Timeout of one request to the API server. In seconds."
    )

    @field_validator("namespaces")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _DNS_LABEL.fullmatch(name):
                raise ValueError(f"{name!r} is not a namespace's name; use names such as clinic-a,clinic-b")
        return value

    @field_validator("eviction_taints")
    @classmethod
    def _are_taints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            if not _TAINT.fullmatch(key):
                raise ValueError(
                    f"{key!r} is not the key of a taint; use keys such as example.org/patching or example.org/*"
                )
        return value

    @field_validator("image_repository")
    @classmethod
    def _is_repository(cls, value: str | None) -> str | None:
        if value is not None and not _REPOSITORY.fullmatch(value):
            raise ValueError(
                f"{value!r} is not an image repository; use one such as registry.example.org/medplum-agent, without tag or digest"
            )
        return value

    @property
    def limits(self) -> Limits:
        """What MedplumAgents may use."""
        return Limits(
            image_repositories=self.allowed_image_repositories,
            servers=self.allowed_servers,
            secrets=self.allowed_secrets,
            service_accounts=self.allowed_service_accounts,
            priority_classes=self.allowed_priority_classes,
            node_ports=self.allow_host_ports,
        )

    @classmethod
    def load(cls, arguments: list[str]) -> Self:
        """Load the settings from flags and environment variables.

        Raises:
            StartupError: with a sentence per invalid setting.
        """
        source: CliSettingsSource[ArgumentParser] = CliSettingsSource(cls, add_argument_method=_add_flag)
        parser = source.root_parser
        parser.description = cleandoc(cls.__doc__ or "")
        parser.add_argument(
            "--version",
            action="version",
            version=f"%(prog)s {version('medplum-agent-operator')}",
            help="Show the version and exit.",
        )
        try:
            found = CliApp.run(cls, cli_args=arguments, cli_settings_source=source)
            _check_names(os.environ)
        except ValidationError as fault:
            raise StartupError("\n".join(_sentence(error) for error in fault.errors())) from fault
        except SettingsError as fault:
            raise StartupError(f"The settings cannot be read: {fault}") from fault
        return found


def _add_flag(parser: ArgumentParser, *names: str, **options: Any) -> Action:
    """Add a flag as people write it: a value is named after its flag, and a default is shown only where one exists."""
    if not str(options.get("metavar", "{")).startswith("{"):
        options["metavar"] = names[0].lstrip("-").replace("-", "_").upper()
    if isinstance(options.get("help"), str):
        options["help"] = options["help"].removesuffix(" (default: None)").removesuffix(" (default: ())")
    return ArgumentParser.add_argument(parser, *names, **options)


def _check_names(environment: Mapping[str, str]) -> None:
    """Reject unknown variables: a misspelt one would silently leave a setting at its default."""
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    for name in environment:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            raise StartupError(f"Unknown setting {name}. Use one of: {', '.join(sorted(known))}.")


def _sentence(error: object) -> str:
    match error:
        case {"loc": (name, *_), "msg": str(message)}:
            flag = str(name).replace("_", "-")
            return f"Setting --{flag} ({ENV_PREFIX}{str(name).upper()}): {message.removeprefix('Value error, ')}."
        case _:
            return f"Invalid setting: {error}."
