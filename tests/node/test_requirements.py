"""What becomes of these tests on a machine that cannot run real nodes: skipped with the reason, or failed where CI asks so."""

from __future__ import annotations

import pytest

from tests.node.conftest import REQUIRED, without_nodes
from tests.support.cluster.node import missing

REASON = "root is needed, for the file systems of images and the namespaces of nodes"


def test_without_root_the_reason_is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """All programs are there, and the user is not root."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/somewhere")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert REASON == missing()


def test_without_packages_the_reason_names_them_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare machine, as root."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    reason = missing() or ""
    for word in ("buildah", "busybox-static", "mmdebstrap", "nftables", "runc", "make node-packages"):
        assert word in reason


def test_a_developer_sees_them_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason, which pytest shows in its summary."""
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match=REASON):
        without_nodes(REASON)


def test_ci_sees_them_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A green run that had left them out would prove nothing."""
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match=f"{REQUIRED} is set, but {REASON}"):
        without_nodes(REASON)
