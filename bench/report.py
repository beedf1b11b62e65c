"""A result for people: Markdown, charts and the README's table, all made from the JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .charts import Bar, Group, bar_chart
from .measure import Spread, spread
from .prepare import Data
from .scenarios import EOMIRROR, EXACTLY_ONCE, GOALS, INTERVAL, SCENARIOS, Goal

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"

# name in the JSON: (heading, how one value is written)
FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "records_per_s": ("records/s", lambda value: f"{value:,.0f}".replace(",", " ")),
    "megabytes_per_s": ("MB/s", lambda value: f"{value:.1f}"),
    "cpu_per_million": ("replicator CPU s per million", lambda value: f"{value:.2f}"),
    "broker_cpu_per_million": ("brokers' CPU s per million", lambda value: f"{value:.2f}"),
    "commits_per_s": ("commits/s", lambda value: f"{value:.1f}"),
    "peak_rss": ("peak memory, MB", lambda value: f"{value / 1e6:.0f}"),
    "startup_s": ("start to first record, s", lambda value: f"{value:.1f}"),
    "other_cores": ("other processes' cores", lambda value: f"{value:.2f}"),
    "window_s": ("window, s", lambda value: f"{value:.1f}"),
    "p50_ms": ("p50, ms", lambda value: f"{value:.1f}"),
    "p99_ms": ("p99, ms", lambda value: f"{value:.1f}"),
    "p999_ms": ("p99.9, ms", lambda value: f"{value:.1f}"),
    "max_ms": ("max, ms", lambda value: f"{value:.1f}"),
    "internal_ratio": ("internal bytes per mirrored byte", lambda value: f"{value:.2f}"),
    "state_ratio": ("__transaction_state bytes per mirrored byte", lambda value: f"{value:.2f}"),
    "recovery_s": ("SIGKILL to progress, s", lambda value: f"{value:.1f}"),
}
COLUMNS = {
    "throughput": (
        *("records_per_s", "megabytes_per_s", "cpu_per_million", "broker_cpu_per_million"),
        *("commits_per_s", "peak_rss", "startup_s", "window_s", "other_cores"),
    ),
    "latency": (
        *("p50_ms", "p99_ms", "p999_ms", "max_ms", "cpu_per_million", "broker_cpu_per_million"),
        *("commits_per_s", "internal_ratio", "state_ratio", "peak_rss", "window_s", "other_cores"),
    ),
    "recovery": ("recovery_s",),
}
_HEAP = "MirrorMaker 2's peak memory is mostly its heap, which -Xms1g and -Xmx1g fix."
# Below a table: what its figures mean.
NOTES: dict[str, tuple[str, ...]] = {
    "throughput": (_HEAP, ""),
    "latency": (
        "Internal bytes are those that a replicator's own topics grow by on both clusters, and its commit and abort "
        "markers (78 bytes each) in the mirrored partitions of the target. Mirrored bytes are those of the records "
        "themselves (218 each). __transaction_state on the target is the broker's, and counted by itself.",
        "",
        _HEAP,
        "",
    ),
    "recovery": (),
}
DISTURBED = 0.2  # cores that processes beside brokers, replicator and benchmark have used
PERCENTILES = {"p50_ms": "p50", "p99_ms": "p99", "p999_ms": "p99.9", "max_ms": "max"}


def one_line(found: Mapping[str, Any]) -> str:
    """One round, for whoever watches."""
    took = f"({found['round_s']:.0f} s in all)"
    if "wrong" in found:
        return f"WRONG: {found['wrong']} {took}"
    shown = []
    for name, (heading, written) in FIGURES.items():
        value = found.get(name)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            shown.append(f"{heading} {' '.join(written(one) for one in values)}")
    return f"{', '.join(shown)} {took}"


def figure(system: Mapping[str, Any], name: str) -> Spread | None:
    """The median of a figure over a system's rounds, those that were wrong left out."""
    values: list[float | None] = []
    for found in system["rounds"]:
        value = None if "wrong" in found else found.get(name)
        values += value if isinstance(value, list) else [value]
    return spread(values)


def _system(scenario: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((one for one in scenario["systems"] if one["name"] == name), None)


def _median(scenario: Mapping[str, Any], system: str, name: str) -> float | None:
    entry = _system(scenario, system)
    found = None if entry is None else figure(entry, name)
    return None if found is None else found.median


def _absent(system: Mapping[str, Any]) -> str:
    """Why a system has no figure: it was wrong, or the run ended before its round."""
    return "no figure" if system["rounds"] else "-"


def _cell(name: str, found: Spread | None) -> str:
    """Median and range; with one round there is no range."""
    if found is None:
        return "-"
    written = FIGURES[name][1]
    median, least, most = map(written, (found.median, found.least, found.most))
    return median if least == most else f"{median} ({least} to {most})"


# -- goals -------------------------------------------------------------------------------------------------------------


def verdict(goal: Goal, scenario: Mapping[str, Any]) -> tuple[str, bool | None]:
    """What was reached, and whether it is enough."""
    ours, peer = _median(scenario, EOMIRROR, goal.figure), _median(scenario, EXACTLY_ONCE, goal.figure)
    met = goal.met(ours, peer)
    if met is None or ours is None:
        return "no figure", None
    if goal.kind == "most":
        return FIGURES[goal.figure][1](ours), met
    assert peer is not None
    return ratio(ours, peer), met


def ratio(ours: float, peer: float) -> str:
    """`7.9 x` or `1/31`."""
    if ours >= peer or ours == 0:
        return f"{ours / peer:.1f} x"
    return f"1/{peer / ours:.0f}" if peer / ours >= 10 else f"1/{peer / ours:.1f}"


def _goals(scenario: Mapping[str, Any]) -> list[str]:
    lines = []
    for goal in GOALS:
        if goal.scenario == scenario["name"] and goal.figure in COLUMNS[scenario["kind"]]:
            reached, met = verdict(goal, scenario)
            word = {True: "met", False: "**missed**", None: "not measured"}[met]
            lines.append(f"- {FIGURES[goal.figure][0]}: {reached}; goal {goal.text}: {word}")
    return lines


def _better_peer(scenario: Mapping[str, Any]) -> list[str]:
    """The faster one of MirrorMaker 2's exactly-once variants, for the goals are held against the default one."""
    speeds = {name: _median(scenario, name, "records_per_s") for name in (EXACTLY_ONCE, INTERVAL)}
    known = {name: speed for name, speed in speeds.items() if speed}
    if len(known) < len(speeds):
        return []
    name = max(known, key=known.__getitem__)
    system, ours = _system(scenario, name), _median(scenario, EOMIRROR, "records_per_s")
    assert system is not None
    beside = f"; eomirror: {ratio(ours, known[name])}" if ours else ""
    written = FIGURES["records_per_s"][1](known[name])
    return [f"- the faster exactly-once variant of MirrorMaker 2 is {system['title']}: {written} records/s{beside}"]


# -- the document ------------------------------------------------------------------------------------------------------


def markdown(result: Mapping[str, Any], charts: Mapping[str, str]) -> str:
    """The whole result; `charts` are file names by chart."""
    timing = result["timing"]
    lines = [f"# eomirror beside MirrorMaker 2, {result['finished'][:10]}", ""]
    if result["smoke"]:
        lines += ["**A smoke run: it shows that everything works. The figures mean nothing.**", ""]
    if result.get("incomplete"):
        lines += [f"**Incomplete: {result['incomplete']}**", ""]
    lines += [f"![{name}]({file})" for name, file in charts.items()]
    lines += ["", *_how(result, timing), ""]
    for scenario in result["scenarios"]:
        lines += _section(scenario)
    lines += ["## Settings", ""]
    for scenario in result["scenarios"]:
        for system in scenario["systems"]:
            lines += [f"<details><summary>{scenario['name']}: {system['title']}</summary>", ""]
            lines += ["```", system["settings"].rstrip(), "```", "", "</details>"]
    return "\n".join(lines) + "\n"


def _how(result: Mapping[str, Any], timing: Mapping[str, Any]) -> list[str]:
    machine = result["machine"]
    load = " ".join(str(one) for one in result["load_before"])
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    memory = f"{machine['memory_gib']} GiB, {machine['kernel']}"
    return [
        f"- machine: {machine['cpu']}, {machine['cores']} cores, {memory}; load before the run {load}",
        f"- versions: {versions}",
        f"- command: `{result['command']}`, {result['minutes']} minutes",
        f"- both brokers ({result['brokers']['heap_mb']} MB of heap each) and the replicator on this machine, one "
        "replicator at a time, each with targets of its own that are removed afterwards",
        f"- a round: from a commit seen on the target to the first one at least {timing['seconds']:g} s later (the "
        "window; of a stream, the last one within that time), after a warm-up of "
        f"{timing['warm_up']:g} s (MirrorMaker 2 and every stream: {timing['jvm_warm_up']:g} s) from the first record "
        "on. "
        f"{timing['rounds']} rounds of the main scenarios, interleaved; medians, with the range where there is one",
        "- before the first round of a prepared topic, and of a stream, eomirror and MirrorMaker 2 exactly-once mirror "
        f"it for {timing['rehearsal']:g} s each, so that the brokers are warm for both",
        "- every record of both sides is compared (order, timestamp, key, value, headers); a round whose output "
        "differs has no figure",
        "- CPU is user and system time of the whole process tree",
        *(
            f"- {', '.join(part['scenarios'])}: measured by eomirror {part['eomirror']}, done at {part['finished']}"
            for part in result.get("parts", ())
        ),
    ]


def _section(scenario: Mapping[str, Any]) -> list[str]:
    lines = [f"## {scenario['name']}: {scenario['title']}", ""]
    partitions = f"{scenario.get('partitions', Data.partitions)} partitions"  # older results do not say
    if scenario["prepared_records"]:
        size = f"{scenario['prepared_records']:,}".replace(",", " ")
        lines += [f"{scenario['data']}; {size} records prepared in {partitions}.", ""]
    else:
        lines += [f"218 B records in {partitions}, {scenario['rate']} per second, linger 0, acks 1.", ""]
    if scenario["note"]:
        lines += [scenario["note"], ""]
    columns = COLUMNS[scenario["kind"]]
    lines.append("| | " + " | ".join(FIGURES[name][0] for name in columns) + " | rounds |")
    lines.append("|---" * (len(columns) + 2) + "|")
    for system in scenario["systems"]:
        right = sum("wrong" not in found for found in system["rounds"])
        cells = [_cell(name, figure(system, name)) for name in columns]
        if right == 0 and system["rounds"]:
            cells = ["WRONG", *["-"] * (len(columns) - 1)]
        lines.append(f"| {system['title']} | " + " | ".join(cells) + f" | {right} of {len(system['rounds'])} |")
    lines += ["", *NOTES[scenario["kind"]]]
    for system in scenario["systems"]:
        for number, found in enumerate(system["rounds"], 1):
            if "wrong" in found:
                lines.append(f"- WRONG, {system['title']}: {found['wrong']}")
            elif found.get("other_cores", 0) > DISTURBED:
                cores = f"other processes used {found['other_cores']:.2f} cores"
                lines.append(f"- disturbed, {system['title']}, round {number}: {cores}")
    return [*lines, *_goals(scenario), *_better_peer(scenario), ""]


# -- charts ------------------------------------------------------------------------------------------------------------


def charts(result: Mapping[str, Any]) -> dict[str, str]:
    """Chart name -> SVG, of what was measured."""
    kinds = {kind: [one for one in result["scenarios"] if one["kind"] == kind] for kind in COLUMNS}
    series = list(dict.fromkeys(system["title"] for one in result["scenarios"] for system in one["systems"]))
    found = {}
    if kinds["throughput"]:
        note = "records/s, median and range of the rounds; longer is better"
        found["throughput"] = bar_chart("Throughput", note, _groups(kinds, "records_per_s"), series)
        note = "seconds per million records, median and range of the rounds; shorter is better"
        found["cpu"] = bar_chart("CPU of the replicator", note, _groups(kinds, "cpu_per_million"), series)
    if kinds["latency"]:
        groups = [
            Group(
                f"{one['title'].removesuffix(', one by one')}, {label}",
                tuple(_bar(system, name) for system in one["systems"]),
            )
            for one in kinds["latency"]
            for name, label in PERCENTILES.items()
        ]
        note = "ms from the producer's send to a read_committed reader's poll, logarithmic; shorter is better"
        found["latency"] = bar_chart("Latency", note, groups, series, logarithmic=True)
    return found


def _groups(kinds: Mapping[str, list[Mapping[str, Any]]], name: str) -> list[Group]:
    return [Group(one["title"], tuple(_bar(s, name) for s in one["systems"])) for one in kinds["throughput"]]


def _bar(system: Mapping[str, Any], name: str) -> Bar:
    found = figure(system, name)
    if found is None:
        return Bar(system["title"], None, _absent(system))
    return Bar(system["title"], found.median, FIGURES[name][1](found.median), found.least, found.most)


# -- README ------------------------------------------------------------------------------------------------------------


README_SECONDS = 30.0


def refusal(result: Mapping[str, Any]) -> str | None:
    """Why a result's table is not fit for the README; None if it is."""
    if result["smoke"]:
        return "a smoke run"
    if result["incomplete"]:
        return f"incomplete: {result['incomplete']}"
    if result["timing"]["seconds"] < README_SECONDS:
        return f"rounds of {result['timing']['seconds']:g} s, less than {README_SECONDS:g} s"
    there = {(one["name"], system["name"]) for one in result["scenarios"] for system in one["systems"]}
    wanted = [(one.name, system) for one in SCENARIOS for system in (EOMIRROR, EXACTLY_ONCE)]
    missing = [f"{name} by {system}" for name, system in wanted if (name, system) not in there]
    return f"without {', '.join(missing)}" if missing else None


def readme_table(result: Mapping[str, Any], where: str) -> str:
    """The README's table; `where` is the path of the whole result."""
    lines = ["| | eomirror | MirrorMaker 2, exactly-once | |", "|---|---|---|---|"]
    for scenario in result["scenarios"]:
        lines += [_row(scenario, name) for name in _shown(scenario["kind"])]
    machine = result["machine"]
    lines += [
        "",
        f"{result['finished'][:10]}, {machine['cpu']}, {machine['cores']} cores, both brokers and the replicator on "
        f"one machine. [The whole result]({where}), with settings, ranges and MirrorMaker 2 at-least-once.",
    ]
    return "\n".join(lines)


def _shown(kind: str) -> tuple[str, ...]:
    if kind == "throughput":
        return ("records_per_s", "cpu_per_million")
    return ("p50_ms", "p99_ms") if kind == "latency" else ("recovery_s",)


def _row(scenario: Mapping[str, Any], name: str) -> str:
    ours, peer = (_system(scenario, one) for one in (EOMIRROR, EXACTLY_ONCE))
    cells, medians = [], []
    for system in (ours, peer):
        found = None if system is None else figure(system, name)
        medians.append(found.median if found else None)
        cells.append(FIGURES[name][1](found.median) if found else ("-" if system is None else _absent(system)))
    times = ratio(medians[0], medians[1]) if medians[0] and medians[1] else ""
    return f"| {scenario['title']}: {FIGURES[name][0]} | {cells[0]} | {cells[1]} | {times} |"


def with_table(text: str, table: str) -> str:
    """The text with the table between its two markers. Raises ValueError if they are not there."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text needs {BEGIN} and {END}, once each and in this order")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"
