"""What is in the database after a run of `benchmarks.cluster`, against what clients were shown."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import trio

from benchmarks.cluster_app import text_of
from benchmarks.cluster_clients import PLAIN, Record, Sent

JOURNAL_INTERVAL = 0.5
SLACK = 0.75
"""What a checkpoint may take beyond its interval on a busy machine, in seconds."""

LOOK_INTERVAL = 0.1
SEEN_LATE = 2.0
"""Seconds after the end that a client was told of, when the record of the turn has to be gone."""


@dataclass(eq=False)
class Fault:
    """Something that was done to the system."""

    name: str
    begun: float
    dead: set[str] = field(default_factory=set)
    """The nodes whose turns others may settle because of it."""
    ending: set[str] = field(default_factory=set)
    """The nodes that were asked to end."""
    ended: float = float("inf")
    loses_connections: set[str] = field(default_factory=set)
    """The nodes that lost connections; one that can't renew its lease for 2 s counts as dead."""
    is_total: bool = False
    """Whether no node was left that could have settled anything before the end."""

    @property
    def can_be_mended_at(self) -> float:
        return self.ended if self.is_total else self.begun

    def excuses(self, node: str, since: float) -> bool:
        """Whether a node may have lost what clients were shown since then."""
        age = self.begun - since
        return node in self.dead | self.loses_connections and age <= JOURNAL_INTERVAL + SLACK


@dataclass
class Lives:
    """Which turns were live when, as the database had it, past all proxies."""

    nodes: dict[str, str] = field(default_factory=dict)
    """The node of each turn."""
    seen_at: dict[str, float] = field(default_factory=dict)
    gone_at: dict[str, float] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    held_up: list[float] = field(default_factory=list)
    """For how long each look was late: what the machine kept from this process."""

    async def watch(self, url: str) -> None:
        """Look until cancelled."""
        while True:
            try:
                with psycopg.connect(url, autocommit=True) as connection:
                    while True:
                        self._look(connection)
                        due = time.monotonic() + LOOK_INTERVAL
                        await trio.sleep(LOOK_INTERVAL)
                        self.held_up.append(time.monotonic() - due)
            except psycopg.Error:
                await trio.sleep(LOOK_INTERVAL)

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        # A hundred rows from a socket on this machine: not worth a thread.
        rows = connection.execute("SELECT id, node FROM chatkit_trio.turns").fetchall()
        now = time.monotonic()
        live = {turn_id for turn_id, _ in rows}
        self.nodes |= dict(rows)
        for turn_id in live - self.live:
            self.seen_at[turn_id] = now
        for turn_id in self.live - live:
            self.gone_at[turn_id] = now
        self.live = live

    def turns_of(self, nodes: Iterable[str], at: float) -> list[str]:
        """Return the turns of these nodes that were live at a time."""
        held = set(nodes)
        return [
            turn_id
            for turn_id, seen in self.seen_at.items()
            if self.nodes[turn_id] in held and seen <= at <= self.gone_at.get(turn_id, float("inf"))
        ]


@dataclass
class Findings:
    """What was found; all of `wrong` has to be empty."""

    wrong: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    settled: dict[str, list[float]] = field(default_factory=dict)
    """For each fault that kills: how long after it each turn of the dead nodes was settled.

    After its end if nobody could have done it before.
    """
    evidence: list[str] = field(default_factory=list)
    """Threads that something is wrong with, item by item."""
    oldest_lost: dict[str, float] = field(default_factory=dict)
    """For each fault: how long before it the oldest text had been shown that it has cost."""

    def add(self, kind: str, what: str) -> None:
        self.wrong.setdefault(kind, []).append(what)

    def number(self, kind: str) -> int:
        return len(self.wrong.get(kind, ()))


Items = list[dict[str, Any]]


def threads_in(url: str) -> dict[str, Items]:
    """Return the items of each thread, in order."""
    threads: dict[str, Items] = {}
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT threads.id, items.data FROM chatkit_trio.threads"
            " LEFT JOIN chatkit_trio.items ON items.thread = threads.seq"
            " ORDER BY threads.seq, items.seq"
        )
        for thread_id, data in rows:
            items = threads.setdefault(thread_id, [])
            if data is not None:
                items.append(json.loads(data))
    return threads


def left_in(url: str) -> dict[str, int]:
    """Return how many turns and places in lines there still are."""
    with psycopg.connect(url) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM chatkit_trio.{table}").fetchone()[0]  # type: ignore
            for table in ("turns", "places")
        }


class Judge:
    """Compares the database with what clients have done and seen."""

    def __init__(self, record: Record, lives: Lives, faults: Sequence[Fault], lease: float) -> None:
        self._record = record
        self._lives = lives
        self._faults = faults
        self._lease = lease
        self._sent = {sent.label: sent for sent in record.messages}
        self.found = Findings()
        self._wrong = 0

    def judge(self, url: str) -> Findings:
        threads = threads_in(url)
        for table, count in left_in(url).items():
            if count:
                self.found.add("left over", f"{count} rows in {table}")
        for what in self._record.faults:
            self.found.add("wrong to a client", what)
        stored: dict[str, list[str]] = {}
        for thread_id, items in threads.items():
            for label in self._judge_thread(thread_id, items):
                stored.setdefault(label, []).append(thread_id)
            if "interleaved" in self.found.wrong or "doubled" in self.found.wrong:
                self._keep_evidence(thread_id, items)
        for label, places in stored.items():
            if len(places) > 1:
                self.found.add("doubled", f"message {label} is there {len(places)} times")
        for label, sent in self._sent.items():
            self.found.counts["accepted"] += sent.is_accepted
            if sent.is_accepted and label not in stored:
                self.found.add("lost", f"message {label} of {sent.way}")
        self._judge_settling()
        return self.found

    def _judge_thread(self, thread_id: str, items: Items) -> list[str]:
        """Judge the turns of a thread one after the other; return its messages' labels."""
        groups: list[tuple[Sent, Items]] = []
        by_turn = {sent.turn_id: sent.label for sent in self._record.messages if sent.turn_id}
        labels: list[str] = []
        for item in items:
            label = _label(item) or by_turn.get((item.get("ending") or {}).get("turn_id", ""))
            if item["type"] == "user_message":
                assert label is not None
                labels.append(label)
                groups.append((self._sent[label], []))
            elif not groups or (label is not None and label != groups[-1][0].label):
                last = groups[-1][0].label if groups else None
                self.found.add("interleaved", f"{item['type']} of {label} behind {last}")
            else:
                groups[-1][1].append(item)
        numbers = [int(sent.label.split(".")[1]) for sent, _ in groups if sent.way not in PLAIN]
        if numbers != sorted(numbers):
            self.found.add("interleaved", f"{thread_id}: messages in the order {numbers}")
        for sent, answer in groups:
            self._judge_turn(sent, answer)
        return labels

    def _keep_evidence(self, thread_id: str, items: Items) -> None:
        """Keep a thread that something was found wrong with since the last time."""
        number = self.found.number("interleaved") + self.found.number("doubled")
        if number == self._wrong:
            return
        self._wrong = number
        lines = [f"thread {thread_id}"]
        for item in items:
            label = _label(item) or (item.get("ending") or {}).get("turn_id", "")
            sent = self._sent.get(label)
            about = f"{sent.way} {sent.turn_id} {sent.end_reason}" if sent is not None else ""
            text = item["content"] if item["type"] != "user_message" else ""
            text = text[0]["text"][-30:] if isinstance(text, list) and text else ""
            lines.append(
                f"  {item['created_at']} {item['type']} {item['id']} {label} {text!r} {about}"
            )
        self.found.evidence.append("\n".join(lines))

    def _judge_turn(self, sent: Sent, items: Items) -> None:
        found, label = self.found, sent.label
        answers = [item for item in items if item["type"] == "assistant_message"]
        notes = [item for item in items if item["type"] == "sdk_hidden_context"]
        if len(notes) > 1:
            found.add("doubled", f"{len(notes)} notes of {label}: {[n['ending'] for n in notes]}")
        if notes and items[-1] is not notes[-1]:
            found.add("interleaved", f"the note of {label} isn't the last of its items")
        texts = {item["id"]: item["content"][0]["text"] for item in answers}
        parts = [_part(text) for text in texts.values() if text]
        if len(set(parts)) < len(parts):
            found.add("doubled", f"the answer of {label} has the parts {parts}")
        elif parts != list(range(len(parts))):
            found.add("lost", f"the answer of {label} has the parts {parts}")
        whole = 0
        for text in texts.values():
            full = text_of(label, _part(text), sent.command["pieces"]) if text else ""
            whole += text == full and bool(full)
            if not full.startswith(text):
                found.add("not a prefix", f"{label}: {text!r}")
        is_whole = whole == sent.command["parts"]
        reason = notes[0]["ending"]["reason"] if notes else "finished"
        found.reasons[reason] += 1
        turn_id = notes[0]["ending"]["turn_id"] if notes else sent.turn_id
        node = self._lives.nodes.get(turn_id, sent.node)
        if not notes and not is_whole:
            found.add("cut without a note", f"{label} ({sent.way}) has {whole} parts of all")
        if sent.end_reason not in ("", "over", reason) and not (
            is_whole and sent.end_reason == "finished"
        ):
            found.add(
                "untrue reason",
                f"{label} was told {sent.end_reason} by {sent.how or 'its stream'}, its note says"
                f" {reason}",
            )
        if notes and not self._is_true(reason, sent, node):
            self._trace(sent, "untrue reason")
            when = [f"{fault.name} {sent.at - fault.begun:+.1f}" for fault in self._faults]
            found.add("untrue reason", f"{label} ({sent.way}): {reason}, {turn_id} {node} {when}")
        self._judge_shown(sent, texts, reason, node)
        gone_at = self._lives.gone_at.get(turn_id, 0.0)
        # A node that can't reach the store tells that it has ended the turn before anybody can
        # settle it; to a client that can't come back it only ends the stream.
        is_lost = sent.end_reason == "crashed" or (reason == "crashed" and sent.way in PLAIN)
        if not is_lost and sent.is_over and gone_at > sent.over_at + SEEN_LATE:
            self._trace(sent, "over too early")
            found.add(
                "over too early",
                f"{label}: told {sent.end_reason} by {sent.how or 'its stream'}"
                f" {gone_at - sent.over_at:.1f} s before the end",
            )

    def _is_true(self, reason: str, sent: Sent, node: str) -> bool:
        if reason in sent.asked:
            return True
        until = sent.over_at if sent.is_over else time.monotonic()
        for fault in self._faults:
            if not sent.at <= fault.ended or fault.begun > until:
                continue
            if reason == "shutdown" and node in fault.ending:
                return True
            # What a turn sees of a connection that Hypercorn cuts at its end.
            if reason == "disconnected" and sent.way in PLAIN and node in fault.ending:
                return True
            if reason == "crashed" and node in fault.dead:
                return True
            if reason == "crashed" and node in fault.loses_connections:
                self.found.counts["cut by lost connections"] += 1
                return True
        return False

    def _judge_shown(self, sent: Sent, texts: dict[str, str], reason: str, node: str) -> None:
        """Look for text that was shown and isn't stored."""
        lost: list[float] = []
        for item_id, shown in sent.texts.items():
            stored = texts.get(item_id, "")
            if not stored.startswith(shown):
                lost += [
                    at for at, id_, size in sent.shown if id_ == item_id and size > len(stored)
                ]
        if lost:
            excuses = [
                fault for fault in self._faults if fault.excuses(node, min(lost))
                and min(lost) <= fault.ended + self._lease
            ]  # fmt: skip
            if reason != "crashed" or not excuses:
                ages = [f"{fault.name} {fault.begun - min(lost):.2f}" for fault in self._faults]
                found = f"{sent.label} ({sent.way}, {reason}, {node[:9]}): {ages}"
                self.found.add("shown and not stored", found)
            for fault in excuses[:1]:
                age = fault.begun - min(lost)
                known = self.found.oldest_lost.get(fault.name, age)
                self.found.oldest_lost[fault.name] = max(known, age)
                self.found.counts["answers with lost text"] += 1
        elif sent.loaded and reason != "crashed":
            missing = {id_: text[-30:] for id_, text in sent.loaded[0].items()}
            self._trace(sent, "stale read")
            self.found.add("stale read", f"{sent.label} ({sent.way}, {reason}): {missing}")

    def _trace(self, sent: Sent, found: str) -> None:
        """Keep what the client had asked, for the log."""
        trace = self._record.traces.get(int(sent.label.split(".")[0]), [])
        gone_at = self._lives.gone_at.get(sent.turn_id, 0.0)
        seen_at = self._lives.seen_at.get(sent.turn_id, 0.0)
        node = self._lives.nodes.get(sent.turn_id, "")[5:9]
        about = f"{sent.turn_id} of {node} sent {sent.at:.2f} live {seen_at:.2f} to {gone_at:.2f}"
        faults = [f"{each.name} {each.begun:.2f} to {each.ended:.2f}" for each in self._faults]
        lines = [f"{found} {sent.label}", about, *faults, *trace]
        self.found.evidence.append("\n  ".join(lines))

    def _judge_settling(self) -> None:
        """See how long the turns of dead nodes were left."""
        for fault in self._faults:
            if not fault.dead:
                continue
            seconds = [
                self._lives.gone_at.get(turn_id, float("inf")) - fault.can_be_mended_at
                for turn_id in self._lives.turns_of(fault.dead, fault.begun)
            ]
            self.found.settled[fault.name] = seconds
            late = [each for each in seconds if each > self._lease + 2 + 2 * LOOK_INTERVAL]
            if late:
                found = f"{len(late)} turns after {fault.name}, the last after {max(late):.1f} s"
                self.found.add("settled too late", found)


def _label(item: dict[str, Any]) -> str | None:
    if item["type"] == "user_message":
        label: str = json.loads(item["content"][0]["text"])["label"]
        return label
    if item["type"] == "assistant_message" and item["content"]:
        return item["content"][0]["text"].partition(":")[0] or None
    return None


def _part(text: str) -> int:
    return int(text.split(":")[1])
