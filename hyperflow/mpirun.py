"""The programs that start the ranks of a parallel program, mpirun and srun: their command lines, and what they say.

Each starts, in the place of a rank, a few lines of sh (`wrapped`). They set what is this node's own (MPICH's mpirun has
the first node's variables everywhere), bind the rank to its share of the CPUs that were given, and become the program.
So binding is the same whatever MPI it is: those that bind by themselves would count all CPUs of a node, or all that
Slurm has granted, and not those of this evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from hyperflow.wire import here
from hyperflow.wire.machine import THREAD_VARIABLES

OF_RANKS = ("PMI_", "PMIX_", "PALS_", "OMPI_COMM_", "OMPI_UNIVERSE", "OMPI_FILE", "OMPI_APP", "HYDI_", "MPI_LOCAL")
"""How variables begin that say which rank a process is: of an mpirun or srun that has started us."""

SLURMS = ("SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_MPI_TYPE")
"""What is kept of Slurm's variables beside those of the job (SLURM_JOB...); others are options of an srun before."""

MARK = "HYPERFLOW_RANKS"
"""The variable by which ranks are known that are below none of our processes: of srun, or of a killed mpirun."""

_BIND = """\
eval "$HYPERFLOW_HERE"
r=${OMPI_COMM_WORLD_LOCAL_RANK:-${PMIX_LOCAL_RANK:-${MPI_LOCALRANKID:-${PMI_LOCAL_RANK:-${SLURM_LOCALID:-0}}}}}
HYPERFLOW_CPUS=$(echo "$HYPERFLOW_CPUS" | cut -d, -f"$((r * %(each)d + 1))-$(((r + 1) * %(each)d))")
export HYPERFLOW_CPUS %(variables)s
[ -z "$HYPERFLOW_BIND" ] || taskset -p -c "$HYPERFLOW_CPUS" $$ >/dev/null 2>&1
exec "$@"
"""

_BLAME = (
    # Open MPI, in two versions
    r"process rank (?P<rank>\d+) with PID \d+ on node (?P<node>\S+)\s+exited on\s+signal (?P<signal>\d+)",
    r"Process name: \[(?:\S+,|prterun\S*@)(?P<rank>\d+)[\],].*?\n *Exit code: +(?P<code>\d+)",
    r"MPI_ABORT was invoked on rank (?P<rank>\d+)",
    r"Remote daemon: \S+ on node (?P<node>\S+)",
    # MPICH, Intel MPI
    r"RANK (?P<rank>\d+) PID \d+ RUNNING AT (?P<node>\S+)\s+=?\s*KILLED BY SIGNAL: (?P<signal>\d+)",
    r"PID \d+ RUNNING AT (?P<node>\S+)\s+=?\s*EXIT CODE: (?P<code>\d+)",
    # srun
    r"srun: error: (?P<node>\S+): tasks? (?P<rank>[\d,-]+): (?P<how>.+)",
)


def blame(said: str, nodes: Sequence[str], ranks: int) -> str:
    """Return which rank has ended how, as far as mpirun or srun has said it; else an empty text."""
    for pattern in _BLAME:
        if (found := re.search(pattern, said, re.DOTALL if "Exit code" in pattern else 0)) is not None:
            return _cause(found.groupdict(), nodes, ranks)
    return ""


def _cause(found: Mapping[str, str], nodes: Sequence[str], ranks: int) -> str:
    rank, node = found.get("rank", ""), found.get("node", "")
    if not node and int(rank) // ranks < len(nodes):
        node = nodes[int(rank) // ranks]  # they are placed so (`mpirun`)
    if not rank and "code" not in found:
        return f"{node} was lost"
    who = f"rank {rank}" if rank else "a rank"
    who += f" on {node}" if node else ""
    if "signal" in found:
        return f"{who} was ended by signal {found['signal']}"
    if "code" in found:
        return f"{who} exited with {found['code']}"
    return f"{who}: {found['how']}" if "how" in found else f"{who} has called MPI_Abort"


def wrapped(words: Sequence[str], each: int, threads: int, more: dict[str, str]) -> list[str]:
    """Return the command of a rank that has so many CPUs, with variables that mpirun itself must not see."""
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads)) | more
    told = " ".join(f"{name}={_quoted(value)}" for name, value in variables.items())
    return ["/bin/sh", "-c", _BIND % {"each": each, "variables": told}, "sh", *words]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def is_hydra(version: str) -> bool:
    """Whether this is what `mpirun --version` of MPICH or Intel MPI says, and not that of Open MPI."""
    return any(word in version for word in ("HYDRA", "Intel"))


def mpirun(program: str, hydra: bool, nodes: Sequence[str], ranks: int) -> list[str]:
    """Return the command before that of a rank; with one node, no other one is asked for anything."""
    total = str(len(nodes) * ranks)
    if hydra:
        return [program, "-n", total, "-ppn", str(ranks), *(["-hosts", ",".join(nodes)] if len(nodes) > 1 else [])]
    hosts = nodes if len(nodes) > 1 else ["localhost"]
    return [program, "-np", total, "--host", ",".join(f"{host}:{ranks}" for host in hosts)]


def variables_of_mpirun(agent: str) -> dict[str, str]:
    """Return variables that let mpirun start its daemons by a program of ours, and bind nothing; of all MPIs."""
    openmpi = {
        "plm": "rsh",
        "plm_rsh_agent": agent,
        "plm_rsh_no_tree_spawn": "1",
        "orte_leave_session_attached": "1",
        "hwloc_base_binding_policy": "none",
        "rmaps_base_mapping_policy": "slot",
    }
    prrte = {
        "plm": "ssh",
        "plm_ssh_agent": agent,
        "plm_ssh_no_tree_spawn": "1",
        "prte_leave_session_attached": "1",
        "hwloc_default_binding_policy": "none",
        "rmaps_default_mapping_policy": "slot",
    }
    return {
        **{f"OMPI_MCA_{name}": value for name, value in openmpi.items()},
        **{f"PRTE_MCA_{name}": value for name, value in prrte.items()},
        **{f"{prefix}_LAUNCHER": "ssh" for prefix in ("HYDRA", "I_MPI_HYDRA")},
        **{f"{prefix}_BOOTSTRAP": "ssh" for prefix in ("HYDRA", "I_MPI_HYDRA")},
        **{f"{prefix}_EXEC": agent for prefix in ("HYDRA_LAUNCHER", "HYDRA_BOOTSTRAP", "I_MPI_HYDRA_BOOTSTRAP")},
        "HYDRA_RMK": "user",
        "I_MPI_PIN": "off",
    }


def srun(program: str, nodes: Sequence[str], ranks: int, mpi: str) -> list[str]:
    """Return the command before that of a rank, for a step of the allocation's nodes."""
    size = [f"--nodes={len(nodes)}", f"--ntasks={len(nodes) * ranks}", f"--ntasks-per-node={ranks}"]
    how = ["--overlap", "--kill-on-bad-exit=1", "--cpu-bind=none", "--unbuffered", "--export=ALL"]
    return [program, *how, *size, f"--nodelist={','.join(nodes)}", *([f"--mpi={mpi}"] if mpi else [])]


def choosing(places: Iterable[tuple[str, Sequence[int], Sequence[str]]], pinned: bool) -> str:
    """Return lines of sh that set what is a node's own, on whichever of these nodes they run."""
    cases = [f"{node}) {here.exported(here.variables(cpus, pinned, gpus))} ;;" for node, cpus, gpus in places]
    return "\n".join(['case "$SLURMD_NODENAME" in', *cases, "esac"])


def best_mpi(listed: str) -> str:
    """Return the best of what `srun --mpi=list` says: what most MPIs understand."""
    found = set(re.findall(r"\b(pmix|pmi2|cray_shasta)\b", listed))
    return next((name for name in ("pmix", "cray_shasta", "pmi2") if name in found), "")


def for_srun(variables: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the variables for an srun: without those that would be options of it."""
    kept = tuple(map(str.encode, (*SLURMS, "SLURM_JOB")))
    return {name: value for name, value in variables if not name.startswith(b"SLURM_") or name.startswith(kept)}


def for_mpirun(variables: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the variables for an mpirun that is not to find out that it is within a Slurm job."""
    return {name: value for name, value in variables if not name.startswith(b"SLURM")}


def of_no_rank(variables: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return variables without those that say which rank a process is."""
    prefixes = tuple(map(str.encode, OF_RANKS))
    return {name: value for name, value in variables if not name.startswith(prefixes)}
