"""Whether a downgrade is approved.

Called by `verdict` for a downgrade that needs an approval. It must never depend on the strategy of the change.

The approval is one annotation, `agents.medplum.com/force-downgrade: "<target version>[ free text]"`. It counts for exactly
that target, and each text counts once: `status.spentApprovals` lists the used ones until a user removes the annotation.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from medplum_agent_operator.api.annotations import FORCE_DOWNGRADE
from medplum_agent_operator.api.reasons import Reason
from medplum_agent_operator.core.observed.version import AgentVersion

LONGEST_TEXT: Final = 256
"""How many characters an approval's stored form has at most; a longer text is cut and ends with its fingerprint."""

MOST_SPENT: Final = 50
"""How many used approvals status lists at most. The list never drops one while the annotation exists. When it is full, the operator
approves nothing more until a user removes the annotation."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What the annotation says about one target.

    Attributes:
        granted: whether the downgrade may go ahead.
        reason: why it may, or why not.
        text: the annotation in the form that history and the spent approvals store; empty without an annotation.
        correction: for an annotation that does not count, why not; empty if it counts.
    """

    granted: bool
    reason: Reason
    text: str = ""
    correction: str = ""


def stored_form(annotation: str) -> str:
    """The form in which the operator stores an annotation's text: the text itself, or cut and with a fingerprint if it is very long.

    >>> stored_form("4.2.3 CHG-1042")
    '4.2.3 CHG-1042'
    >>> len(stored_form("4.2.3 " + "x" * 200_000))
    256
    """
    if len(annotation) <= LONGEST_TEXT:
        return annotation
    fingerprint = f"… sha256:{hashlib.sha256(annotation.encode()).hexdigest()[:32]}"
    return annotation[: LONGEST_TEXT - len(fingerprint)] + fingerprint


def judge(annotation: str | None, *, target: AgentVersion, spent: Collection[str]) -> Approval:
    """Say whether `annotation` approves the downgrade to `target`, given the spent approvals.

    >>> judge("4.2.3 CHG-1042", target=AgentVersion.parse("4.2.3"), spent=()).granted
    True
    >>> judge("true", target=AgentVersion.parse("4.2.3"), spent=()).correction
    "Annotation agents.medplum.com/force-downgrade says 'true', which approves nothing. It must begin with the target version, 4.2.3."
    """
    if annotation is None or not annotation.strip():
        return Approval(granted=False, reason=Reason.DOWNGRADE_NOT_APPROVED)
    text = stored_form(annotation)
    named = annotation.split(maxsplit=1)[0]
    shown = named if len(named) <= LONGEST_TEXT // 4 else named[: LONGEST_TEXT // 4] + "…"
    if text in spent:
        return _refused(
            Reason.APPROVAL_SPENT,
            text,
            f"The text {text!r} of the annotation has already approved a downgrade, and each text counts once. "
            "Approve this one with another text, such as a new change ticket.",
        )
    if len(spent) >= MOST_SPENT:
        return _refused(
            Reason.APPROVAL_SPENT,
            text,
            f"{len(spent)} approvals have been used since the annotation was last removed, and the operator accepts no more. "
            f"Remove the annotation {FORCE_DOWNGRADE}, then set it again.",
        )
    if named == target.text:
        return Approval(granted=True, reason=Reason.DOWNGRADE_APPROVED, text=text)
    if AgentVersion.read(named) is None:
        return _refused(
            Reason.APPROVAL_MALFORMED,
            text,
            f"Annotation {FORCE_DOWNGRADE} says {shown!r}, which approves nothing. It must begin with the target version, {target}.",
        )
    return _refused(
        Reason.APPROVAL_FOR_OTHER_TARGET,
        text,
        f"Annotation {FORCE_DOWNGRADE} approves {shown}, but spec.version asks for {target}. An approval counts for exactly its target.",
    )


def _refused(reason: Reason, text: str, correction: str) -> Approval:
    return Approval(granted=False, reason=reason, text=text, correction=correction)
