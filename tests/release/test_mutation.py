"""The mutation score: which tests are tried, in which order, and how survivors are counted and judged."""

import yaml

from apps.release.mutation import JUDGED, PACKAGES, ROOT, Mutant, differing, files, ordered, table


def mutant(line: int, outcome: str, before: str = "a = 1", after: str = "a = 2") -> Mutant:
    return Mutant("crypto", "flwr_faa/crypto/dlog.py", line, 0, "NumberReplacer", "", outcome, before, after)


def test_the_tests_of_the_module_come_first_and_all_of_its_package_are_there() -> None:
    tried = ordered("crypto", "flwr_faa/crypto/dlog.py")
    assert tried[0] == "tests/crypto/test_dlog.py"
    assert {f for f in files(["tests/crypto"]) if "/test_" in f} <= set(tried)
    assert "tests/strategies/test_observe.py" in ordered("pipeline", "flwr_faa/pipeline.py")


def test_every_file_of_a_package_has_tests() -> None:
    for package, (places, _) in PACKAGES.items():
        assert all(ordered(package, file) for file in files(places))


def test_equivalent_survivors_are_counted_apart_and_all_are_listed() -> None:
    judged = [{"file": "flwr_faa/crypto/dlog.py", "before": "a = 1", "after": "a = 2", "equivalent": True, "why": "x"}]
    found = [mutant(1, "killed"), mutant(2, "timeout"), mutant(3, "survived"), mutant(4, "survived", "b = 1|2", "b")]
    told = table({"crypto": 100}, found, judged)
    assert "| crypto | 100 | 4 | 2 | 50% | 67% |" in told and "| all | 100 | 4 | 2 | 50% | 67% |" in told
    assert "| `a = 1` | `a = 2` | equivalent: x |" in told and r"| `b = 1\|2` | `b` | not judged yet |" in told


def test_the_lines_that_differ_are_told() -> None:
    assert differing("a\n  b = 1\nc", "a\n  b = 2\nc") == ("b = 1", "b = 2")


def test_what_was_judged_is_code_of_today() -> None:
    for entry in yaml.safe_load(JUDGED.read_text()):
        lines = [line.strip() for line in (ROOT / entry["file"]).read_text().splitlines()]
        assert entry["before"].split("\n")[0] in lines, f"{entry['file']} has no line {entry['before']!r}"
