"""What can go wrong with an embedded server.

RuntimeError
└── EmbeddedServerError
    ├── MissingProgram      nothing to run: an extra or an installed server is needed
    └── ServerFailed        the server did not start, or said no
"""


class EmbeddedServerError(RuntimeError):
    """An embedded server cannot be used; the message says what to do."""


class MissingProgram(EmbeddedServerError):
    """A server's program is not installed."""


class ServerFailed(EmbeddedServerError):
    """A server's program did not do what was asked; the message ends with what it printed."""
