"""What sinfo and scontrol say on a large site: put together after their manuals, with what is odd in the field.

Partitions of several kinds of nodes; GPUs of several types, with sockets; nodes that sleep, are down or do not answer;
whole nodes only; a partition that is closed; memory and CPUs as "at least"; and lines that are no answer.
"""

SINFO = """\
sinfo: warning: something of a plugin
debug|up|30:00|4|128|257000|EXCLUSIVE|idle|(null)|nid[000001-000004]
regular*|up|2-00:00:00|2980|128|512000|EXCLUSIVE|alloc|craynetwork:4|nid[001000-003979]
regular*|up|2-00:00:00|12|128|512000|EXCLUSIVE|drain*|craynetwork:4|nid[003980-003991]
regular*|up|2-00:00:00|8|256|1024000|EXCLUSIVE|mix-|craynetwork:4|nid[004000-004007]
gpu|up|1-00:00:00|60|64|257000+|NO|mix|gpu:a100:4(S:0-1)|g[001-060]
gpu|up|1-00:00:00|20|64|514000+|NO|idle~|gpu:a100:2(S:0),gpu:h100:2(S:1),shard:8|g[061-080]
gpuold|up|1-00:00:00|20|16+|64000|NO|idle|gpu:4|v[01-20]
mixed|up|infinite|1|8|16000|YES:4|idle|(null)|m1
mixed|up|infinite|1|8|16000|YES:4|idle|gpu:1|m2
cloud|up|4:00:00|1K|2|4000|NO|idle~|(null)|c[0001-1000]
closed|inact|1:00:00|2|4|8000|NO|down*|(null)|x[1-2]
empty|up|1:00:00|0|0|0|NO|n/a|(null)|
a b|up|1:00:00|1|1|1|NO|idle|(null)|n1
short|line
odd|up|soon|1|1|1|NO|idle|(null)|n1
$(touch x)|up|1:00|1|1|1|NO|idle|(null)|n1
"""

SCONTROL = """\
PartitionName=regular AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES MaxNodes=UNLIMITED MinNodes=2 State=UP
PartitionName=gpu AllowAccounts=phys_g,chem_g AllowQos=gpu_regular,gpu_debug MaxNodes=16 MinNodes=0 DefMemPerCPU=4000
PartitionName=nothing else
garbage
"""
