"""Small changes to the math of a source file, one at a time: what mutation testing tries.

Operators, comparisons, constants, masks, indices, swapped branches and names, unwrapped calls, dropped statements. Left
alone are texts, annotations, decorators, imports, assertions, what is raised, the metadata of a component (plain class
variables), and of a ``Field`` all but its default.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Mutation", "mutations"]

OPERATORS: dict[type[ast.AST], list[type[ast.AST]]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.FloorDiv],
    ast.Pow: [ast.Mult],
    ast.LShift: [ast.RShift],
    ast.RShift: [ast.LShift],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
PAIRS = [
    ("min", "max"),
    ("amin", "amax"),
    ("minimum", "maximum"),
    ("any", "all"),
    ("terminated", "truncated"),
    ("values", "next_values"),
    ("log_probs", "target_log_probs"),
    ("steps", "episodes"),
]
SWAPPED = dict(PAIRS) | {second: first for first, second in PAIRS}
TEXTS = {name for pair in PAIRS[-3:] for name in pair} | {"amin", "amax"}  # swapped where they stand in quotes
NAMES = SWAPPED.keys() - TEXTS | {"amin", "amax"}  # swapped where they are called or read
WRAPPERS = {"abs", "clamp", "detach", "masked_fill", "masked_fill_"}
LEFT_ALONE = ("annotation", "returns", "decorator_list", "bases")


@dataclass(frozen=True)
class Mutation:
    """One change: where, the expression or statement before and after, and the whole file with it."""

    line: int
    function: str
    change: str
    source: str


@dataclass(frozen=True)
class _Place:
    """Where a node stands: in which field of its owner, and at which position if that is a list."""

    owner: ast.AST
    field: str
    position: int | None
    node: ast.AST
    function: str
    bound: dict[str, int]  # in which line each name of the function is bound first

    def put(self, node: ast.AST) -> None:
        if self.position is None:
            setattr(self.owner, self.field, node)
        else:
            getattr(self.owner, self.field)[self.position] = node

    def text(self) -> str:
        """Return what stands here now; of a single name, number or operator, with what is around it."""
        node = getattr(self.owner, self.field)
        node = node if self.position is None else node[self.position]
        return ast.unparse(self.owner if self._small() else node).partition("\n")[0]

    def _small(self) -> bool:
        if not isinstance(self.node, ast.expr | ast.stmt | ast.keyword):
            return True
        small = isinstance(self.node, ast.Constant | ast.Name | ast.Attribute | ast.UnaryOp | ast.Slice)
        return small and isinstance(self.owner, ast.expr | ast.keyword | ast.stmt)


def mutations(source: str) -> list[Mutation]:
    """Return every mutation of a file; changes of one function that read the same are numbered."""
    tree = ast.parse(source)
    found: list[Mutation] = []
    seen: Counter[tuple[str, str]] = Counter()
    for place in list(_places(tree, "", {})):
        before, line = place.text(), getattr(place.node, "lineno", getattr(place.owner, "lineno", 0))
        for new in _replacements(place):
            place.put(new)
            change = f"drop {before}" if isinstance(new, ast.Pass) else f"{before} -> {place.text()}"
            seen[place.function, change] += 1
            number = seen[place.function, change]
            change += f"  #{number}" if number > 1 else ""
            found.append(Mutation(line, place.function, change, ast.unparse(ast.fix_missing_locations(tree))))
            place.put(place.node)
    return found


def _places(owner: ast.AST, function: str, bound: dict[str, int]) -> Iterator[_Place]:
    if isinstance(owner, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{owner.name}" if function else owner.name
    if isinstance(owner, ast.FunctionDef):
        bound = _bound(owner)
    for field, value in ast.iter_fields(owner):
        several = isinstance(value, list)
        for position, node in enumerate(value if several else [value]):
            if isinstance(node, ast.AST) and field not in LEFT_ALONE and not _left_alone(owner, node):
                yield _Place(owner, field, position if several else None, node, function, bound)
                yield from _places(node, function, bound)


def _left_alone(owner: ast.AST, node: ast.AST) -> bool:
    if isinstance(owner, ast.Call) and isinstance(node, ast.keyword):
        return _called(owner) == "Field" and node.arg != "default"
    if isinstance(owner, ast.UnaryOp) and isinstance(owner.op, ast.USub):
        return isinstance(node, ast.Constant)  # mutated as one number
    metadata = isinstance(owner, ast.ClassDef) and isinstance(node, ast.Assign)
    return metadata or isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom)


def _bound(function: ast.FunctionDef) -> dict[str, int]:
    lines = dict.fromkeys((argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)), 0)
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            lines[node.id] = min(lines.get(node.id, node.lineno), node.lineno)
    return lines


def _called(node: ast.AST) -> str:
    """Return the name of the function or method that is called; nothing where none is."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _replacements(place: _Place) -> Iterator[ast.AST]:
    node = place.node
    if type(node) in OPERATORS:
        yield from (other() for other in OPERATORS[type(node)])
    elif isinstance(node, ast.stmt):
        if _may_go(node, place.bound):
            yield ast.Pass()
    elif isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _constants(node.value))
        if node.value is None and getattr(place.owner, "arg", "") == "default" and place.function:
            yield ast.Constant(0.0)
    elif isinstance(node, ast.UnaryOp):
        number = node.operand.value if isinstance(node.operand, ast.Constant) else None
        if isinstance(node.op, ast.USub) and isinstance(number, int | float):
            yield ast.Constant(1 - number)
        else:
            yield node.operand
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        yield ast.Name(SWAPPED[node.id], node.ctx)
    elif isinstance(node, ast.Attribute):
        if node.attr in NAMES:
            yield ast.Attribute(node.value, SWAPPED[node.attr], node.ctx)
        elif node.attr == "inf" and not isinstance(place.owner, ast.UnaryOp):
            yield ast.UnaryOp(ast.USub(), node)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Slice):
        if isinstance(node.lower, ast.Constant) and node.upper is None:
            yield ast.Slice(None, ast.UnaryOp(ast.USub(), node.lower))
        elif node.lower is None and isinstance(node.upper, ast.UnaryOp):
            yield ast.Slice(node.upper.operand, None)
    if isinstance(place.owner, ast.If | ast.While) and isinstance(node, ast.Name | ast.Subscript | ast.Call):
        yield ast.UnaryOp(ast.Not(), node)


def _constants(value: object) -> list[bool | float | str]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value * 0] if value == 1 else [value + 1]
    return [SWAPPED[value]] if isinstance(value, str) and value in TEXTS else []


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    name = _called(node)
    if name in WRAPPERS and isinstance(node.func, ast.Attribute):
        yield node.func.value
    elif name == "clean":
        yield node.args[0]
    elif name == "where":
        condition, chosen, other = node.args
        yield ast.Call(node.func, [condition, other, chosen], node.keywords)
    if name == "clamp" and node.keywords:
        yield ast.Call(node.func, node.args, [ast.keyword(SWAPPED[k.arg or ""], k.value) for k in node.keywords])


def _may_go(node: ast.stmt, bound: dict[str, int]) -> bool:
    """Tell whether the file still runs without a statement, so that it is a fair thing to drop."""
    if isinstance(node, ast.Assign):
        names = [each for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        new = [each for each in names if isinstance(each.ctx, ast.Store) and bound.get(each.id, 0) >= node.lineno]
        return not new and bool(bound)
    return isinstance(node, ast.AugAssign | ast.Continue | ast.Break) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    )
