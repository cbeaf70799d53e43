"""Start and health: sentences instead of tracebacks, and exactly the rights that are needed."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.audit import USER, resource
from tests.support.cluster import wait_for
from tests.support.operator_process import NAMESPACE, PROGRAM, ROOT, SERVICE_ACCOUNT, start_operator
from tests.support.world import agent_manifest, child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.support.cluster import Cluster
    from tests.support.world import World


def refused_start(kubeconfig: Path, log: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Start an operator that soon exits with code 2. Returns its log."""
    operator = start_operator(kubeconfig, log, *arguments, environment=environment)
    try:
        assert 2 == operator.process.wait(20)
    finally:
        if operator.process.poll() is None:
            operator.kill()
    return operator.log.read_text()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program until it exits."""
    return subprocess.run(
        [str(PROGRAM), *arguments],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--resync-seconds", "soon"], {}, "--resync-seconds (MEDPLUM_AGENT_OPERATOR_RESYNC_SECONDS)"),
        (["--namespaces", "Clinic_A"], {}, "'Clinic_A' is not a namespace's name"),
        ([], {"MEDPLUM_AGENT_OPERATOR_LOG_LEVEL": "loud"}, "--log-level (MEDPLUM_AGENT_OPERATOR_LOG_LEVEL)"),
        ([], {"MEDPLUM_AGENT_OPERATOR_IMAGE_REPOSITORY": "repo/agent:latest"}, "without tag or digest"),
        (["--colour"], {}, "--colour"),
        ([], {"KUBECONFIG": "/nowhere/config"}, "/nowhere/config, which does not exist"),
    ],
    ids=["not a number", "no namespace", "environment", "tag", "unknown flag", "kubeconfig"],
)
def test_invalid_setting_ends_the_start_with_a_sentence(
    arguments: list[str], environment: dict[str, str], says: str
) -> None:
    """Exit code 2, the fault on stderr, and no Python traceback."""
    result = run(*arguments, **environment)
    assert 2 == result.returncode
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_help_documents_every_setting() -> None:
    """--help lists every flag, --version prints the version."""
    text = run("--help").stdout
    for flag in (
        "--namespaces",
        "--image-repository",
        "--log-format",
        "--health-port",
        "--resync-seconds",
        "--workers",
    ):
        assert flag in text
    assert "tuple[" not in text
    assert run("--version").stdout.startswith("medplum-agent-operator ")


def test_missing_crd_is_reported_with_the_command_that_installs_it(cluster: Cluster, tmp_path: Path) -> None:
    """A cluster without this resource (here: a group that no server has): exit code 2 and the command."""
    kubeconfig = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json").stdout)
    kubeconfig["clusters"][0]["cluster"]["server"] += "/nothing-here"
    path = tmp_path / "config"
    path.write_text(json.dumps(kubeconfig))
    assert "kubectl apply --server-side -f crds/medplumagents.yaml" in refused_start(path, tmp_path / "log")


def test_the_start_does_not_wait_for_an_untrusted_api_server(cluster: Cluster, tmp_path: Path) -> None:
    """After a rotation of the CA the mounted certificate is replaced soon. A restart reads it; a waiting process does not."""
    kubeconfig = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json").stdout)
    another = kubeconfig["users"][0]["user"]["client-certificate-data"]
    kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"] = another
    path = tmp_path / "config"
    path.write_text(json.dumps(kubeconfig))
    assert "certificate" in refused_start(path, tmp_path / "log")


@contextmanager
def api_server(answer: Callable[[str], tuple[int, bytes]], folder: Path) -> Iterator[Path]:
    """A server on loopback that answers each GET of a path with this status and body, and a kubeconfig that leads to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        answering = Thread(target=server.serve_forever)
        answering.start()
        try:
            context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
            cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
            user = {"name": "u", "user": {"token": "t"}}
            config = {"current-context": "c", "contexts": [context], "clusters": [cluster], "users": [user]}
            kubeconfig = folder / "config"
            kubeconfig.write_text(json.dumps(config))
            yield kubeconfig
        finally:
            server.shutdown()
            answering.join()


def test_the_start_waits_for_an_unavailable_api_server(tmp_path: Path) -> None:
    """A proxy answers with a sign-in page and status 200: the log quotes it, the operator is live but not ready, and SIGTERM ends the wait."""
    with api_server(lambda _: (200, b"<html>Please sign in</html>"), tmp_path) as kubeconfig:
        operator = start_operator(kubeconfig, tmp_path / "log")
        try:
            wait_for(lambda: "Please sign in" in operator.log.read_text(), what="the reason is logged")
            assert 200 == operator.get("/healthz")[0]
            assert 503 == operator.get("/readyz")[0]
            assert 0 == operator.stop()
        finally:
            operator.kill()
    said = operator.log.read_text()
    assert "is it the right one?" in said
    assert "Traceback" not in said


def test_the_start_waits_until_the_operator_can_read_its_own_pod(tmp_path: Path) -> None:
    """Without this, one missing answer would prevent gates until a restart."""
    asked: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        me = path.endswith("/pods/me")
        return (503, b'"upstream connect error"') if me and asked.count(path) == 1 else (200, b'{"items": []}')

    own = {"MEDPLUM_AGENT_OPERATOR_POD": "me", "MEDPLUM_AGENT_OPERATOR_POD_NAMESPACE": "operators"}
    with api_server(answer, tmp_path) as kubeconfig:
        operator = start_operator(kubeconfig, tmp_path / "log", environment=own)
        try:
            wait_for(lambda: "watching all namespaces" in operator.log.read_text(), what="it starts")
        finally:
            operator.kill()
    assert 2 == len([path for path in asked if path.endswith("/pods/me")])


def test_an_unreadable_namespace_is_left_out_until_it_is_readable(
    installed: Cluster, namespace: str, tmp_path: Path
) -> None:
    """One of two has no RoleBinding, as after a deletion: the operator watches the other, and later both."""
    other = f"{namespace}-other"
    installed.kubectl("create", "namespace", other)
    installed.kubectl("create", "serviceaccount", "of-two", "-n", namespace)
    kubeconfig = installed.service_account_kubeconfig(namespace, "of-two")
    bind = ("create", "rolebinding", "of-two", f"--clusterrole={SERVICE_ACCOUNT}")
    subject = f"--serviceaccount={namespace}:of-two"
    installed.kubectl(*bind, subject, "-n", namespace)
    flags = ("--namespaces", f"{other},{namespace}", "--no-watch-nodes", "--resync-seconds", "5")
    operator = start_operator(kubeconfig, tmp_path / "log", *flags)
    try:
        operator.wait_until_ready()
        said = operator.log.read_text()
        assert f"namespace {other} is left out" in said
        assert f"watching {namespace}" in said
        installed.kubectl(*bind, subject, "-n", other)
        assert 0 == operator.process.wait(60)
        again = start_operator(kubeconfig, tmp_path / "log-2", *flags)
        try:
            again.wait_until_ready()
            assert f"watching {other}, {namespace}" in again.log.read_text()
        finally:
            again.kill()
    finally:
        operator.kill()
        installed.kubectl("delete", "namespace", other, "--wait=false")


def test_missing_rights_are_reported_with_the_manifests_that_grant_them(
    installed: Cluster, namespace: str, tmp_path: Path
) -> None:
    """A service account without rights: exit code 2, the forbidden request, and where the rights are."""
    installed.kubectl("create", "serviceaccount", "without-rights", "-n", namespace)
    said = refused_start(installed.service_account_kubeconfig(namespace, "without-rights"), tmp_path / "log")
    assert "forbidden" in said
    assert "manifests/base" in said


def test_missing_right_on_nodes_is_reported_with_both_fixes(installed: Cluster, namespace: str, tmp_path: Path) -> None:
    """All rights but nodes: exit code 2 at once, not after a minute of silent tries; with --no-watch-nodes it starts."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "no-nodes"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": SERVICE_ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": "no-nodes", "namespace": namespace}],
    }
    installed.kubectl("create", "serviceaccount", "no-nodes", "-n", namespace)
    installed.apply(role, namespace=namespace)
    kubeconfig = installed.service_account_kubeconfig(namespace, "no-nodes")
    said = refused_start(kubeconfig, tmp_path / "log", "--namespaces", namespace)
    assert "medplum-agent-operator-nodes" in said
    assert "--no-watch-nodes" in said
    without = start_operator(kubeconfig, tmp_path / "log-2", "--namespaces", namespace, "--no-watch-nodes")
    try:
        without.wait_until_ready()
    finally:
        without.kill()


def test_health_and_readiness_are_answered(world: World) -> None:
    """/healthz and /readyz answer ok; another path is 404."""
    operator = world.operators[-1]
    assert [(200, "ok"), (200, "ok"), 404] == [operator.get("/healthz"), operator.get("/readyz"), operator.get("/")[0]]


def test_operator_of_one_namespace_leaves_others_alone(world: World, installed: Cluster) -> None:
    """--namespaces: an agent in another namespace gets no children."""
    with installed.namespace() as other:
        world.kubectl("get", "mpa")
        manifest = {**agent_manifest(), "metadata": {"name": "elsewhere", "namespace": other}}
        installed.apply(manifest)
        world.install()
        assert "" == installed.kubectl("get", "deployments", "-n", other, "-o", "name").stdout


def _rules() -> list[dict[str, Any]]:
    objects = yaml.safe_load_all((ROOT / "manifests/base/rbac.yaml").read_text())
    return [rule for o in objects if o["kind"] == "ClusterRole" for rule in o["rules"]]


def test_rights_are_sufficient_and_each_is_used(world: World) -> None:
    """In the life of one agent no request is forbidden, and every granted verb is used (except for two kinds, tested separately)."""
    since = datetime.now(UTC)
    world.start_operator()
    world.install(gate={"enabled": True})
    world.wait(lambda: "/gate-of" in str(world.read("service", "front-desk")["spec"]["selector"]), "the gate")
    for kind in ("deployment", "service", "pdb", "serviceaccount"):
        world.kubectl("annotate", kind, child(kind), "--overwrite", "agents.medplum.com/applied-hash=drift")
    world.kubectl("annotate", "rolebinding", "front-desk-gate", "--overwrite", "agents.medplum.com/applied-hash=drift")
    world.set_version("5.1.15")
    world.wait_for_phase("Running", "5.1.15")
    node = world.pods()[0]["spec"]["nodeName"]
    world.kubectl("cordon", node)
    world.wait(lambda: world.events("MovingOffNode"), "the move")
    world.kubectl("uncordon", node)
    world.wait_for_phase("Running", "5.1.15")
    world.set_version("4.2.3")
    world.approve("4.2.3")
    world.wait_for_phase("Running", "4.2.3")
    calls = [event for event in world.cluster.audit_events(since) if event["user"]["username"] == USER]
    assert [] == [event["requestURI"] for event in calls if event["responseStatus"]["code"] == 403]
    used = {(resource(event), event["verb"]) for event in calls}
    granted = {(name, verb) for rule in _rules() for name in rule["resources"] for verb in rule["verbs"]}
    # Server-side apply of a missing child needs `create`, and is logged as `patch`.
    unseen = {
        (name, "create")
        for name in ("deployments", "services", "serviceaccounts", "poddisruptionbudgets", "rolebindings", "jobs")
    }
    # The gate's own right, and the operator's right to grant it, which the API server checks at the write of a RoleBinding.
    unseen |= {("endpointslices", "list"), ("endpointslices", "watch"), ("clusterroles", "bind")}
    # A revision of another operator, and an outdated one: `test_revisions`.
    unseen |= {("controllerrevisions", "get"), ("controllerrevisions", "delete")}
    assert set() == granted - used - unseen - {("medplumagents/finalizers", "update")}


@pytest.mark.parametrize("kind", ["deployments", "services", "serviceaccounts", "poddisruptionbudgets"])
def test_right_to_create_is_needed(installed: Cluster, namespace: str, tmp_path: Path, kind: str) -> None:
    """Without `create` on one kind of child the installation stops there and reports what is forbidden."""
    rules = _rules()
    for rule in rules:
        if kind in rule["resources"]:
            rule["resources"] = [name for name in rule["resources"] if name != kind]
            rules = [
                *rules,
                {**rule, "resources": [kind], "verbs": [verb for verb in rule["verbs"] if verb != "create"]},
            ]
            break
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "less"},
        "rules": [r for r in rules if r["resources"]],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "less"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "less"},
        "subjects": [{"kind": "ServiceAccount", "name": "less", "namespace": namespace}],
    }
    installed.kubectl("create", "serviceaccount", "less", "-n", namespace)
    installed.apply(role, binding, agent_manifest(), namespace=namespace)
    operator = start_operator(
        installed.service_account_kubeconfig(namespace, "less"),
        tmp_path / "log",
        "--namespaces",
        namespace,
        "--no-watch-nodes",
    )
    try:

        def refused() -> bool:
            found = installed.kubectl(
                "get", "mpa", "front-desk", "-n", namespace, "-o", "jsonpath={.status.plan}"
            ).stdout
            return "cannot create" in found and kind in found

        wait_for(refused, what=f"the refusal of {kind}")
    finally:
        operator.kill()


def test_service_account_is_the_one_of_the_manifests() -> None:
    """The tests use the ServiceAccount that the manifests bind."""
    objects = list(yaml.safe_load_all((ROOT / "manifests/base/rbac.yaml").read_text()))
    [subject] = next(o for o in objects if o["kind"] == "ClusterRoleBinding")["subjects"]
    assert (NAMESPACE, SERVICE_ACCOUNT) == (subject["namespace"], subject["name"])
