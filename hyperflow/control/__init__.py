"""Control of a running program from outside: an HTTP API on a Unix socket (docs/control-api.md).

`place` binds and finds the socket, `server` serves the routes that it is given, `client` sends requests. `variables`
has the routes about a run's variables; those about jobs are the master's. A client does not import aiohttp.
"""
