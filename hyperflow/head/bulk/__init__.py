"""The way of many evaluations that are alike: those of one map with one function and the same options.

An evaluation by itself costs the head a future, a task, a packed call, a callback and a place in each of four tables:
8 µs, more than many functions take. Here consecutive ones are one `scheduling.state.Batch`. What is left for each is
what nobody else can do: the user's function makes its flow, its arguments are pickled, and its answer is read.

Guarantees, the same as for evaluations by themselves, because whatever happens to one of them alone (it fails, its
worker dies, its node is lost, it asks for random numbers or a lock) makes it an evaluation by itself, with its number
and place, before it is dealt with. So there is one code for what is rare.
"""
