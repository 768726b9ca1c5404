"""compose.yaml is right, and what it starts works: without Docker, each of our services' commands as a process.

Only what cannot be the same on this machine is replaced: the two servers' addresses, and Flower's port.
The base images (Valkey, Postgres) are not run; their settings are compared with the embedded servers'.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from pipeline.contrib.embedded.ports import free_port
from tests.acceptance.nodes import ROOT, ProcessNode

COMPOSE = ROOT / "compose.yaml"
OURS = ("migrate", "worker", "beat", "flower")
HEALTHY_ATTEMPTS = 30

Service = dict[str, Any]


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    """The services as compose sees them, with the defaults of their variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text(encoding="utf-8"))
    assert "${" not in text, "a variable without default"
    services: dict[str, Service] = yaml.safe_load(text)["services"]
    return services


def test_the_file_follows_the_compose_specification() -> None:
    check = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        [check, "--builtin-schema", "vendor.compose-spec", COMPOSE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ports_are_published_on_this_machine_only(services: Mapping[str, Service]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_every_service_waits_for_what_it_needs_to_be_well(services: Mapping[str, Service]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_healthy" if "healthcheck" in services[needed] else "service_completed_successfully"
            assert how == {"condition": wanted}, f"{name} → {needed}"


def test_every_lasting_service_has_a_health_check_and_comes_back(services: Mapping[str, Service]) -> None:
    lasting = {name: service for name, service in services.items() if name != "migrate"}
    assert [name for name, service in lasting.items() if "test" not in service.get("healthcheck", {})] == []
    assert {service["restart"] for service in lasting.values()} == {"unless-stopped"}


def test_our_services_differ_in_their_command_only(services: Mapping[str, Service]) -> None:
    shared = ("image", "build", "environment", "init", "read_only", "tmpfs", "cap_drop", "security_opt")
    for name in OURS:
        assert {key: services[name][key] for key in shared} == {key: services["worker"][key] for key in shared}, name


def test_the_redis_command_is_one_that_the_server_obeys(services: Mapping[str, Service], redis_url: str) -> None:
    words = services["redis"]["command"].replace('""', "").split()
    assert words[0] == "valkey-server"
    wanted = dict(re.findall(r"--(appendonly|appendfsync|maxmemory-policy) (\S+)", " ".join(words)))
    assert wanted == {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    with redis.Redis.from_url(redis_url) as client:
        assert client.config_get(*wanted) == wanted  # the embedded server of all other tests is set up the same


def test_migrate_ends_well_also_a_second_time(
    services: Mapping[str, Service], environment: Mapping[str, str], tmp_path: Path
) -> None:
    for _ in range(2):
        with _node("migrate", services["migrate"], environment, tmp_path) as node:
            code, output = node.exec_run(services["migrate"]["command"])
        assert code == 0, output.decode()


@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize("name", ["worker", "beat", "flower"])
def test_a_service_becomes_healthy_by_its_own_check(
    services: Mapping[str, Service], environment: Mapping[str, str], tmp_path: Path, name: str
) -> None:
    with _node(name, services[name], environment, tmp_path) as node:
        node.start()
        outputs = []
        for _ in range(HEALTHY_ATTEMPTS):  # each waits for an answer itself
            code, output = node.exec_run(_health_command(node, services[name]))
            if code == 0:
                break
            assert node.status == "running", node.logs()
            outputs.append(output.decode())
        else:
            pytest.fail(f"{name} is not healthy: {outputs[-1]}\n{node.logs()}")
        node.stop()
        assert node.status == "exited"


class ComposeNode(ProcessNode):
    """A service of compose.yaml as a process."""

    flower_port: str


@contextmanager
def _node(name: str, service: Service, environment: Mapping[str, str], scratch: Path) -> Iterator[ComposeNode]:
    port = str(free_port())
    command = [_here(word, scratch, port) for word in service["command"]]
    node = ComposeNode(name, command, environment=_variables(service, environment), scratch=scratch)
    node.flower_port = port
    try:
        yield node
    finally:
        node.remove()


def _variables(service: Service, environment: Mapping[str, str]) -> dict[str, str]:
    """The service's own, with the servers' addresses replaced; there is nothing else to replace."""
    declared = {name: str(value) for name, value in service["environment"].items()}
    assert set(environment) <= set(declared)
    return {**declared, **environment}


def _here(word: str, scratch: Path, port: str) -> str:
    """The container's /tmp and Flower's port, on this machine."""
    return word.replace("/tmp", str(scratch)).replace("0.0.0.0", "127.0.0.1").replace("5555", port)  # noqa: S104, S108


def _health_command(node: ComposeNode, service: Service) -> list[str]:
    kind, *words = [
        word.replace("$$", "$").replace("5555", node.flower_port) for word in service["healthcheck"]["test"]
    ]
    assert kind in ("CMD", "CMD-SHELL")
    return ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words
