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
        if value is None:
            value = self[key] = otherwise()
            if len(self) > self._most:
                self.popitem(last=False)
        else:
            self.move_to_end(key)
        return value
