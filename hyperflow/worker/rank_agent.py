"""What mpirun runs in the place of ssh: has a program started on another node of the evaluation, and waits for its end.

The arguments are what ssh would get: options, a node, a command. The evaluation's socket is named after the mark that
its ranks carry. It is run as a script, without the rest of hyperflow, because mpirun starts one for each node. Its end
ends the program.
"""

import json
import os
import socket
import sys


def main() -> int:
    """Hand the command on; return how it has ended."""
    words = sys.argv[1:]
    while words and words[0].startswith("-"):  # of ssh
        words.pop(0)
    node, *command = words
    wanted = {
        "node": node.rpartition("@")[2],
        "argv": ["/bin/sh", "-c", " ".join(command)],  # as sshd does it
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
    }
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"\0hyperflow-{os.environ['HYPERFLOW_RANKS']}")
        sock.sendall(json.dumps(wanted).encode() + b"\n")
        with sock.makefile() as file:
            status, text = json.loads(file.readline() or '[255, "the evaluation has ended"]')
    if text and status:
        print(text, file=sys.stderr)
    return int(status) if status >= 0 else 128 - int(status)


if __name__ == "__main__":
    sys.exit(main())
