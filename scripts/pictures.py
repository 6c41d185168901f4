"""Draw docs/pictures/*.toml as SVG: two kinds of pictures, `hexagon` and `sequence`. `make docs` writes them.

The colours follow the reader's choice of light or dark; the paper is part of the picture, so that the words can
be read on any page. Coordinates are in pixels.
"""

import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

WIDTH: Final = 800
LINE: Final = 17
"""Between two lines of text."""
LETTER: Final = 7.2
"""How wide a letter is taken to be: about what it is in the widest of the fonts that may be found, DejaVu Sans."""
BOLD: Final = 8.0

STYLE: Final = """
  svg { --paper: #ffffff; --edge: #d5dae1; --ink: #1c2733; --dim: #5b6875; --one: #e8f0fe; --one-edge: #5b8def;
    --two: #fdf3dc; --two-edge: #d99b1c; --box: #f5f7f9; --box-edge: #b4bec9; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #1a1d21; --edge: #33393f; --ink: #e6eaee; --dim: #a0abb6; --one: #1d2b45; --one-edge: #6b9bf5;
      --two: #3a2f17; --two-edge: #e0ad43; --box: #23282d; --box-edge: #56616c; }
  }
  text { font: 12.5px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: var(--ink); }
  .code { font: 12px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
  .name { font-weight: 600; }
  .dim { fill: var(--dim); }
  .paper { fill: var(--paper); stroke: var(--edge); }
  .one { fill: var(--one); stroke: var(--one-edge); stroke-width: 1.5; }
  .two { fill: var(--two); stroke: var(--two-edge); stroke-width: 1.5; }
  .box { fill: var(--box); stroke: var(--box-edge); }
  .label { fill: var(--paper); }
  .line { stroke: var(--dim); fill: none; stroke-width: 1.3; }
  .life { stroke: var(--box-edge); stroke-dasharray: 2 4; }
  .back { stroke-dasharray: 6 4; }
  .head { fill: var(--dim); }
"""


class CannotDraw(Exception):
    """A picture's text does not say what can be drawn; the message says why."""


def text(x: float, y: float, words: str, *kinds: str, anchor: str = "middle") -> str:
    named = f' class="{" ".join(kinds)}"' if kinds else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{named}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "box") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{kind}"/>'


def arrow(x1: float, y1: float, x2: float, y2: float, *kinds: str) -> str:
    named = " ".join(("line", *kinds))
    return f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" class="{named}" marker-end="url(#head)"/>'


def polygon(points: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<polygon points="{" ".join(f"{x:g},{y:g}" for x, y in points)}" class="{kind}"/>'


def fitting(words: str, room: float, letter: float = LETTER) -> str:
    """Give the words; raises `CannotDraw` where they need more than `room`."""
    if len(words) * letter > room:
        raise CannotDraw(f"{words!r} needs about {len(words) * letter:.0f} pixels of {room:.0f}")
    return words


def framed(picture: Mapping[str, Any], height: float, drawn: Sequence[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    title = quoteattr(picture["title"])
    head = '<marker id="head" viewBox="0 0 8 8" refX="7.4" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={title}>',
            f"<title>{escape(picture['title'])}</title>",
            f"<desc>{escape(picture['description'])}</desc>",
            f"<style>{STYLE}</style>",
            f'<defs>{head}<path d="M0 0.6L7.6 4L0 7.4z" class="head"/></marker></defs>',
            box(0.5, 0.5, WIDTH - 1, height - 1, "paper"),
            *drawn,
            "</svg>\n",
        )
    )


# --- the hexagon ------------------------------------------------------------------------------------

MIDDLE: Final = (WIDTH / 2, 282.0)
HALF: Final = (226.0, 202.0)
"""From the middle of the hexagon to its side corner, and to its upper edge."""
SHOULDER: Final = 122.0
"""From the middle to where the upper edge ends."""
SIDE_BOX: Final = (154.0, 70.0)
MARGIN: Final = 14.0


def hexagon_points(grown: float = 1.0) -> list[tuple[float, float]]:
    (x, y), (wide, high), shoulder = MIDDLE, HALF, SHOULDER
    corners = [
        (-wide, 0.0), (-shoulder, -high), (shoulder, -high), (wide, 0.0), (shoulder, high), (-shoulder, high),
    ]  # fmt: skip
    return [(x + dx * grown, y + dy * grown) for dx, dy in corners]


def reach(y: float) -> float:
    """Tell how far the hexagon reaches from its middle to either side, at a height."""
    return HALF[0] - abs(y - MIDDLE[1]) / HALF[1] * (HALF[0] - SHOULDER)


def rows(names: Sequence[str]) -> dict[str, float]:
    step = 46.0
    first = MIDDLE[1] - step * (len(names) - 1) / 2 + 6
    return {name: first + place * step for place, name in enumerate(names)}


def side(boxes: Sequence[Mapping[str, Any]], targets: Mapping[str, float], *, left: bool) -> Iterator[str]:
    """Draw the boxes of one side, one below the other, and their arrows to what they lead to."""
    wide, high = SIDE_BOX
    x = MARGIN if left else WIDTH - MARGIN - wide
    y = MIDDLE[1] + 6 - (len(boxes) * (high + MARGIN) - MARGIN) / 2
    for one in boxes:
        missing = [name for name in one["to"] if name not in targets]
        if missing:
            raise CannotDraw(f"{one['name']!r} leads to {missing[0]!r}, which is not there")
        top = y + high / 2 - len(one["lines"]) * LINE / 2 + 4
        yield box(x, y, wide, high)
        yield text(x + wide / 2, top, fitting(one["name"], wide, BOLD), "name")
        for number, line in enumerate(one["lines"], start=1):
            yield text(x + wide / 2, top + number * LINE, fitting(line, wide), "dim")
        for target in (targets[name] for name in one["to"]):
            start = min(max(target, y + 14), y + high - 14)
            if left:
                yield arrow(x + wide, start, MIDDLE[0] - reach(target) - 1, target)
            else:
                yield arrow(x, start, MIDDLE[0] + reach(target) + 1, target)
        y += high + MARGIN


def hexagon(picture: Mapping[str, Any]) -> str:
    """Draw the domain in the application, entrypoints to the left, adapters to the right."""
    (x, y), (_, high) = MIDDLE, HALF
    application, domain, container = picture["application"], picture["domain"], picture["container"]
    drawn = [polygon(hexagon_points(), "one"), polygon(hexagon_points(0.4), "two")]
    drawn.append(text(x, y - high + 24, application["name"], "name"))
    for key, left in (("left", True), ("right", False)):
        sign = -1 if left else 1
        targets = rows(application[key])
        first = min(targets.values())
        drawn.append(
            text(
                x + sign * (reach(first - 30) - 12),
                first - 26,
                application[f"{key}_title"],
                "dim",
                anchor="start" if left else "end",
            )
        )
        drawn += [
            text(x + sign * (reach(place) - 12), place + 4, name, "code", anchor="start" if left else "end")
            for name, place in targets.items()
        ]
        drawn += side(picture["entrypoint" if left else "adapter"], targets, left=left)
    lines = domain["lines"]
    top = y - len(lines) * LINE / 2
    drawn.append(text(x, top, domain["name"], "name"))
    drawn += [text(x, top + number * LINE, fitting(line, 140)) for number, line in enumerate(lines, start=1)]
    drawn.append(text(MARGIN + SIDE_BOX[0] / 2, 30, "entrypoints", "name"))
    drawn.append(text(WIDTH - MARGIN - SIDE_BOX[0] / 2, 30, "adapters", "name"))
    wide = 360.0
    drawn.append(box(x - wide / 2, 12, wide, 28))
    drawn.append(text(x, 30.5, fitting(f"{container['name']}: {container['says']}", wide - 20)))
    drawn.append(text(x, y + high + 24, fitting(application["legend"], 480), "dim"))
    return framed(picture, y + high + 42, drawn)


# --- the sequence -----------------------------------------------------------------------------------

HEAD: Final = 48.0


def sequence(picture: Mapping[str, Any]) -> str:
    """Draw lanes from left to right and the steps of the story downwards."""
    lanes = picture["lane"]
    gap = (WIDTH - 2 * MARGIN) / len(lanes)
    places = {lane["key"]: MARGIN + gap * (number + 0.5) for number, lane in enumerate(lanes)}
    drawn: list[str] = []
    y = MARGIN + HEAD + 8
    for step in picture["story"]["steps"]:
        lines, y = told(step, places, y)
        drawn += lines
    end = y + 10
    heads: list[str] = []
    for lane in lanes:
        middle = places[lane["key"]]
        says = lane.get("says")
        heads.append(f'<path d="M{middle:g} {MARGIN + HEAD:g}V{end:g}" class="line life"/>')
        heads.append(box(middle - gap / 2 + 3, MARGIN, gap - 6, HEAD, "two" if lane["key"] == "log" else "one"))
        name = fitting(lane["name"], gap, BOLD)
        heads.append(text(middle, MARGIN + HEAD / 2 + (4 if says is None else -3), name, "name"))
        if says is not None:
            heads.append(text(middle, MARGIN + HEAD / 2 + 14, fitting(says, gap), "dim"))
    return framed(picture, end + MARGIN, [*heads, *drawn])


def told(step: str, places: Mapping[str, float], y: float) -> tuple[list[str], float]:
    """Draw one step below `y`: `one -> other: words`, `one --> other: words`, or `= words` for all to know."""
    if step.startswith("= "):
        y += 14
        words = fitting(step[2:], WIDTH - 40, BOLD)
        return [box(MARGIN + 3, y, WIDTH - 2 * MARGIN - 6, 26), text(WIDTH / 2, y + 17.5, words, "name")], y + 30
    route, colon, words = step.partition(": ")
    back = " --> " in route
    source, _, target = route.partition(" --> " if back else " -> ")
    if not colon or source not in places or target not in places:
        raise CannotDraw(f"{step!r} should be like 'lane -> lane: words', of the lanes {', '.join(places)}")
    from_, to = places[source], places[target]
    room = abs(to - from_) - 16
    lines = textwrap.wrap(words, int(room / LETTER), break_on_hyphens=False, break_long_words=False)
    middle = (from_ + to) / 2
    drawn = []
    y += 6
    for line in lines:
        y += LINE
        half = len(line) * LETTER / 2
        # The paper behind the words: a lane that is crossed must not run through them.
        drawn.append(box(middle - half, y - 13, 2 * half, 16, "label"))
        drawn.append(text(middle, y, fitting(line, room)))
    y += 7
    sign = 1 if to > from_ else -1
    drawn.append(arrow(from_ + sign, y, to - sign, y, *(("back",) if back else ())))
    return drawn, y + 2


KINDS: Final = {"hexagon": hexagon, "sequence": sequence}


def drawn_pictures(folder: Path) -> dict[Path, str]:
    """Draw every picture of a folder; gives the SVG by its path. Raises `CannotDraw`."""
    found = {}
    for source in sorted(folder.glob("*.toml")):
        picture = tomllib.loads(source.read_text(encoding="utf-8"))
        if picture.get("kind") not in KINDS:
            raise CannotDraw(f"{source.name}: the kind must be one of {', '.join(KINDS)}")
        found[source.with_suffix(".svg")] = KINDS[picture["kind"]](picture)
    return found
