"""The policy of CUDA graphs: plain, captured at the second run, launched from the third; few are kept."""

from __future__ import annotations

from glip_export.runtime.cuda.graphs import REMEMBERED, Captured, GraphCache


class Log:
    def __init__(self, limit: int) -> None:
        self.cache = GraphCache(limit)
        self.words: list[str] = []
        self.trouble = ""

    def run(self, key: str) -> str:
        def capture() -> tuple[Captured | None, str]:
            self.words.append(f"capture {key}")
            if self.trouble:
                return None, self.trouble
            return Captured(lambda: self.words.append(f"launch {key}"), lambda: self.words.append(f"free {key}")), ""

        self.words.clear()
        self.cache.run(key, lambda: self.words.append(f"plain {key}"), capture)
        return ", ".join(self.words)


def test_plain_then_captured_then_launched() -> None:
    log = Log(2)
    assert [log.run("a") for _ in range(4)] == ["plain a", "capture a", "launch a", "launch a"]
    assert len(log.cache) == 1


def test_the_one_used_longest_ago_goes() -> None:
    log = Log(2)
    for key in "aabbcc":
        last = log.run(key)
    assert last == "capture c, free a"
    assert log.run("b") == "launch b"
    assert log.run("a") == "plain a"  # from the start
    assert log.run("a") == "capture a, free c"


def test_no_limit_no_graphs() -> None:
    log = Log(0)
    assert {log.run("a") for _ in range(5)} == {"plain a"}


def test_shapes_that_come_once_are_forgotten() -> None:
    log = Log(1)
    log.run("a")
    for index in range(REMEMBERED):
        assert log.run(str(index)) == f"plain {index}"
    assert log.run("a") == "plain a"


def test_after_a_capture_that_failed_all_is_plain() -> None:
    log = Log(2)
    for key in "aa":
        log.run(key)
    log.run("b")
    log.trouble = "refused"
    assert log.run("b") == "capture b"
    log.trouble = ""
    assert [log.run("b"), log.run("b"), log.run("a")] == ["plain b", "plain b", "launch a"]
    assert log.cache.trouble == "refused"


def test_clear_frees_all() -> None:
    log = Log(3)
    for key in "aabb":
        log.run(key)
    log.words.clear()
    log.cache.clear()
    assert sorted(log.words) == ["free a", "free b"] and len(log.cache) == 0
    assert log.run("a") == "plain a"
