"""Where the logs of nodes are, for the nodes and for people."""

from pathlib import Path

from hyperflow.head.log_places import LogPlaces


def test_where_logs_are() -> None:
    """Logs are in the run's directory; those of a node that does not share it are named with the node."""
    logs = LogPlaces(Path("/run/log"))
    logs.add("far", "/tmp/own")
    assert (logs.path("near", "a.log"), logs.for_people("near", "a.log")) == ("/run/log/a.log", "/run/log/a.log")
    assert (logs.path("far", "a.log"), logs.for_people("far", "a.log")) == ("/tmp/own/a.log", "far:/tmp/own/a.log")
    logs.add("far", "")  # the name comes again, where the run's directory is seen
    assert (logs.path("far", "a.log"), logs.for_people("far", "a.log")) == ("/run/log/a.log", "/run/log/a.log")
