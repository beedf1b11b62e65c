"""A configuration text as a tree in which every value knows its line and column.

YAML and JSON go through one composer. Only nodes are composed: no tag constructs anything, so what a scalar means is
decided by the field that takes it (`off` is a word where a word is expected). `${env:NAME}`, `${env:NAME:-default}`
and `${file:/path}` are replaced inside parsed scalars; what they bring in is text, never structure, and is not
searched again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import yaml

from eomirror.errors import ConfigError

MAX_FILE_BYTES = 1 << 20  # of a configuration, and of a file that ${file:...} names

_EXPRESSION = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_ENV = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("null", "bool", "int", "float", "timestamp", "str", "value", "merge", "seq", "map")
)
_NULL_TAG = "tag:yaml.org,2002:null"


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong with the text.

    `line` and `column` count from 1; `path` is empty for the text as a whole.
    """

    line: int
    column: int
    path: str
    cause: str
    hint: str = ""

    def text(self, file: str) -> str:
        return ": ".join(part for part in (f"{file}:{self.line}:{self.column}", self.path, self.cause) if part)


class InvalidConfig(ConfigError):
    """The file cannot be used. `problems` holds everything found in it, in the order of the text, never empty."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(set(problems)))
        if len(self.problems) == 1:
            only = self.problems[0]
            super().__init__(only.text(file), hint=only.hint)
            return
        lines = []
        for problem in self.problems:
            lines.append(problem.text(file))
            if problem.hint:
                lines.append(f"  hint: {problem.hint}")
        check = f'correct these {len(self.problems)} places, then run "eomirror config validate -c {file}"'
        super().__init__("\n".join(lines), hint=check)


class Scalar(msgspec.Struct, frozen=True):
    """A single value as text.

    `is_null` only if it was written so; `expression` is what it was substituted from, empty if it was not.
    """

    text: str
    is_null: bool
    expression: str

    def quoted(self) -> str:
        """The value for a message; a substituted one may be a secret and is named by its expression."""
        if self.expression:
            return f"the value of {self.expression}"
        return quote(self.text)


def quote(text: str, limit: int = 80) -> str:
    """Text for a message: in double quotes, on one line, cut after `limit` characters."""
    return json.dumps(text if len(text) <= limit else text[: limit - 3] + "...", ensure_ascii=False)


def compose(text: str, file: str) -> yaml.Node:
    """The root node of a YAML or JSON text. Raises InvalidConfig at the place where it stops being one."""
    if _is_json(text):
        # A tab may stand between JSON's tokens, YAML forbids it; in valid JSON it can stand nowhere else.
        text = text.replace("\t", " ")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line, column = place_of(text, int(error.position))
        cause = f"character U+{int(error.character):04X} is not allowed in YAML"
        raise InvalidConfig(
            file, [Problem(line, column, "", cause, "remove the character, or write it as an escape")]
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        cause = ", ".join(str(part) for part in (error.context, error.problem) if part)
        hint = "keep one document" if "single document" in cause else _yaml_hint(text, line)
        raise InvalidConfig(file, [Problem(line, column, "", f"not YAML: {cause}", hint)]) from None
    except RecursionError:
        raise InvalidConfig(
            file, [Problem(1, 1, "", "nested too deeply", "no value needs more than six levels")]
        ) from None
    if node is None:
        raise InvalidConfig(file, [Problem(1, 1, "", "the file is empty", 'start it with "apiVersion: eomirror/v1"')])
    return node


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _yaml_hint(text: str, line: int) -> str:
    lines = text.splitlines()
    shown = lines[line - 1] if line <= len(lines) else ""
    if "\t" in shown:
        return "indent with spaces, YAML takes no tabs"
    if "${" in shown:
        return 'put a value with ${...} in double quotes, for example "${env:BOOTSTRAP}"'
    return 'put values that hold one of : { } [ ] , & * # ? | > ! % @ ` in double quotes, for example "orders.*"'


def place_of(text: str, index: int) -> tuple[int, int]:
    """Line and column, from 1, of a position in the text."""
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1


class Reader:
    """Reads nodes as mappings, lists and scalars; what is wrong is collected in `problems`, with its place, not raised.

    `substituted` holds the paths whose values came from the environment or a file, `places` the (line, column) of
    each value read, `keys` that of a key where the keys are the user's own.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.problems: list[Problem] = []
        self.substituted: set[str] = set()
        self.places: dict[str, tuple[int, int]] = {}
        self.keys: dict[str, tuple[int, int]] = {}

    def problem(self, node: yaml.Node, path: str, cause: str, hint: str = "") -> None:
        self.problems.append(Problem(node.start_mark.line + 1, node.start_mark.column + 1, path, cause, hint))

    def problem_at(self, path: str, cause: str, hint: str = "", *, key: bool = False) -> None:
        """A problem by its path: at the value or at its key; a default stands at its nearest parent in the text."""
        there = path
        while there and there not in self.places:
            there = re.sub(r"(\.|^)[^.\[]*$|\[[^\]]*\]$", "", there)
        line, column = self.keys[path] if key else self.places.get(there, (1, 1))
        self.problems.append(Problem(line, column, path, cause, hint))

    def _enter(self, node: yaml.Node, path: str) -> bool:
        self.places[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if node.tag in _PLAIN_TAGS:
            return True
        self.problem(node, path, f"tag {quote(node.tag)} is not known", "write the plain value without a tag")
        return False

    def items(self, node: yaml.Node, path: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Key, key node and value node of a mapping, each key once; one that comes twice is a problem."""
        if not self._enter(node, path):
            return
        if not isinstance(node, yaml.MappingNode):
            self.problem(
                node, path, f"expected a mapping, found {kind_of(node)}", 'write "key: value" lines, indented by spaces'
            )
            return
        seen: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, path, f"expected a key, found {kind_of(key_node)}", "a key is a single word")
                continue
            key = join_surrogates(key_node.value)
            if key_node.tag == "tag:yaml.org,2002:merge":
                self.problem(
                    key_node, path, 'merge keys ("<<") are not supported', "write the keys out; a plain alias is fine"
                )
                continue
            if key in seen:
                first = seen[key].start_mark
                self.problem(
                    key_node,
                    path,
                    f"key {quote(key)} comes twice, first at {first.line + 1}:{first.column + 1}",
                    "keep one of them",
                )
                continue
            seen[key] = key_node
            yield key, key_node, value

    def elements(self, node: yaml.Node, path: str) -> list[yaml.Node] | None:
        """The nodes of a list; None, and a problem, if it is not one."""
        if not self._enter(node, path):
            return None
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        hint = "write it in brackets, separated by commas, or as lines that begin with a dash"
        self.problem(node, path, f"expected a list, found {kind_of(node)}", hint)
        return None

    def scalar(self, node: yaml.Node, path: str, expected: str) -> Scalar | None:
        """A single value after substitution; None, and a problem, if it is not one or names what is not there."""
        if not self._enter(node, path):
            return None
        if not isinstance(node, yaml.ScalarNode):
            self.problem(node, path, f"expected {expected}, found {kind_of(node)}")
            return None
        text = join_surrogates(node.value)
        if any("\ud800" <= char <= "\udfff" for char in text):
            self.problem(
                node, path, "the text holds half of a surrogate pair", "write the character itself, or both halves"
            )
            return None
        if "${" not in text:
            return Scalar(text, node.tag == _NULL_TAG and node.style is None, "")
        try:
            return Scalar(
                self._substitute(text, path), False, " ".join(match[0] for match in _EXPRESSION.finditer(text))
            )
        except _Missing as error:
            self.problem(node, path, error.args[0], error.args[1])
            return None

    def _substitute(self, text: str, path: str) -> str:
        """Left to right, one pass: what a variable holds is never searched for further expressions."""

        def value(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            self.substituted.add(path)
            if not match[0].endswith("}"):
                raise _Missing(f"{quote(match[0])} has no end", "close it with }")
            body = match[1]
            if named := _ENV.fullmatch(body):
                return self._variable(named[1], named[2])
            if body.startswith("file:"):
                return _contents(body.removeprefix("file:"))
            hint = "write ${env:NAME}, ${env:NAME:-default} or ${file:/path}; $${ stands for the characters themselves"
            raise _Missing(f"{quote(match[0])} is no substitution", hint)

        return _EXPRESSION.sub(value, text)

    def _variable(self, name: str, default: str | None) -> str:
        value = self.env.get(name)
        if default is not None:
            return value or default
        if value is None:
            hint = f"export {name}, or give a default: ${{env:{name}:-value}}"
            raise _Missing(f"environment variable {name} is not set", hint)
        return value


class _Missing(Exception):
    """What a substitution names is not there: (cause, hint)."""


def _contents(name: str) -> str:
    if not name.startswith("/") or "\0" in name:
        raise _Missing(f"file {quote(name)} is not an absolute path", "write ${file:/path/from/the/root}")
    try:
        with Path(name).open("rb") as source:
            raw = source.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        cause = (error.strerror or type(error).__name__).lower()
        raise _Missing(f"file {quote(name)} cannot be read: {cause}", "check the path and its permissions") from None
    if len(raw) > MAX_FILE_BYTES:
        raise _Missing(f"file {quote(name)} is larger than 1 MiB", "name a file that holds only the value")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise _Missing(f"file {quote(name)} is not UTF-8 text", "store the value as UTF-8 text") from None
    # Editors and secret stores end a file with a line end; it is not part of the value.
    return text.removesuffix("\n").removesuffix("\r")


def join_surrogates(text: str) -> str:
    """JSON writes characters beyond U+FFFF as two escapes, which the YAML scanner keeps as two halves."""
    if not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def join(path: str, key: str) -> str:
    """The path of a key: `clusters.paris`, `client["socket.timeout.ms"]`."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", key):
        return f"{path}.{key}" if path else key
    return f"{path}[{quote(key)}]"


def kind_of(node: yaml.Node) -> str:
    """A node in words, for messages."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if node.tag == _NULL_TAG and not node.value else "a single value"
