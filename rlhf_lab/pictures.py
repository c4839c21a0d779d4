"""Pictures that others drew: SVG that is checked before it stands on a page, and made fit to stand there beside others.

Requirements this file meets:
- a picture runs nothing and loads nothing, whoever drew it: what is not known to be harmless is refused;
- many pictures stand on one page, so that the names inside of one must not meet those of another.
"""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree

from rlhf_lab.errors import LabError

__all__ = ["check_svg", "inline_svg"]

_SVG: Final = "{http://www.w3.org/2000/svg}"
_LINK: Final = "{http://www.w3.org/1999/xlink}href"
_SPACE: Final = "{http://www.w3.org/XML/1998/namespace}space"
_SHAPES: Final = ("path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan")
_PARTS: Final = ("svg", "g", "defs", "symbol", "use", "title", "desc", "clipPath", "mask", "marker", "pattern")
_SHADES: Final = ("linearGradient", "radialGradient", "stop")
_ELEMENTS: Final = frozenset({*_SHAPES, *_PARTS, *_SHADES})
_COLOURS: Final = ("rgb", "rgba", "hsl", "hsla", "var", "calc", "url")
_MOVES: Final = ("matrix", "translate", "scale", "rotate", "skewX", "skewY")
_FUNCTIONS: Final = frozenset({*_COLOURS, *_MOVES})
_CALL: Final = re.compile(r"([\w-]+)\(\s*(.?)")  # a function's name and how its argument begins
_NAMES: Final = frozenset({"aria-labelledby", "aria-describedby"})  # attributes that list ids


def check_svg(svg: str) -> None:
    """Raise ``LabError`` unless ``svg`` is one SVG element of shapes and text, without script and outer references."""
    _parsed(svg)


def inline_svg(svg: str, key: str) -> str:
    """Return a picture as it stands in an HTML page, where all its ids begin with ``key``.

    Raises ``LabError`` as ``check_svg`` does.
    """
    root = _parsed(svg)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        given = dict(element.attrib)
        element.attrib.clear()
        for name, value in given.items():
            if name == "id":
                value = f"{key}-{value}"
            elif name in _NAMES:
                value = " ".join(f"{key}-{one}" for one in value.split())
            elif name in ("href", _LINK):
                name, value = "href", f"#{key}-{value[1:]}"
            else:
                value = re.sub(r"url\(\s*#", f"url(#{key}-", value)
            element.set("xml:space" if name == _SPACE else name, value)
    root.tail = None
    return ElementTree.tostring(root, encoding="unicode")


def _parsed(svg: str) -> ElementTree.Element:
    if re.search(r"<!(DOCTYPE|ENTITY)", svg, re.IGNORECASE):
        raise LabError("picture: a document type is not allowed; give the <svg> element alone")
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise LabError(f"picture: expected one <svg> element, found what is no XML ({error})") from None
    if root.tag.removeprefix(_SVG) != "svg":
        raise LabError(f"picture: expected one <svg> element, found <{root.tag}>")
    for element in root.iter():
        tag = element.tag.removeprefix(_SVG)
        if tag not in _ELEMENTS:
            raise LabError(f"picture: <{tag}> is not allowed. Possible: {', '.join(sorted(_ELEMENTS))}")
        for name, value in element.attrib.items():
            if wrong := _complaint(name, value):
                raise LabError(f"picture: {wrong} in {name}={value[:60]!r} of <{tag}>")
    return root


def _complaint(name: str, value: str) -> str:
    """Return what is wrong with an attribute, or nothing."""
    if name in ("href", _LINK):
        return "" if value.startswith("#") else "a reference to something outside of the picture"
    if name.startswith("{") and name != _SPACE:
        return "an attribute of another namespace"
    if name.lower().startswith("on") or name.lower() == "src":
        return "a script or a source"
    if name.startswith("aria-"):
        return ""
    if "\\" in value:
        return "an escape"
    for function, argument in _CALL.findall(value):
        if function not in _FUNCTIONS:
            return f"the function {function}()"
        if function == "url" and argument != "#":
            return "a reference to something outside of the picture"
    return ""
