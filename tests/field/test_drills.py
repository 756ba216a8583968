"""What goes wrong in the field, with real processes: one federation of three honest SuperNodes and one malicious.

The drills run one after another over the same federation, since a start costs many seconds. Whoever is not hit finishes
the round, what happened is on record, nobody honest is convicted, and the authority forgets nothing.

``FAA_DRILL_SECONDS`` is what a phase of a round may take; raise it on a machine that has other things to do. With more
than the minute after which Flower calls a killed node offline, a round waits for it and does not go on without it.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.field.federation import AUTHORITY, SUPERLINK, Federation
from apps.field.keys import CA, CERTIFICATE, KEY, certify
from apps.field.verdicts import rounds_of
from apps.lab.running.processes import descendants
from apps.lab.running.superlink import RunError
from flwr_faa.authority.core import KeyAuthority
from flwr_faa.authority.store import Store

SECONDS = float(os.environ.get("FAA_DRILL_SECONDS", "90"))
HONEST, POISONER = ("a", "b", "c"), "p"


Verdicts = list[dict[str, tuple[str, str]]]


def told(api: str, rounds: int, clients: int = 4) -> str:
    """Overrides of a run in which everybody is challenged in every round."""
    patience = f"timeout={SECONDS} verification.enrol_timeout={SECONDS}"
    return f"strategy=fe api={api} rounds={rounds} min_clients={clients} {patience}"


def two_hours_ahead(folder: Path) -> dict[str, str]:
    """The environment of a process whose clock is two hours off."""
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


class Script:
    """What is done during a run: one thing after another, each when it is due."""

    def __init__(self, *steps: tuple[Callable[[], bool], Callable[[], Any]]) -> None:
        self.left = deque(steps)

    def __call__(self) -> None:
        while self.left and self.left[0][0]():
            self.left.popleft()[1]()


def logged(field: Federation, run: str, name: str, number: int, *words: str) -> Callable[[], bool]:
    """Whether a node has said this in a round, in this order: "Receiving: train", "Sending: query" and the like."""
    pattern = re.compile(".*?".join(words), re.DOTALL)
    start: list[int] = []  # where that round begins in its log, which does not always say

    def due() -> bool:
        if not start and recorded(field, run, number - 1)():
            start.append(len(field.said(name)))
        return bool(start) and pattern.search(field.said(name), start[0]) is not None

    return due


def recorded(field: Federation, run: str, number: int) -> Callable[[], bool]:
    return lambda: len(rounds_of(field.rounds(run))) >= number


def verdicts(field: Federation, run: str) -> Verdicts:
    """By round and node: outcome and reason."""
    return [
        {field.names[n["node_id"]]: (n["verdict"], n["reason"]) for n in report["nodes"]}
        for report in rounds_of(field.rounds(run))
    ]


def known(field: Federation) -> dict[str, int]:
    """What the authority has counted of every node's data."""
    store = Store(field.folder / AUTHORITY / "authority.db")
    store.check_log()
    authority = KeyAuthority(store)
    found = {name: authority.disclosure(i).max_rank for name, i in field.ids.items() if i in store.nodes()}
    store.close()
    return found


def check_nothing_is_lost(field: Federation, run: str) -> None:
    """What a report says is known of a node never shrinks, and the authority says no less at the end."""
    last: dict[int, int] = {}
    for report in rounds_of(field.rounds(run)):
        for node in report["disclosures"]:
            assert node["max_rank"] >= last.get(node["node_id"], 0), (report["round"], node)
            last[node["node_id"]] = node["max_rank"]
    now = known(field)
    assert last and all(now[field.names[node]] >= rank for node, rank in last.items())


def check_rejected(verdict: tuple[str, str], why: str) -> None:
    assert verdict[0] == "rejected" and why in verdict[1], verdict


def check_nobody_honest_is_convicted(found: Verdicts) -> None:
    for number, report in enumerate(found, 1):
        assert all(report[name][0] != "convicted" for name in HONEST if name in report), (number, report)


def who_has_no_registered_key_the_wrong_ca_or_the_wrong_time_stays_outside(field: Federation, tmp_path: Path) -> None:
    """While the others go on."""
    link = field.log(SUPERLINK)
    before = link.stat().st_size
    field.stop("c")
    certify(tmp_path, ["127.0.0.1"])
    field.start_node("stranger")
    field.start_node("astray", ca=tmp_path / CA)
    field.start_node("c", **two_hours_ahead(tmp_path))
    field.run("outside", told("message", rounds=1, clients=3), 60 * SECONDS)
    reasons = {"stranger": "Exit Code: 305|not registered|[Aa]uthenticat", "astray": "CERTIFICATE_VERIFY_FAILED"}
    for name, words in {**reasons, "c": "terminated"}.items():
        assert re.search(words, field.said(name)) and "SuperNode ID" not in field.said(name), name
        field.kill(name)
    assert b'activate-node HTTP/1.1" 401' in link.read_bytes()[before:]
    (one,) = verdicts(field, "outside")
    assert {name: verdict for name, (verdict, _) in one.items()} == {
        "a": "cleared",
        "b": "cleared",
        POISONER: "convicted",
    }
    check_nothing_is_lost(field, "outside")
    field.start_node("c")
    field.wait_online(["c"])


def two_nodes_answer_each_others_challenge(field: Federation, tmp_path: Path) -> None:
    """Key, data, checkpoints: between training and challenge, each is the other's device."""
    slices = field.folder / "slices"

    def swap() -> None:
        for one, other in ((field.folder / "a", field.folder / "b"), (slices / "0.npz", slices / "1.npz")):
            one.rename(tmp_path / "kept")
            other.rename(one)
            (tmp_path / "kept").rename(other)

    trained = [logged(field, "crossed", name, 1, "Sending: train", "Sent successfully") for name in ("a", "b")]
    script = Script((lambda: sum(due() for due in trained) == 2, swap), (recorded(field, "crossed", 1), swap))
    field.run("crossed", told("message", rounds=2), 60 * SECONDS, script)
    assert not script.left
    found = verdicts(field, "crossed")
    check_nobody_honest_is_convicted(found)
    one, two = found
    for name in ("a", "b"):
        assert one[name][0] == "missing" and "the client failed" in one[name][1], one[name]
        assert "expected a challenge on the data set that this node trains on" in field.log(name).read_text()
    assert one["c"][0] == "cleared" and one[POISONER][0] == "convicted"
    assert {name: two[name][0] for name in HONEST} == dict.fromkeys(HONEST, "cleared")
    check_nothing_is_lost(field, "crossed")


def supernodes_die_while_they_enrol_train_and_are_challenged(field: Federation, tmp_path: Path) -> None:
    """And come back with no slice, and with another node's."""

    def again(name: str, data: Path | None = None) -> None:
        field.kill(name)
        field.start_node(name, data)

    def both_again() -> None:
        again("c", field.folder / "slices" / "0.npz")
        field.stop("b")  # in order: it may come back at once
        field.start_node("b")

    script = Script(
        (lambda: "enrolment: binding" in field.said("c"), lambda: again("c")),
        (logged(field, "message", "b", 2, "Receiving: train"), lambda: again("b", tmp_path / "lost.npz")),
        (logged(field, "message", "c", 3, "Receiving: train", "Receiving: query"), both_again),
    )
    field.run("message", told("message", rounds=4), 60 * SECONDS, script)
    assert not script.left
    found = verdicts(field, "message")
    check_nobody_honest_is_convicted(found)
    one, two, three, four = found
    check_rejected(one["c"], "not enrolled: no answer in time")
    assert one[POISONER][0] == "convicted" and "does not end at the update that was sent" in one[POISONER][1]
    check_rejected(two["c"], "asked again in 1 rounds")  # the others are a majority, and go on without it
    check_rejected(two["b"], "no reply in time")
    check_rejected(three["b"], "the client failed")
    assert "got FileNotFoundError(2, 'No such file or directory')" in field.log("b").read_text()
    assert three["c"][0] == "missing" and "no answer in time" in three["c"][1]
    assert {name: four[name][0] for name in HONEST} == dict.fromkeys(HONEST, "cleared")
    assert one["a"][0] == one["b"][0] == two["a"][0] == three["a"][0] == "cleared"
    check_nothing_is_lost(field, "message")


class FullDisk:
    """A disk of 4 kB under a folder, where root may mount one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder]
        self.mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    def free(self) -> None:
        """Take it away, once."""
        if self.mounted and os.path.ismount(self._folder):
            subprocess.run(["umount", "--lazy", self._folder], check=True)


def the_authority_dies_is_away_and_is_two_hours_off(field: Federation, tmp_path: Path) -> None:
    """And the SuperLink has been restarted before, and a disk is full."""
    ids, disk = dict(field.ids), FullDisk(field.folder / "c" / "checkpoints")
    field.stop(SUPERLINK)
    field.start_superlink()
    before = known(field)

    def restart(**more: str) -> None:
        if field.running(AUTHORITY):
            field.kill(AUTHORITY)
        field.start_authority(**more)

    def room_and_no_authority() -> None:
        disk.free()
        field.kill(AUTHORITY)

    script = Script(
        (logged(field, "legacy", "a", 1, "Receiving: train", "Receiving: get_properties"), restart),
        (recorded(field, "legacy", 1), room_and_no_authority),
        (recorded(field, "legacy", 2), lambda: restart(**two_hours_ahead(tmp_path))),
        (recorded(field, "legacy", 3), restart),
    )
    with disk:
        field.run("legacy", told("legacy", rounds=4), 60 * SECONDS, script)
    assert not script.left
    found = verdicts(field, "legacy")
    check_nobody_honest_is_convicted(found)
    assert found[0].keys() == ids.keys()  # the same nodes, by the same ids, under a new SuperLink
    one, two, three, four = found
    if disk.mounted:
        check_rejected(one["c"], "or the client failed")
        assert "No space left on device" in field.log("c").read_text()
    assert one["a"][0] in ("cleared", "exhausted") and one["b"][0] in ("cleared", "exhausted")
    for report in (two, three):
        for name in HONEST:
            assert report[name][0] == "exhausted" and "no authority to ask" in report[name][1], report[name]
    assert "expected a request of the last 300 s" in three["a"][1]
    assert {name: four[name][0] for name in HONEST} == dict.fromkeys(HONEST, "cleared")
    assert [name for report in found for name, (verdict, _) in report.items() if verdict == "convicted"] == [POISONER]
    assert not any("strike" in reason for report in found for _, reason in report.values())
    check_nothing_is_lost(field, "legacy")
    assert all(rank >= before.get(name, 0) for name, rank in known(field).items())


def an_expired_certificate_lets_nobody_in_until_it_is_renewed(field: Federation, tmp_path: Path) -> None:
    """The next drill shows that all are back."""
    field.stop("c")
    field.stop(SUPERLINK)
    folder, files = field.folder / SUPERLINK, (CA, CERTIFICATE, KEY)
    for name in files:
        (folder / name).rename(tmp_path / name)
    certify(folder, ["127.0.0.1"], datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1))
    field.start_superlink(wait=False)
    field.start_node("c")
    field.wait_until("c", lambda: "certificate has expired" in field.said("c"))
    assert "SuperNode ID" not in field.said("c")
    field.kill("c")
    field.stop(SUPERLINK)
    for name in files:
        (tmp_path / name).replace(folder / name)
    field.start_superlink()
    field.start_node("c")
    field.wait_online(["c"])


DRILLS = (
    supernodes_die_while_they_enrol_train_and_are_challenged,
    who_has_no_registered_key_the_wrong_ca_or_the_wrong_time_stays_outside,
    two_nodes_answer_each_others_challenge,
    an_expired_certificate_lets_nobody_in_until_it_is_renewed,
    the_authority_dies_is_away_and_is_two_hours_off,
)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FAA_DRILLS"), reason="minutes of two cores: `make drills`")
@pytest.mark.timeout(100 * SECONDS)
def test_drills(tmp_path: Path) -> None:
    """One test, since pytest-xdist would deal several out to two federations at once."""
    before, failures = descendants(os.getpid()), []
    attacks = {**dict.fromkeys(HONEST, ""), POISONER: "sign_flip"}
    # eight pixels by eight, whose budget one check would spend: here everything may be known
    lab = "dataset=digits partition=iid model=logistic"
    with Federation(tmp_path / "field", attacks, lab, samples=150, budget=1.0, encrypted=True) as field:
        field.start_nodes()
        for drill in DRILLS:
            (folder := tmp_path / drill.__name__).mkdir()
            try:
                for name in attacks:  # whatever the last one left
                    if not field.running(name):
                        field.start_node(name)
                drill(field, folder)
            except (AssertionError, KeyError, RunError, OSError) as error:
                error.add_note(drill.__name__)
                failures.append(error)
    assert descendants(os.getpid()) == before
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(DRILLS)} drills failed", failures)
