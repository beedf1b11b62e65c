"""What a recipe and a `transform:` list mean, in plain Python, as plainly as possible."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Headers = list[tuple[bytes, bytes | None]]


def apply(operations: Sequence[tuple[Any, ...]], headers: Headers, *, offset: int, timestamp: int) -> Headers:
    """The headers of a record after the kernel's operations."""

    def value(parts: Sequence[bytes | str]) -> bytes:
        words = {"offset": b"%d" % offset, "timestamp": b"%d" % timestamp}
        return b"".join(words[part] if isinstance(part, str) else part for part in parts)

    for verb, name, *rest in operations:
        if verb == "remove":
            headers = [one for one in headers if one[0] != name]
        elif verb == "remove_matching":
            rule = re.compile(b".*".join(re.escape(piece) for piece in name.split(b"*")), re.DOTALL)
            headers = [one for one in headers if not rule.fullmatch(one[0])]
        elif verb == "rename":
            headers = [(rest[0] if key == name else key, held) for key, held in headers]
        elif verb == "set":
            headers = [*(one for one in headers if one[0] != name), (name, value(rest[0]))]
        elif verb == "add":
            headers = [*headers, (name, value(rest[0]))]
        else:
            raise AssertionError(verb)
    return headers


def transformed(steps: Sequence[dict[str, Any]], headers: Headers, **words: Any) -> Headers:
    """The headers of a record after a `transform:` list as the file has it. `words` are all six placeholders.

    Python's own format strings know the same braces.
    """
    for step in steps:
        ((verb, what),) = step.items()
        if verb == "set":
            name = what["header"].encode()
            headers = [one for one in headers if one[0] != name]
            headers.append((name, what["value"].format(**words).encode()))
        elif verb == "remove":
            rule = re.compile(re.escape(what["header"]).replace(r"\*", ".*"), re.DOTALL)
            headers = [one for one in headers if not rule.fullmatch(one[0].decode())]
        elif verb == "rename":
            names = {what["header"].encode(): what["to"].encode()}
            headers = [(names.get(key, key), held) for key, held in headers]
        elif verb == "provenance":
            origin = "{source_cluster}/{topic}/{partition}/{offset}".format(**words)
            headers = [*headers, (what.get("header", "eomirror.origin").encode(), origin.encode())]
        else:
            raise AssertionError(verb)
    return headers
