"""The docs say what the code does: every word that the operator uses has its row, every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from medplum_agent_operator.api import annotations as names
from medplum_agent_operator.api.agent import KIND, MedplumAgent
from medplum_agent_operator.api.crd import crd
from medplum_agent_operator.api.reasons import ConditionType, Reason
from medplum_agent_operator.api.status import (
    ChannelStatus,
    Condition,
    GateFigures,
    HistoryApproval,
    HistoryEntry,
    MedplumAgentStatus,
    Outcome,
    Phase,
    Rollout,
)
from medplum_agent_operator.core.objects.children import APPLIED_HASH
from medplum_agent_operator.core.observed.version import AgentVersion
from medplum_agent_operator.core.policy.approval import judge
from medplum_agent_operator.core.policy.availability import Availability
from medplum_agent_operator.core.policy.downgrade_messages import Situation, refusal
from medplum_agent_operator.gate.effects import Ending
from medplum_agent_operator.gate.metrics import PREFIX, Metrics
from medplum_agent_operator.settings import ENV_PREFIX, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from medplum_agent_operator.api.base import ApiModel

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
INDEX = ROOT / "docs" / "README.md"
DOWNGRADE = ROOT / "docs" / "how-to" / "downgrade.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
README = ROOT / "README.md"
RECORDS = ROOT / "docs" / "adr"

_FENCE = re.compile(r"^ *(`{3,})(\w*)[^\n]*\n(.*?)^ *\1 *$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^()\s]+)\)")


def documents() -> list[Path]:
    """Every Markdown file of the project: hidden folders and what builds leave behind are not it."""
    skipped = {"build", "dist", "node_modules"}
    return sorted(
        path
        for path in ROOT.rglob("*.md")
        if not any(part.startswith(".") or part in skipped for part in path.relative_to(ROOT).parts)
    )


def prose(path: Path) -> str:
    """A document without its code blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a language, without the indentation that a list gives them."""
    found = []
    for match in _FENCE.finditer(path.read_text(encoding="utf-8")):
        if match[2] == language:
            indent = len(match[0]) - len(match[0].lstrip(" "))
            found.append("\n".join(line[indent:] for line in match[3].splitlines()))
    return found


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(path)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = sum(1 for known in found if known == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", known))
        found.add(f"{slug}-{count}" if count else slug)
    return found


def section(path: Path, heading: str) -> str:
    """What stands under a heading of the second level."""
    _, found, rest = path.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert found, f"{path.name} has no section {heading!r}"
    return rest.partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The rows of all tables in a text, cells stripped; headings and rules left out."""
    lines = [line.strip() for line in text.splitlines()]
    bodies = [now for before, now in pairwise(["", *lines]) if now.startswith("|") and before.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in bodies]
    return [row for row in cells if set("".join(row)) - set("-: ")]


def named(text: str) -> list[str]:
    """The first cell of each row, as a name."""
    return [row[0].strip("`") for row in rows(text)]


def shown_default(field: FieldInfo) -> str:
    """How the reference writes a setting's default."""
    match field.default:
        case None:
            return "(none)"
        case ():
            return "(empty)"
        case float() as number:
            return f"`{number:g}`"
        case bool() as switch:
            return f"`{str(switch).lower()}`"
        case value:
            return f"`{value}`"


def written_aliases(model: type[ApiModel]) -> list[str]:
    """The names of a model's fields as users read them."""
    return [str(field.alias) for field in model.model_fields.values()]


@pytest.mark.parametrize(
    ("heading", "members"),
    [("Reasons", Reason), ("Conditions", ConditionType), ("Phases", Phase)],
    ids=["reasons", "conditions", "phases"],
)
def test_every_word_of_the_status_has_one_row(heading: str, members: type[Reason | ConditionType | Phase]) -> None:
    """The reference explains each reason, condition and phase that the operator can report, and no other."""
    assert sorted(map(str, members)) == sorted(named(section(REFERENCE / "conditions-and-reasons.md", heading)))


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_says_what_to_do(reason: Reason) -> None:
    """Each reason's row has four non-empty cells: the reason, where it appears, its meaning, what to do."""
    row = next(
        row for row in rows(section(REFERENCE / "conditions-and-reasons.md", "Reasons")) if row[0] == f"`{reason}`"
    )
    assert (4, True) == (len(row), all(row))


def test_every_setting_has_its_row() -> None:
    """The reference lists flag, environment variable and default of each setting as in the code."""
    expected = [
        [f"`--{name.replace('_', '-')}`", f"`{ENV_PREFIX}{name.upper()}`", shown_default(field)]
        for name, field in Settings.model_fields.items()
    ]
    assert expected == [row[:3] for row in rows(section(REFERENCE / "settings.md", "Settings"))]


def test_every_annotation_and_label_has_its_row() -> None:
    """The reference lists each annotation and label that the code reads or writes, and no other."""
    constants = {value for value in vars(names).values() if isinstance(value, str) and "/" in value}
    keys = {value for value in constants if re.fullmatch(r"[a-z.]+/[a-z-]+", value)}
    page = REFERENCE / "annotations-and-labels.md"
    assert sorted(keys | {APPLIED_HASH}) == sorted(named(section(page, "Annotations and labels")))


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("status", MedplumAgentStatus),
        ("status.conditions", Condition),
        ("status.channels", ChannelStatus),
        ("status.rollout", Rollout),
        ("status.history", HistoryEntry),
        ("status.history.approval", HistoryApproval),
        ("status.history.gate", GateFigures),
    ],
)
def test_every_status_field_has_its_row(heading: str, model: type[ApiModel]) -> None:
    """The reference explains each field that `kubectl get -o yaml` shows in status, at every depth."""
    assert sorted(written_aliases(model)) == sorted(named(section(REFERENCE / "medplumagent.md", heading)))


def test_every_outcome_has_its_row() -> None:
    """The reference explains each outcome in the history, and no other."""
    assert sorted(Outcome) == sorted(named(section(REFERENCE / "medplumagent.md", "History entries")))


def test_every_right_has_its_row() -> None:
    """The reference lists the rights in the manifests, verb for verb."""
    rules = [
        rule
        for item in yaml.safe_load_all((ROOT / "manifests" / "base" / "rbac.yaml").read_text(encoding="utf-8"))
        if item["kind"] == "ClusterRole"
        for rule in item["rules"]
    ]
    granted = {(resource, ", ".join(rule["verbs"])) for rule in rules for resource in rule["resources"]}
    explained = {
        (resource.strip("` "), row[1])
        for row in rows(section(REFERENCE / "rights.md", "Rights"))
        for resource in row[0].split(",")
    }
    assert granted == explained


def test_every_metric_of_a_gate_has_its_row() -> None:
    """The reference lists each metric of a gate with its type, and each reason for a closed connection."""
    exposed = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in Metrics(answer_seconds=60).registry.collect()
    }
    text = section(REFERENCE / "metrics.md", "Metrics of a gate")
    assert exposed == {f"{PREFIX}{name.strip('`')}": kind for name, kind, _ in rows(text)}
    assert [] == [why for why in Ending if f"`{why.name.lower()}`" not in text]


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    """A relative link names a file of the project, and its anchor a heading of that file."""
    dead = []
    for target in _LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (document.parent / name).resolve() if name else document
        if not found.exists() or (anchor and anchor not in anchors(found)):
            dead.append(target)
    assert [] == dead


def test_the_readme_s_two_commands() -> None:
    """The first commands of the README are `make demo` and `make test`, one block each, and both targets exist."""
    assert ["make demo", "make test"] == blocks(README, "sh")[:2]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def test_every_make_target_is_explained() -> None:
    """CONTRIBUTING has a row for each target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    assert sorted(f"make {target}" for target in targets) == sorted(named(section(ROOT / "CONTRIBUTING.md", "Targets")))


def test_every_folder_of_tests_is_explained() -> None:
    """CONTRIBUTING says of each folder of tests what it asks."""
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    explained = re.findall(r"`tests/(\w+)`", section(ROOT / "CONTRIBUTING.md", "Tests"))
    assert folders == set(explained)


def test_the_index_of_decision_records_is_complete() -> None:
    """Every record is in the index under its number, title and status, in order and without a gap."""
    records = sorted(RECORDS.glob("[0-9]*.md"))
    expected = []
    for number, record in enumerate(records, start=1):
        text = record.read_text(encoding="utf-8")
        title = re.match(rf"# {number:04} \S (.+)\n", text)
        status = re.search(r"^Date: \d{4}-\d\d-\d\d · Status: (.+)$", text, re.MULTILINE)
        assert title, f"the title of {record.name} does not begin with its number, {number:04}"
        assert status, f"{record.name} has no line with date and status"
        expected.append([f"[{number:04}]({record.name})", title[1], status[1]])
    listed = rows((RECORDS / "README.md").read_text(encoding="utf-8"))
    assert expected == listed


@pytest.mark.parametrize("record", sorted(RECORDS.glob("[0-9]*.md")), ids=lambda path: path.stem)
def test_every_decision_record_has_its_four_parts(record: Path) -> None:
    """Context, decision, consequences and alternatives, in this order."""
    headings = re.findall(r"^## (.+)$", record.read_text(encoding="utf-8"), re.MULTILINE)
    assert ["Context", "Decision", "Consequences", "Alternatives"] == headings


def test_the_map_knows_every_module() -> None:
    """ARCHITECTURE says of every module of the operator what it is for, and names none that is not there."""
    package = ROOT / "operator" / "medplum_agent_operator"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py") if path.name != "__init__.py"}
    table = rows(section(ROOT / "ARCHITECTURE.md", "From concept to file"))
    assert modules == {name for row in table for name in re.findall(r"`([\w/]+\.py)`", row[1])}


def sources() -> Iterator[Path]:
    """Every Python file of the operator and its tests, and what is beside the manifests."""
    for folder in ("operator", "tests"):
        yield from (ROOT / folder).rglob("*.py")
    yield from (path for path in (ROOT / "manifests").rglob("*") if path.is_file())


def test_the_code_points_to_docs_that_are_there() -> None:
    """A decision record, a page or a section of a page that the code or a manifest names exists."""
    dead = []
    for source in sources():
        text = source.read_text(encoding="utf-8")
        named = re.findall(r"\bdocs/adr/(\d{4})", text)
        dead += [f"{source}: {number}" for number in named if not list(RECORDS.glob(f"{number}-*.md"))]
        for page, title in re.findall(r"\b(docs/[\w/-]+\.md)(?:, \"([^\"{]+)\")?", text):
            if not (ROOT / page).exists() or (title and title not in _HEADING.findall(prose(ROOT / page))):
                dead.append(f"{source}: {page} {title}")
    assert [] == dead


def test_the_index_names_every_page() -> None:
    """Each page of the docs, decision records aside, is linked from docs/README.md."""
    linked = {(INDEX.parent / target.partition("#")[0]).resolve() for target in _LINK.findall(prose(INDEX))}
    folders = (INDEX.parent / name for name in ("", "how-to", "explanation", "reference", "internals"))
    pages = {page for folder in folders for page in folder.glob("*.md")}
    assert set() == pages - linked - {INDEX}


def guides() -> list[Path]:
    """The pages from which users copy commands."""
    folders = (INDEX.parent / name for name in ("how-to", "explanation"))
    pages = [page for folder in folders for page in sorted(folder.glob("*.md"))]
    return [README, INDEX.parent / "getting-started.md", TROUBLESHOOTING, *pages]


@pytest.mark.parametrize("page", guides(), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_can_be_copied(page: Path) -> None:
    """A block of commands is good shell as it stands, without a prompt or a place to fill in."""
    for block in (*blocks(page, "sh"), *blocks(page, "bash")):
        checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert "" == checked.stderr
        assert [] == re.findall(r"^\$ |…|<[a-z][\w -]*>", block, re.MULTILINE)


def test_troubleshooting_is_about_reasons_that_there_are() -> None:
    """A section whose heading is one word in CamelCase is about a reason that the operator can show."""
    headings = re.findall(r"^### ([A-Z]\w+)$", prose(TROUBLESHOOTING), re.MULTILINE)
    assert headings
    assert set() == set(headings) - set(map(str, Reason))


def agents_in_docs() -> list[dict[str, Any]]:
    """Every MedplumAgent that stands in a document."""
    found = (yaml.safe_load(block) for document in documents() for block in blocks(document, "yaml"))
    return [value for value in found if isinstance(value, dict) and value.get("kind") == KIND]


def test_examples_are_good_agents() -> None:
    """A MedplumAgent that a reader copies from the docs fits the models."""
    examples = agents_in_docs()
    assert examples, "the README shows one"
    for raw in examples:
        agent = MedplumAgent.parse({**raw, "metadata": {"namespace": "clinic", "uid": "1", **raw["metadata"]}})
        AgentVersion.parse(agent.spec.version)


def test_the_readme_shows_the_columns_of_kubectl_get() -> None:
    """What the README shows under `kubectl get mpa` has the columns of the CRD."""
    (shown,) = (block for block in blocks(README, "console") if block.startswith("$ kubectl get mpa"))
    columns = crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert ["NAME", *(column["name"].upper() for column in columns)] == shown.splitlines()[1].split()


def test_the_guide_quotes_the_refusal_word_for_word() -> None:
    """The refusal in the guide is the one that the operator writes."""
    (raw,) = (each for each in agents_in_docs() if each["metadata"]["name"] == "front-desk")
    agent = MedplumAgent.parse({**raw, "metadata": {"namespace": "clinic", "uid": "1", **raw["metadata"]}})
    target = AgentVersion.parse("4.2.3")
    approval = judge(None, target=target, spent=())
    (quoted,) = blocks(DOWNGRADE, "text")
    now = Situation(Availability(("5.1.15",), hold_seconds=agent.spec.gate.hold_seconds), None, stops_first=True)
    written = refusal(agent, baseline="5.1.15", target=target, approval=approval, now=now)
    assert str(written) == quoted
