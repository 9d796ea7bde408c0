"""A real Slurm cluster on this machine: a login host and nodes with slurmctld, slurmd, munged and sshd.

Each host is a process tree of its own: a namespace for processes, the network, mounts and the host's name, held
together by one init (`init.py`). The hosts' network cards hang on a bridge that is in a namespace too, so that nothing
of it can be seen from the machine, and any number of clusters can exist at once with the same addresses. When an init
ends, the kernel ends everything on its host; when the process that made the cluster ends, however it ends, every init
ends. So what can be left behind is one directory, and the next start removes it.

As on a real cluster the file system is shared by all hosts, the home directory included, which is not the machine's
but the cluster's own; `/run` and `/dev/shm` are each host's own.

In tests, take the fixture `cluster` (`fixture.py`), or for another shape `with cluster(cpus=(4, 4, 2)) as c:`
(`cluster.py`). By hand: `python -m tests.cluster up`, `shell node2`, `status`, `down`.

Rejected: containers (an engine to install, images to fetch); named namespaces and a bridge of the machine (to be
cleaned away by hand after a crash, names and addresses to be found); one namespace of processes for all hosts (a
program that looks for its processes in /proc would find those of other nodes).
"""
