"""Messages of a protocol as they should not be: valid ones with hostile fields, bytes that nearly are one, and junk."""

import copy
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from bench.fuzz.values import COPIES, FLOATS, TEXTS, among, integers

CHANGES = among([1, 1, 1, 1, 2, 3, 4])
LONGEST_LIST = 4_000_000
"""Characters of all texts of a list together."""

NO_TEXT = "\x01\x02\x03\x04\x05"
"""Becomes bytes that are no UTF-8 once the message is written: before that, protobuf does not take them."""
NOT_UTF8 = b"\xff\xfe\xc0\xaf\xed"

_INTEGERS = {
    FieldDescriptor.TYPE_INT32: integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: integers(-(2**31), 2**31 - 1),
}


def written(valid: Message) -> st.SearchStrategy[bytes]:
    """Bytes to be sent where this message was expected."""
    whole = valid.SerializeToString()
    changed = _changed(valid)
    return st.one_of(st.just(whole), changed, changed, changed, _mangled(st.one_of(st.just(whole), changed)), JUNK)


JUNK = st.one_of(
    st.binary(max_size=80),
    among(
        [
            b"\x0b" * 5_000,  # groups that never end
            b"\x0a\xff\xff\xff\xff\x0f",  # a field of 4 GiB
            b"\xff" * 11,  # a number without end
            b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
            b"\x00",
            b"\x0a" * 999,
            *(b"".join(bytes([0x0A, length & 0x7F]) for length in range(120, 0, -2)), b"\x12\x02\x0a\x00" * 4_000),
        ]
    ),
)
"""What is a message by chance alone."""


GIANTS = st.one_of(
    st.sampled_from((17, 64)).map(lambda mebibytes: bytes(mebibytes << 20)),
    st.just(15).map(lambda mebibytes: b"\x12\x80\x80\xc0\x07" + b"a " * (mebibytes << 19)),
)
"""Messages beyond the limit of 16 MiB, and a text just below it; compressed, they are small."""


@st.composite
def _changed(draw: st.DrawFn, valid: Message) -> bytes:
    message = copy.deepcopy(valid)
    for _ in range(draw(CHANGES)):
        _change(draw, message)
    return message.SerializeToString().replace(NO_TEXT.encode(), NOT_UTF8)


def _change(draw: st.DrawFn, message: Message) -> None:
    """Change one field, of the message or of a part of it."""
    if not message.DESCRIPTOR.fields:
        return
    fields: Any = message.DESCRIPTOR.fields
    field: FieldDescriptor = draw(among(fields))
    if draw(st.integers(0, 9)) == 0:
        message.ClearField(field.name)
    elif _is_map(field):
        _change_map(draw, message, field)
    elif field.is_repeated:
        _change_list(draw, message, field)
    elif field.message_type is not None:
        part = getattr(message, field.name)
        part.SetInParent()
        _change(draw, part)
    else:
        setattr(message, field.name, draw(_values(field)))


def _change_list(draw: st.DrawFn, message: Message, field: FieldDescriptor) -> None:
    entries, copies = getattr(message, field.name), draw(COPIES)
    if field.message_type is None:
        some = draw(st.lists(_values(field), max_size=6))
        if field.type == FieldDescriptor.TYPE_STRING:
            copies = min(copies, LONGEST_LIST // (1 + sum(map(len, some))) + 1)
        if draw(st.booleans()):
            del entries[:]
        entries.extend(some * copies)
    else:
        entry = entries.add()
        if len(entries) > 1:
            entry.CopyFrom(entries[0])
        _change(draw, entry)
        entries.extend([entry] * min(copies, 300))


def _change_map(draw: st.DrawFn, message: Message, field: FieldDescriptor) -> None:
    assert field.message_type is not None
    keys, values = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    entries: Any = getattr(message, field.name)
    if values.message_type is not None:
        _change(draw, entries[draw(_values(keys))])
        return
    value = draw(_values(values))
    if keys.type == FieldDescriptor.TYPE_UINT32 and draw(st.integers(0, 4)) == 0:
        for key in range(draw(st.sampled_from([97, 2_048, 50_000]))):
            entries[key] = value
    else:
        entries[draw(_values(keys))] = value


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.one_of(TEXTS, TEXTS, TEXTS, st.just(NO_TEXT))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=80)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    return _INTEGERS.get(field.type, FLOATS)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@st.composite
def _mangled(draw: st.DrawFn, sound: st.SearchStrategy[bytes]) -> bytes:
    """Bytes cut off, overwritten, doubled or with others among them."""
    content = bytearray(draw(sound))
    place = draw(st.integers(0, len(content)))
    match draw(st.integers(0, 3)):
        case 0:
            del content[place:]
        case 1:
            content[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
        case 2:
            content[place:place] = draw(JUNK)
        case _:
            content += bytes(content)
    return bytes(content)
