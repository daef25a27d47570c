"""What a source file computes: its syntax tree without text for people.

Dropped are comments, layout, docstrings, annotations of functions, the words of errors and logs, descriptions of
parameters, and whatever only they use. What stays decides every value, so two files with the same rest compute the same.
"""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache
from itertools import zip_longest
from typing import Any

_LOGS = frozenset({"log", "logger", "logging", "warnings"})
_LOGGED = frozenset({"debug", "info", "warning", "warn", "error", "exception", "critical", "log"})
_DESCRIBED = frozenset({"cost", "description", "meaning"})
"""Arguments of records and of parameters' fields that people read."""
_WORDING = frozenset({"join", "format", "sorted", "str", "repr", "len", "list", "min", "max", "set", "tuple", "items"})
"""Calls that build a message: without effect once the message is dropped."""


@lru_cache(maxsize=1024)
def computing_digest(source: bytes) -> str:
    """sha256 hex digest of what the Python file ``source`` computes."""
    return hashlib.sha256(ast.dump(computing_part(ast.parse(source))).encode()).hexdigest()


def computing_part(tree: ast.Module) -> ast.Module:
    """``tree``, changed in place: only what decides values. Names that only the dropped parts used go too."""
    before = _read(tree)
    _WithoutWords().visit(tree)
    last = ""
    while last != (last := ast.dump(tree)):  # a dropped node may have been the last use of another name
        _WithoutUnused(before - _read(tree)).visit(tree)
        _WithoutArguments(_unread_parameters(tree)).visit(tree)
    return tree


def _read(tree: ast.AST) -> set[str]:
    """Every name that is read anywhere in ``tree``, or named in a list of exports."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    exports = [node.value for node in assigned if _targets(node.targets[0]) == ["__all__"]]
    return names | {str(c.value) for export in exports for c in ast.walk(export) if isinstance(c, ast.Constant)}


def _unread_parameters(tree: ast.Module) -> dict[str, list[str]]:
    """Private function of the module -> its parameters, "" for each that it does not read."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("_")]
    unread = {}
    for function in functions:
        names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        read = {n.id for part in function.body for n in ast.walk(part) if isinstance(n, ast.Name)}
        unread[function.name] = [name if name in read else "" for name in names]
    return unread


def _name(node: ast.AST) -> str:
    """The last name of ``a.b.c``; "" for anything else."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _targets(target: ast.expr) -> list[str]:
    """The names that an assignment to ``target`` sets; [] where it sets anything but plain names."""
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return names if len(names) == len(parts) else []


class _WithoutWords(ast.NodeTransformer):
    """Drops docstrings, annotations of functions, messages of errors and logs, descriptions, imports for types."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None  # of a module, class or function, and of a field or constant
        return None if isinstance(node.value, ast.Call) and self._is_log(node.value.func) else self.generic_visit(node)

    @staticmethod
    def _is_log(function: ast.expr) -> bool:
        if isinstance(function, ast.Attribute):
            return function.attr in _LOGGED and _name(function.value).strip("_").lower() in _LOGS
        return _name(function) == "print"

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        called = node.value.func if isinstance(node.value, ast.Call) else node.value
        return None if _name(called) == "getLogger" else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=error, cause=None)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = _name(node.func)
        if name[:1].isupper() and name.endswith(("Error", "Exception", "Warning")):
            node.args, node.keywords = [], []
        elif name[:1].isupper():
            node.keywords = [keyword for keyword in node.keywords if keyword.arg not in _DESCRIBED]
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        if _name(node.test) == "TYPE_CHECKING":
            return [self.visit(statement) for statement in node.orelse]
        return self.generic_visit(node)

    def _function(self, node: Any) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(arg=node.arg, annotation=None)


class _WithoutUnused(ast.NodeTransformer):
    """Drops imports, private functions, and values of no effect, all of whose names are among ``unused``."""

    def __init__(self, unused: set[str]) -> None:
        self._unused = unused
        self._inside: type[ast.AST] = ast.Module

    def _within(self, node: ast.AST) -> ast.AST:
        outer, self._inside = self._inside, type(node)
        self.generic_visit(node)
        self._inside = outer
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._within(node)

    def _function(self, node: Any) -> ast.AST | None:
        return None if self._goes([node.name]) and not node.decorator_list else self._within(node)

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def _imports(self, node: Any) -> ast.AST | None:
        node.names = [a for a in node.names if (a.asname or a.name.partition(".")[0]) not in self._unused]
        return node if node.names else None

    visit_Import = visit_ImportFrom = _imports

    def visit_Assign(self, node: ast.Assign) -> Any:
        target: Any = node.targets[0]
        value: Any = node.value
        several = len(node.targets) == 1 and isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        if several and len(target.elts) == len(value.elts):  # a, b = x, y
            pairs = zip(target.elts, value.elts, strict=True)
            kept = [(t, v) for t, v in pairs if not (self._goes(_targets(t)) and _idle(v))]
            target.elts, value.elts = [t for t, _ in kept], [v for _, v in kept]
            return node if kept else None
        return None if all(self._goes(_targets(t)) for t in node.targets) and _idle(value) else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if self._goes(_targets(node.target)) and (node.value is None or _idle(node.value)) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | None:
        return None if self._goes(_targets(node.target)) and _idle(node.value) else node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        if node.name in self._unused:
            node.name = None
        return self.generic_visit(node)

    def _goes(self, names: list[str]) -> bool:
        """Whether ``names`` can be dropped: other modules may import public ones, and those of a class belong to instances."""
        if self._inside is ast.ClassDef or not names or not self._unused.issuperset(names):
            return False
        return self._inside is not ast.Module or all(name.startswith("_") for name in names)


class _WithoutArguments(ast.NodeTransformer):
    """Blanks the arguments for parameters that a private function does not read, such as the remedy of its message."""

    def __init__(self, parameters: dict[str, list[str]]) -> None:
        self._parameters = parameters

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.name in self._parameters:
            arguments = [*node.args.posonlyargs, *node.args.args]
            for argument, name in zip(arguments, self._parameters[node.name], strict=False):
                argument.arg = name
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        parameters = self._parameters.get(node.func.id, []) if isinstance(node.func, ast.Name) else []
        if "" in parameters and not any(isinstance(argument, ast.Starred) for argument in node.args):
            node.args = [
                argument if name or not _idle(argument) else ast.Constant(None)
                for argument, name in zip_longest(node.args, parameters[: len(node.args)], fillvalue="more")
                if isinstance(argument, ast.expr)
            ]
        return self.generic_visit(node)


def _idle(value: ast.AST) -> bool:
    """Whether evaluating ``value`` has no side effect: it makes no calls except those that build text."""
    if isinstance(value, ast.JoinedStr):
        return True
    if isinstance(value, ast.Call) and _name(value.func) not in _WORDING:
        return False
    if isinstance(value, ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr):
        return False
    return all(map(_idle, ast.iter_child_nodes(value)))
