"""What the API's models have in common. Read by `spec`, `pod`, `status` and `crd`; never imported by anything outside `api`.

What must hold of one string (`Matching`) is checked by the API server, as CEL, and by pydantic as well: a string that is not
what it should be would break the operator or the agent's configuration. What must hold between fields (`Rule`) is checked
by the API server alone: Kubernetes itself would refuse what it prevents, only later and in words that nobody understands.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

VALIDATIONS: Final = "x-kubernetes-validations"


class ApiModel(BaseModel):
    """A part of the resource. Unknown fields are ignored: an older operator must read what a newer CRD lets in."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule. In `Annotated` it is about a field, through `rules` about a model as a whole.

    Attributes:
        rule: what must hold of `self`, or between `self` and `oldSelf`.
        message: the sentence that users read when it does not: it names the field and the fix.
        blames: the part of the model that the server's answer points to, such as `.channels`.
    """

    rule: str
    message: str
    blames: str = ""

    def render(self) -> JsonDict:
        """The rule as it stands in a CRD."""
        rendered: JsonDict = {"rule": self.rule, "message": self.message}
        return rendered | {"fieldPath": self.blames} if self.blames else rendered

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        schema[VALIDATIONS] = [*schema.get(VALIDATIONS, ()), self.render()]
        return schema


def rules(*several: Rule) -> ConfigDict:
    """`model_config` that puts rules on a model as a whole."""
    return ConfigDict(json_schema_extra={VALIDATIONS: [rule.render() for rule in several]})


@dataclass(frozen=True, slots=True)
class Matching:
    """A pattern for a whole string, with a sentence in place of the bare regular expression that users would read otherwise.

    Patterns are written for RE2 (CEL) and Python alike, and carry no anchors: CEL's `matches` searches, and Python's `$`
    lets a line break at the end through.
    """

    pattern: str
    message: str

    def check(self, text: str) -> str:
        """Return the text.

        Raises:
            ValueError: with the message, when the text is not of the pattern.
        """
        if re.fullmatch(self.pattern, text, re.ASCII) is None:
            raise ValueError(self.message)
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # A JSON string literal is a CEL one too.
        return Rule(f"self.matches({json.dumps(f'^({self.pattern})$')})", self.message).__get_pydantic_json_schema__(
            core, handler
        )
