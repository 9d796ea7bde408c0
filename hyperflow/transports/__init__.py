"""How a process is started on a node and reached: as a child, by srun, by ssh. Each gives one stream of bytes.

The head and `hyperflow doctor` use it. It may import wire/, `config`, `errors`, `aio` and `files`.
"""
