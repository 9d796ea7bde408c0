"""A machine that goes on attacking: real runs, one fault in each, and one oracle that judges them all.

`make chaos` runs it for five minutes; `python -m tests.chaos --help` says what else it can do.

    promises.py     what is promised; every fault names the promises that it tries
    ledger.py       what happened, written down outside of hyperflow: starts, ends, acknowledged results
    workload.py     what the program is to do
    program.py      the program that is attacked: memoized evaluations, each result acknowledged after its await
    run.py          one run of it in a world of its own directory: start, look for processes, wait, run it again
    cluster_run.py  a run on the three-node test cluster
    postgres_run.py one with a PostgreSQL server of its own
    here_run.py     a Cluster program whose jobs run on this machine
    login_run.py    a Cluster program on that cluster's login host, with Slurm's commands under control
    oracle.py       what the ledger, the processes and the files say about the promises
    faults/         tables of cases; one module for each family of faults
    harness.py      picks cases by a seed, runs them side by side, counts
    kept.py         the seeds that found something once
    page.py         docs/promises.md, written from the counts
    bugs.py         bugs on purpose, put into the processes of a run by installed/
    controls.py     these bugs on purpose: the harness has to turn red for each
"""
