"""The cluster as pytest has it: up when the first test asks, repaired after each, skipped where it cannot be."""

from collections.abc import Iterator

import pytest

from tests.cluster import packages
from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster

NEEDS = "needs_cluster"
BROKEN = pytest.StashKey[str]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install what a cluster is made of, if any test needs one: before the first, so that its time is not taken."""
    if session.config.option.collectonly:
        return
    if any(NEEDS in getattr(item, "fixturenames", ()) for item in session.items):
        packages.install()


@pytest.fixture(scope="session")
def needs_cluster() -> None:
    """Skip the test where there can be no cluster, and say why; for tests that make one of their own."""
    if reason := packages.obstacle():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def session_cluster(needs_cluster: None, own_surroundings: None) -> Iterator[Cluster]:
    """Hold the one cluster that tests share: three nodes of 4 CPUs. Ask for `cluster`, which also cleans up."""
    with held_cluster() as held:
        yield held


@pytest.fixture
def cluster(session_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """
    Give the test a cluster of three nodes, all well and idle. It may do with it as it likes.

    Afterwards everything is repaired. What the test has left running, on any node, makes it fail. If the repair fails,
    the tests that follow fail too, and name this one.
    """
    if breaker := request.config.stash.get(BROKEN, None):
        pytest.fail(f"the cluster was beyond repair after {breaker}", pytrace=False)
    yield session_cluster
    request.config.stash[BROKEN] = request.node.nodeid
    left = session_cluster.repair()
    del request.config.stash[BROKEN]
    if left:
        pytest.fail("left running on the cluster:\n  " + "\n  ".join(left), pytrace=False)
