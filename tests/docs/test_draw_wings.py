"""The picture of the wings is that of the table, and leaves out only arrows that follow from others."""

from docs.tools import draw_wings


def test_the_picture_is_that_of_the_table():
    drawn = draw_wings.draw(draw_wings.read_table())
    assert draw_wings.PICTURE.read_text(encoding="utf-8") == drawn, "python docs/tools/draw_wings.py draws it anew"


def test_arrows_that_follow_from_others_are_left_out():
    table = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert draw_wings.needed(table) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert draw_wings.paths({"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()})[:2] == [
        [("a",), ("b",)],
        [("a",), ("a", "d", "1"), ("d",)],
    ]


def test_a_wing_stands_above_what_it_imports():
    table = draw_wings.read_table()
    centre = draw_wings.arrange(table, draw_wings.paths(table))
    for wing, others in table.items():
        assert all(centre[wing,][1] < centre[other,][1] for other in others)
