"""Boards as text and as SVG: what stands where, and where arrows end."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from rlhf_lab_chess.drawing import Arrow, draw_svg, draw_text
from rlhf_lab_chess.geometry import QUEEN, Board
from rlhf_lab_chess.notation import read_fen

SVG = "{http://www.w3.org/2000/svg}"
START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"
KRK = "3k/4/4/KR2 w - - 0 1"


def men_of(svg):
    """The men by their square's left upper corner, in squares from the left and from above."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        if "data-man" in group.attrib:
            x, y = group.attrib["transform"].removeprefix("translate(").removesuffix(")").split()
            found[int(x) // 100, int(y) // 100] = group.attrib["data-man"]
    return found


def ends(svg):
    """First point (the tip) of each arrow, and the middle of the two points farthest from it (the tail)."""
    found = []
    for polygon in ET.fromstring(svg).iter(f"{SVG}polygon"):
        points = [tuple(map(float, p.split(","))) for p in polygon.attrib["points"].split()]
        tip = points[0]
        tail = sorted(points, key=lambda p: -abs(p[0] - tip[0]) - abs(p[1] - tip[1]))[:2]
        found.append((tip, tuple(sum(x) / 2 for x in zip(*tail, strict=True))))
    return found


def test_text():
    assert draw_text(read_fen(KRK)) == "4 · · · ♚\n3 · · · ·\n2 · · · ·\n1 ♔ ♖ · ·\n  a b c d\nwhite to move"


def test_text_with_black_below():
    assert draw_text(read_fen("3k/4/4/KR2 b - - 0 1"), black_below=True) == (
        "1 · · ♖ ♔\n2 · · · ·\n3 · · · ·\n4 ♚ · · ·\n  d c b a\nblack to move"
    )


def test_text_has_a_figurine_for_every_man():
    lines = draw_text(read_fen(START)).splitlines()
    assert lines[0] == "8 ♜ ♞ ♝ ♛ ♚ ♝ ♞ ♜"
    assert lines[1] == "7 ♟ ♟ ♟ ♟ ♟ ♟ ♟ ♟"
    assert lines[6] == "2 ♙ ♙ ♙ ♙ ♙ ♙ ♙ ♙"
    assert lines[7] == "1 ♖ ♘ ♗ ♕ ♔ ♗ ♘ ♖"


def test_men_stand_on_their_squares():
    assert men_of(draw_svg(read_fen(KRK))) == {(3, 0): "k", (0, 3): "K", (1, 3): "R"}
    # seen from the other side: half a turn
    assert men_of(draw_svg(read_fen(KRK), black_below=True)) == {(0, 3): "k", (3, 0): "K", (2, 0): "R"}


def test_all_men_are_drawn_each_in_a_shape_of_its_own():
    svg = draw_svg(read_fen(START))
    rows = ["rnbqkbnr", "pppppppp", "", "", "", "", "PPPPPPPP", "RNBQKBNR"]
    assert men_of(svg) == {(x, y): man for y, row in enumerate(rows) for x, man in enumerate(row)}
    shapes = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        if "data-man" in group.attrib:
            outline = group[0].attrib
            shapes.setdefault(group.attrib["data-man"], set()).add((outline["d"], outline["fill"]))
    assert all(len(each) == 1 for each in shapes.values())
    assert len(set().union(*shapes.values())) == 12


def test_the_left_lower_square_is_dark_and_the_right_lower_one_light():
    for black_below in (False, True):
        dark = ET.fromstring(draw_svg(read_fen(START), black_below=black_below)).find(f"{SVG}path").attrib["d"]
        assert dark.count("M") == 32
        assert "M0 700h" in dark and "M700 700h" not in dark


def test_coordinates_run_along_the_edges():
    def marks(**options):
        return {t.text: (float(t.attrib["x"]), float(t.attrib["y"]))
                for t in ET.fromstring(draw_svg(read_fen(KRK), **options)).iter(f"{SVG}text")}  # fmt: skip

    for black_below in (False, True):
        found = marks(black_below=black_below)
        files, ranks = [found[x] for x in "abcd"], [found[x] for x in "1234"]
        order = -1 if black_below else 1
        assert [int(x // 100) for x, _ in files] == [0, 1, 2, 3][::order] and all(y > 300 for _, y in files)
        assert [int(y // 100) for _, y in ranks] == [3, 2, 1, 0][::order] and all(x < 100 for x, _ in ranks)


@pytest.mark.parametrize(
    ("origin", "target", "black_below", "tip", "toward"),
    [
        # centres are 50 + 100 · column, the tail is 37 from the first square's centre
        ("b1", "b4", False, (150, 50), (150, 350 - 37)),
        ("a1", "b2", False, (150, 250), (50 + 37 / 2**0.5, 350 - 37 / 2**0.5)),
        ("b1", "d1", True, (50, 50), (250 - 37, 50)),
    ],
)
def test_an_arrow_ends_in_the_middle_of_its_target(origin, target, black_below, tip, toward):
    square = Board(4).square
    svg = draw_svg(read_fen(KRK), [Arrow(square(origin), square(target), "best")], black_below=black_below)
    [(found, tail)] = ends(svg)
    assert found == pytest.approx(tip, abs=0.05)
    assert tail == pytest.approx(toward, abs=0.05)


def test_roles_of_arrows_differ_in_colour_and_are_told():
    arrows = [Arrow(1, 13, "best"), Arrow(1, 2, "played"), Arrow(1, 3, "inaccuracy"), Arrow(1, 5, "blunder", QUEEN)]
    root = ET.fromstring(draw_svg(read_fen(KRK), arrows))
    colours = {p.attrib["data-role"]: p.attrib["fill"] for p in root.iter(f"{SVG}polygon")}
    assert list(colours) == ["best", "played", "inaccuracy", "blunder"] and len(set(colours.values())) == 4
    assert root.attrib["aria-label"] == f"{KRK}; best b1b4; played b1c1; inaccuracy b1d1; blunder b1b2q"


def test_the_title_is_escaped_and_the_position_told():
    root = ET.fromstring(draw_svg(read_fen(KRK), title='<b>"A" & B</b>'))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == f'<b>"A" & B</b>; {KRK}'
    assert root.find(f"{SVG}title").text == f'<b>"A" & B</b>; {KRK}'


def test_many_boards_may_stand_on_one_page():
    svg = draw_svg(read_fen(START), [Arrow(12, 28, "played")])
    assert svg == draw_svg(read_fen(START), [Arrow(12, 28, "played")])
    assert " id=" not in svg and "<style" not in svg and "url(" not in svg and "href" not in svg


def test_the_drawing_is_as_wide_as_asked():
    root = ET.fromstring(draw_svg(read_fen(KRK), size=200))
    assert (root.attrib["width"], root.attrib["height"]) == ("200", "200")
    assert root.attrib["viewBox"] == "-2 -2 404 404"
