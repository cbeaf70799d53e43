"""Building blocks of the API models. Read by the other modules of `api`; nothing outside `api` may import it.

A `Matching` pattern on one string is checked by the API server (as CEL) and again by pydantic, because a malformed string
would break the operator or the agent's configuration. A `Rule` between fields is checked by the API server alone:
Kubernetes would reject the same mistake later anyway, with a message that is hard to understand.
"""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

VALIDATIONS: Final = "x-kubernetes-validations"
_YEARS: Final = range(1970, 2201)


def is_plausible(moment: datetime) -> bool:
    """Whether a time can be calculated with. Deadlines are added to times, and the end of Python's calendar raises an error."""
    return moment.year in _YEARS


def _plausible(moment: datetime) -> datetime:
    if not is_plausible(moment):
        raise ValueError(f"a time must be of the years {_YEARS.start} to {_YEARS.stop - 1}")
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_plausible)]
"""A time that the operator wrote and reads back."""


class ApiModel(BaseModel):
    """A part of the resource. It ignores unknown fields, because an older operator must read objects of a newer CRD."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule: for one field in `Annotated`, or for a whole model through `rules`.

    Attributes:
        rule: the CEL expression over `self`, and `oldSelf` if needed.
        message: the sentence that users read when the expression is false. It names the field and the fix.
        field_path: the part of the model that the API server's error points to, such as `.channels`.
    """

    rule: str
    message: str
    field_path: str = ""

    def render(self) -> JsonDict:
        """Render the rule for the CRD."""
        rendered: JsonDict = {"rule": self.rule, "message": self.message}
        return rendered | {"fieldPath": self.field_path} if self.field_path else rendered

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        schema[VALIDATIONS] = [*schema.get(VALIDATIONS, ()), self.render()]
        return schema


def rules(*several: Rule) -> ConfigDict:
    """Build the `model_config` that attaches rules to a model as a whole."""
    return ConfigDict(json_schema_extra={VALIDATIONS: [rule.render() for rule in several]})


@dataclass(frozen=True, slots=True)
class Matching:
    """A pattern for a whole string, with a sentence that users read instead of the regular expression.

    Patterns work in both RE2 (CEL) and Python, and have no anchors: CEL's `matches` searches, and Python's `$` accepts a
    line break at the end.
    """

    pattern: str
    message: str

    def check(self, text: str) -> str:
        """Return the text unchanged.

        Raises:
            ValueError: with the message, when the text does not match the pattern.
        """
        if re.fullmatch(self.pattern, text, re.ASCII) is None:
            raise ValueError(self.message)
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # A JSON string literal is a valid CEL string literal.
        return Rule(f"self.matches({json.dumps(f'^({self.pattern})$')})", self.message).__get_pydantic_json_schema__(
            core, handler
        )
