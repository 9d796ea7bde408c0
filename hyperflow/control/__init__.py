"""Control of a running master from outside: an HTTP API on a Unix socket (docs/control-api.md).

`place` is where the socket is, `server` answers, `client` asks, `messages` is what a job looks like in between.
"""
