"""The text of slurm.conf: nodes with as many CPUs as a test wants, quick to notice and to act."""

from collections.abc import Mapping
from pathlib import Path

from tests.cluster.network import LOGIN, address

# Seconds. A node that says nothing for this long is down.
SLURMD_TIMEOUT = 10
# A job that is put back into the queue may start again after this time, which is also how long a credential is good.
CREDENTIAL_LIFETIME = 10

# slurmd is not to use control groups, but initialises a plugin for them all the same; this one, unlike the one for
# version 2, asks for nothing of the machine.
CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"


# Slurm wants to see a device file for each GPU; it opens none of them unless control groups are used.
FAKE_GPU = "/dev/tty"


def gres_conf(gpus: int) -> str:
    """Return what each node has in GPUs."""
    return f"Name=gpu File={FAKE_GPU}[1-{gpus}]\n" if gpus else ""


def slurm_conf(directory: Path, cpus: Mapping[str, int], gpus: int = 0) -> str:
    """Return the configuration for these nodes, with everything that Slurm writes below the directory."""
    settings = {
        "ClusterName": "hyperflow",
        "SlurmctldHost": f"{LOGIN}({address(LOGIN)})",
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        "AuthInfo": f"socket={directory}/munge/socket,cred_expire={CREDENTIAL_LIFETIME}",
        "StateSaveLocation": f"{directory}/slurm/state",
        "SlurmdSpoolDir": f"{directory}/slurm/spool.%n",
        "SlurmctldPidFile": f"{directory}/slurm/slurmctld.pid",
        "SlurmdPidFile": f"{directory}/slurm/slurmd.%n.pid",
        "SlurmctldLogFile": f"{directory}/log/slurmctld.log",
        "SlurmdLogFile": f"{directory}/log/slurmd.%n.log",
        "ProctrackType": "proctrack/linuxproc",
        # task/affinity cannot bind tasks to CPUs that this machine does not have
        "TaskPlugin": "task/none",
        "SlurmdParameters": "config_overrides",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "JobAcctGatherType": "jobacct_gather/none",
        # sacct answers nothing, as on many sites
        "AccountingStorageType": "accounting_storage/none",
        "ReturnToService": "2",
        "KillWait": "2",
        "SlurmdTimeout": f"{SLURMD_TIMEOUT}",
        "SlurmctldTimeout": "10",
        "MpiDefault": "none",
        # each node's own, as PMIx makes directories of the same name there
        "TmpFS": f"{directory}/slurm/tmp.%n",
        "PriorityType": "priority/basic",
        "SwitchType": "switch/none",
        "SchedulerParameters": "sched_interval=1,sched_min_interval=0,batch_sched_delay=0",
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    gres = f"Gres=gpu:{gpus} " if gpus else ""
    lines += [
        f"NodeName={name} NodeAddr={address(name)} CPUs={count} {gres}State=UNKNOWN" for name, count in cpus.items()
    ]
    lines += ["GresTypes=gpu"] if gpus else []
    lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=UNLIMITED State=UP")
    return "\n".join(lines) + "\n"
