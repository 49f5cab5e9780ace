"""Measuring alternately, ratios within rounds, and tables."""

from functools import partial

from benchmarks import measure


def test_the_benchmark_measures_alternately_and_compares_within_rounds():
    calls: list[str] = []
    figures = {"stock": iter([2.0, 9.0, 4.0]), "ours": iter([1.0, 3.0, 4.0])}

    def figure(name: str) -> float:
        calls.append(name)
        return next(figures[name])

    measured = measure.alternate({name: partial(figure, name) for name in figures}, 3, "measuring")
    assert calls == ["stock", "ours"] * 3
    assert measured == {"stock": [2, 9, 4], "ours": [1, 3, 4]}
    assert measure.ratio(measured["stock"], measured["ours"]) == {"median": 2, "min": 1, "max": 3}
    rows = [{"a": "x", "b": measure.spread([3, 1.004, 2])}, {"a": "y", "c": 1}]
    assert measure.table(rows).splitlines()[2:] == ["| x | 2 (1.0..3) |  |", "| y |  | 1 |"]
