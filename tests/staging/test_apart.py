"""Commands on nodes that share no directory with the head, nor with each other: mounts hide it from them."""

import os
from pathlib import Path

import pytest

import hyperflow as hf
from tests.staging.nodes import file_digest, made, nodes

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.geteuid() != 0, reason="it mounts something over a directory"),
]

SIZE = 3 << 20


def sees(path: str) -> bool:
    """Whether we see a file."""
    return Path(path).exists()


@pytest.mark.parametrize("setting", ["auto", "off"])
async def test_inputs_come_and_outputs_go_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """A file and a directory are where the command wants them; what it makes comes home, or stays for the next one."""
    home = tmp_path / "home"
    (home / "many" / "deep").mkdir(parents=True)
    large = made(home / "large", SIZE)
    (home / "many" / "deep" / "a").write_text("a\n")
    (home / "many" / "b").write_text("b\n")
    before = f"mount -t tmpfs tmpfs {home}"
    async with nodes(tmp_path, monkeypatch, 3, before=before, node_to_node=setting):
        assert not await hf.remote_eval(sees, str(home / "large"))
        file, many = hf.File(home / "large"), hf.File(home / "many")
        out = home / "out"
        words = ["sh", "-c", 'cat "$1" > "$3"; cat "$2"/deep/a "$2"/b', "sh", file, many, hf.Output(out)]
        result = await hf.remote_command(words, capture=True)
        assert result.stdout.splitlines() == ["a", "b"]
        assert file_digest(out) == large

        kept = await hf.remote_command(["cp", file, hf.Output("copy", keep="node")])
        copy = kept.files["copy"]
        flows = (hf.remote_command(["sha256sum", copy, "--tag"], capture=True) for _ in range(6))
        for each in await hf.concurrently(*flows):
            assert large in each.stdout
