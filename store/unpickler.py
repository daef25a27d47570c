"""Python's pickle machine with fewer instructions: what a file says is read as data, in time and memory that its size bounds.

It is the one written in Python: the one in C makes room for whatever index a PUT names (4 GiB for 9 bytes). Keys of dicts
and members of sets are text or numbers, since hashing nested tuples may take for ever. Only functions of ours are called,
and attributes are set on nothing but what a subclass allows.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, ClassVar

_LARGEST_KEY = 1 << 60
"""Larger whole numbers may share one hash."""


class Refused(Exception):
    """What a file holds is damaged or may not be there; the message says what, in our words."""


class PlainUnpickler(pickle._Unpickler):
    """Reads one pickle of plain containers.

    ``admitted``: (module, name) -> what stands for it, a function of ours or a value. A subclass says so, and what more
    it reads.
    """

    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    pop_mark: Callable[..., list[Any]]
    admitted: dict[tuple[str, str], Any]

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise Refused(f"refused the name {f'{module}.{name}'[:100]}") from None

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        fill(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        fill(self.stack[-1], items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        built: dict[Any, Any] = {}
        fill(built, items)
        self.append(built)

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise Refused("members for what is no set")
        self.stack[-1].update(map(hashable, items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()  # which changes where ``append`` appends
        self.append(frozenset(map(hashable, items)))

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._extend(items)

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("members for what is no list")
        self.stack[-1].extend(items)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(arguments, tuple) or not callable(function) or not self.may_call(function):
            raise Refused("a call of what is no function")
        self.stack[-1] = function(*arguments)

    def may_call(self, function: Any) -> bool:
        """Whether what the file calls is one of the functions that stand for names."""
        return any(function is known for known in self.admitted.values())

    def load_build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        self.build(built, state)

    def build(self, built: Any, state: Any) -> None:
        """Give ``built`` its attributes."""
        raise Refused("attributes for what has none")

    def load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        data = self.read(length)
        if len(data) != length:
            raise Refused("it ends inside a number of bytes")
        self.append(data)

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    for _code in (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.BINPERSID),
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    ):
        del dispatch[_code[0]]
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def hashable(value: Any) -> Any:
    """``value`` as a key or a member of a set. Refused: it is no text and no number of a usual size."""
    if value is None or type(value) in (str, bytes, bool, float) or (type(value) is int and abs(value) < _LARGEST_KEY):
        return value
    raise Refused(f"a {type(value).__name__} as a key, expected text or a number")


def fill(target: Any, items: list[Any]) -> None:
    """Set ``items``, keys and values by turns, in a dict."""
    if type(target) is not dict:
        raise Refused("entries for what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[hashable(key)] = value
