"""Draw the wings of the package and which imports which, from the table of the architecture test.

    python docs/tools/draw_wings.py

writes docs/images/wings.svg. A wing stands above everything that it may import, and an arrow that follows from others
is left out.
"""

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "wings.svg"
BOX_WIDTH, BOX_HEIGHT, COLUMN, FLOOR, MARGIN = 150, 34, 166, 84, 16
NAMES = {"scheduling_ddpm_cars": "scheduling_…", "pipeline_ddpm_cars": "pipeline_…", "errors": "errors.py"}

Table = Mapping[str, set[str]]
Slot = tuple[str, ...]
"""A place on a floor: a wing, (name,), or a bend of an arrow that passes the floor, (from, to, floor)."""


def read_table() -> dict[str, set[str]]:
    """Return which wing may import which, and on top the command line, which may import all."""
    sys.path.insert(0, str(ROOT))
    from tests.test_architecture import MAY_IMPORT

    table = {wing: set(others) for wing, others in sorted(MAY_IMPORT.items()) if wing != "__init__"}
    return {**table, "cli": {*table} - {"cli"}}


def below(table: Table, wing: str) -> set[str]:
    """Return all that a wing may import, itself or through others."""
    return set().union(*({other} | below(table, other) for other in table[wing]))


def needed(table: Table) -> dict[str, set[str]]:
    """Return the table without the arrows that follow from others."""
    return {wing: others - set().union(*(below(table, o) for o in others)) for wing, others in table.items()}


def floor_of(table: Table, wing: str) -> int:
    """Return how many wings stand below a wing, one upon the other."""
    return 1 + max((floor_of(table, other) for other in table[wing]), default=-1)


def paths(table: Table) -> list[list[Slot]]:
    """Return the slots that every arrow goes through, from its wing down to what that imports."""
    found = []
    for wing, others in needed(table).items():
        for other in sorted(others):
            between = range(floor_of(table, wing) - 1, floor_of(table, other), -1)
            found.append([(wing,), *((wing, other, str(floor)) for floor in between), (other,)])
    return found


def arrange(table: Table, arrows: list[list[Slot]]) -> dict[Slot, tuple[float, float]]:
    """Return the centre of every slot; each is moved towards the slots that its arrows lead to, again and again."""
    floors: dict[int, list[Slot]] = {}
    for slot in dict.fromkeys([*((wing,) for wing in table), *(slot for path in arrows for slot in path)]):
        floors.setdefault(int(slot[2]) if len(slot) == 3 else floor_of(table, slot[0]), []).append(slot)
    links = [(a, b) for path in arrows for a, b in itertools.pairwise(path)]
    neighbours = {
        slot: [b for pair in links if slot in pair for b in pair if b != slot]
        for row in floors.values()
        for slot in row
    }
    width = max(len(row) for row in floors.values()) * COLUMN
    x: dict[Slot, float] = {}

    def spread(row: list[Slot]) -> None:
        x.update({slot: MARGIN + width * (i + 0.5) / len(row) for i, slot in enumerate(row)})

    for row in floors.values():
        spread(row)
    for sweep in range(24):
        for floor in sorted(floors, reverse=bool(sweep % 2)):
            row = floors[floor]
            row.sort(key=lambda slot: sum(x[n] for n in neighbours[slot]) / max(1, len(neighbours[slot])))
            spread(row)
    top = max(floors)
    return {
        slot: (x[slot], MARGIN + BOX_HEIGHT / 2 + FLOOR * (top - floor))
        for floor, row in floors.items()
        for slot in row
    }


def draw(table: Table) -> str:
    """Return the picture as SVG."""
    arrows = paths(table)
    centre = arrange(table, arrows)
    width, height = (round(max(c[axis] for c in centre.values())) + MARGIN for axis in (0, 1))
    width, height = width + BOX_WIDTH // 2, height + BOX_HEIGHT // 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="sans-serif" font-size="15" text-anchor="middle">',
        "<title>The wings of ddpm_cars: each imports only what stands below it</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#f6f7f9"/>',
    ]
    for path in arrows:
        points = [centre[slot] for slot in path]
        (x, y), half = points[0], BOX_HEIGHT / 2
        way = f"M{x:.0f},{y + half:.0f}"
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            start, end, bend = y1 + half, y2 - half, (FLOOR - BOX_HEIGHT) / 2
            way += f" C{x1:.0f},{start + bend:.0f} {x2:.0f},{end - bend:.0f} {x2:.0f},{end:.0f}"
            if (x2, y2) != points[-1]:
                way += f" L{x2:.0f},{y2 + half:.0f}"
        lines.append(f'<path d="{way}" fill="none" stroke="#8a94a6" stroke-width="1.6"/>')
    for (wing, *_), (x, y) in ((slot, c) for slot, c in centre.items() if len(slot) == 1):
        corner = f'x="{x - BOX_WIDTH / 2:.0f}" y="{y - BOX_HEIGHT / 2:.0f}"'
        lines.append(
            f'<rect {corner} width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="#fff" stroke="#3d4a5c"/>'
            f'<text x="{x:.0f}" y="{y + 5:.0f}" fill="#1d2733">{NAMES.get(wing, wing)}</text>'
        )
    return "\n".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    PICTURE.write_text(draw(read_table()), encoding="utf-8")
    print(PICTURE)
