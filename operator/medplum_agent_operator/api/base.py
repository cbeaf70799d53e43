"""What the API's models have in common. Read by `spec`, `pod`, `status` and `crd`; never imported by anything outside `api`."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

VALIDATIONS: Final = "x-kubernetes-validations"


class ApiModel(BaseModel):
    """A part of the resource. Unknown fields are ignored: an older operator must read what a newer CRD lets in."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )


def rule(expression: str, message: str) -> dict[str, str]:
    """A CEL rule with the sentence that users read when it is broken: it names the field and the fix."""
    return {"rule": expression, "message": message}


def ruled(*rules: dict[str, str]) -> dict[str, Any]:
    """`json_schema_extra` that puts rules on a field."""
    return {VALIDATIONS: list(rules)}


def under_rules(*rules: dict[str, str]) -> ConfigDict:
    """`model_config` that puts rules on a model as a whole."""
    return ConfigDict(json_schema_extra=ruled(*rules))
