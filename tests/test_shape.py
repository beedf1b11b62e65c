"""The shape of the house: which module may know which, and one home for each concern."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import eomirror
from eomirror.clusters import FORCED_CONSUMER

PACKAGE = Path(eomirror.__file__).parent
MAX_LINES = 530

# Data goes one way. A module may import from the rows above it, never from its own or one below; the command line may
# import anything. A new module takes its place here first.
LAYERS = (
    ("__version__", "_fastpath", "client_keys", "errors", "logs", "units"),
    ("schemas", "security"),
    ("document", "records", "steps", "transform", "wire"),
    ("brokers", "decode", "dialect", "ledger", "model"),
    ("blocked", "feed"),
    ("checkpoint", "compare", "config", "ends", "identity", "lag", "pacing", "reading", "route", "source"),
    ("answers", "clusters", "faults", "pinning", "shown"),
    ("transaction",),
    ("markers", "quarantine", "settlement", "succession"),
    ("adoption", "blame", "control", "report", "topology", "translation"),
    ("lane", "scope"),
    ("verify", "worker"),
)
# What a lane works with is handed to it; it makes no clients and reads no configuration.
NEVER_BELOW_A_LANE = {"clusters", "config", "control", "report", "scope", "topology", "translation", "worker"}

# Concern: where it lives.
IMPORTED_ONLY_IN = {
    "opentelemetry": set(),  # `telemetry` will be its home
    "confluent_kafka": {"clusters", "reading", "topology", "cli/version"},
    "ssl": {"security"},
    "scramp": {"security"},
    "select": {"wire"},
    "asyncio": set(),
    "yaml": {"config", "decode", "document", "shown"},
    "typer": {"cli/"},
    "rich": {"cli/"},
}
NAMED_ONLY_IN = {
    "AdminClient": {"clusters"},
    "Producer": {"clusters"},
    "Consumer": {"clusters"},
    "EndTxnRequest": {"transaction"},
    "END_TXN": {"transaction", "wire", "dialect"},  # dialect asks how the target speaks it
    "TcpNetwork": {"clusters"},
}
CALLED_ONLY_IN = {
    "print": {"cli/"},
    "time.sleep": {"wire", "cli/run"},
    "time.monotonic": {"wire", "worker", "cli/run"},
    "time.time": set(),
    "time.time_ns": {"units"},
    "datetime.datetime.now": {"logs"},
    "socket.gethostname": {"worker"},
    "socket.create_connection": {"wire"},
    "socket.socket": set(),
    "os.kill": {"steps"},
    "os._exit": {"cli/run"},
    "eval": set(),
    "exec": set(),
}
# The interface of `socket.socket` and of time, word for word; what they do is said where they are declared.
UNDOCUMENTED = {"wire": {"Socket", "Network", "TcpNetwork"}, "security": {"TlsSocket"}}


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
CORE = [name for name in MODULES if not name.startswith("cli/") and name != "__init__"]


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def _imports(module: str) -> Iterator[str]:
    """Dotted names of what a module imports, also inside functions."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _ours(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    return {name.split(".")[1] for name in _imports(module) if name.startswith("eomirror.")}


def _calls(module: str) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(_tree(module)) if isinstance(node, ast.Call)}


def _names(module: str) -> set[str]:
    found = {name.rsplit(".", 1)[-1] for name in _imports(module)}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def _at_home(module: str, homes: set[str]) -> bool:
    return module in homes or any(home.endswith("/") and module.startswith(home) for home in homes)


def test_every_module_has_its_layer() -> None:
    listed = [name for row in LAYERS for name in row]
    assert len(listed) == len(set(listed))
    assert set(listed) - {"__version__", "_fastpath"} == set(CORE)


@pytest.mark.parametrize("module", CORE)
def test_data_goes_one_way(module: str) -> None:
    row = next(number for number, names in enumerate(LAYERS) if module in names)
    assert _ours(module) <= {name for names in LAYERS[:row] for name in names}


def test_a_lane_knows_neither_configuration_nor_clients() -> None:
    known, waiting = set(), {"lane"}
    while waiting:
        module = waiting.pop()
        known.add(module)
        if module in MODULES:
            waiting |= _ours(module) - known
    assert {"source", "transaction", "_fastpath", "wire"} <= known
    assert not known & NEVER_BELOW_A_LANE


def test_only_the_command_line_imports_the_command_line() -> None:
    assert [module for module in CORE if "cli" in _ours(module)] == []


@pytest.mark.parametrize("package", IMPORTED_ONLY_IN)
def test_a_library_is_imported_only_in_its_home(package: str) -> None:
    importing = {m for m in MODULES if any(name.split(".")[0] == package for name in _imports(m))}
    assert {m for m in importing if not _at_home(m, IMPORTED_ONLY_IN[package])} == set()


@pytest.mark.parametrize("name", NAMED_ONLY_IN)
def test_a_name_is_used_only_in_its_home(name: str) -> None:
    using = {module for module in MODULES if name in _names(module)}
    assert {module for module in using if not _at_home(module, NAMED_ONLY_IN[name])} == set()


@pytest.mark.parametrize("function", CALLED_ONLY_IN)
def test_a_function_is_called_only_in_its_home(function: str) -> None:
    calling = {module for module in MODULES if function in _calls(module)}
    assert {module for module in calling if not _at_home(module, CALLED_ONLY_IN[function])} == set()


def test_time_and_sockets_are_called_by_their_full_names() -> None:
    """`from time import sleep` would hide from the table above."""
    hidden = {
        (module, name)
        for module in MODULES
        for name in _imports(module)
        if name.startswith(("time.", "socket.", "os.", "datetime.datetime")) and name != "os.path"
    }
    assert hidden == set()


def test_the_tables_hold_no_home_that_is_empty() -> None:
    """A home that no longer uses what it was given would let it in again unseen."""
    for package, homes in IMPORTED_ONLY_IN.items():
        importing = {m for m in MODULES if any(name.split(".")[0] == package for name in _imports(m))}
        assert {home for home in homes if not any(_at_home(m, {home}) for m in importing)} == set(), package
    for name, homes in NAMED_ONLY_IN.items():
        assert {home for home in homes if name not in _names(home)} == set(), name
    for function, homes in CALLED_ONLY_IN.items():
        assert {h for h in homes if not h.endswith("/") and function not in _calls(h)} == set(), function


def test_one_door_to_the_end_of_a_transaction() -> None:
    """`EndTxn` is sent at one place in the whole package, and an offset that is gone is an error for every consumer."""
    sending = [
        (module, node.lineno)
        for module in MODULES
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Attribute) and node.attr == "EndTxnRequest"
    ]
    assert [module for module, _ in sending] == ["transaction"]
    resetting = {m: path.read_text() for m, path in MODULES.items() if "auto.offset.reset" in path.read_text()}
    assert resetting.keys() == {"client_keys", "clusters"}
    assert resetting["clusters"].count("auto.offset.reset") == 1
    assert FORCED_CONSUMER["auto.offset.reset"][0] == "error"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_one_thing_and_says_what(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= MAX_LINES
    assert not {"util", "utils", "helpers", "common", "misc"} & set(module.split("/"))
    assert ast.get_docstring(_tree(module))


def test_the_kernels_parts_are_small_too() -> None:
    parts = [*PACKAGE.glob("_fastpath.p*"), *(PACKAGE / "fastpath").iterdir()]
    assert len(parts) > 3
    assert {path.name for path in parts if len(path.read_text().splitlines()) > MAX_LINES} == set()


def _public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{prefix}{node.name}.")


def _says_itself(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """A function of one statement is its own description."""
    return isinstance(node, ast.FunctionDef) and len(node.body) == 1


@pytest.mark.parametrize("module", CORE)
def test_what_is_public_is_described(module: str) -> None:
    silent = {
        name
        for name, node in _public(_tree(module).body)
        if not ast.get_docstring(node)
        and not _says_itself(node)
        and name.split(".")[0] not in UNDOCUMENTED.get(module, set())
    }
    assert silent == set()


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_left_for_later(module: str) -> None:
    text = MODULES[module].read_text()
    assert [word for word in ("TODO", "FIXME", "XXX", "NotImplementedError") if word in text] == []
