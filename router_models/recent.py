"""A table that stays small."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(OrderedDict[Key, Value]):
    """A table that forgets the entry used longest ago once it holds `most`."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def use(self, key: Key, otherwise: Callable[[], Value]) -> Value:
        """The entry of a key, made if it is missing."""
        value = self.get(key)
        return self.put(key, otherwise() if value is None else value)

    def put(self, key: Key, value: Value) -> Value:
        """Let the entry of a key be this, the one used last."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)
        return value
