"""The reference in docs/api.md, made from the protocol and the table of errors: `python -m forerun.api_reference`.

Needs grpcio-tools, as whoever changes the protocol has it.
"""

import inspect
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from forerun.client import DeadlineExceededError
from speculation import errors
from speculation.rpc import STATUS_OF

PROTOS = Path(__file__).parent.parent / "protos"

OFFERED: Sequence[tuple[str, str]] = (
    ("generation", "For callers: generating"),
    ("router", "For operators: the router"),
    ("common", "Shared by all"),
)
"""Names of the files that callers need, and what their sections are called, in reading order."""

INTERNAL: Sequence[tuple[str, str]] = (
    ("draft", "Between controllers and draft workers"),
    ("verify", "Between controllers and verify workers"),
    ("log", "Records of the decision log"),
)
"""The others."""

Place = tuple[int, ...]
"""Of a declaration in its file, as descriptor.proto numbers it."""

_MESSAGES, _ENUMS, _SERVICES = (
    FileDescriptorProto.DESCRIPTOR.fields_by_name[name].number for name in ("message_type", "enum_type", "service")
)
_FIELDS = DescriptorProto.FIELD_FIELD_NUMBER
_VALUES = EnumDescriptorProto.VALUE_FIELD_NUMBER
_METHODS = ServiceDescriptorProto.METHOD_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class ProtoFile:
    """A file of the protocol with its comments."""

    file: FileDescriptorProto
    comments: Mapping[Place, str]

    def said(self, *place: int) -> str:
        """The comment on a declaration, its paragraphs on one line each; empty if there is none."""
        paragraphs = self.comments.get(place, "").strip().split("\n\n")
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def reference() -> str:
    """Markdown: the errors, and services, messages and enumerations file by file."""
    files = {Path(file.name).stem: ProtoFile(file, _comments(file)) for file in _compiled().file}
    sections = [line for name, title in (*OFFERED, *INTERNAL) for line in _section(title, files[name])]
    return "\n".join([*_errors(), *sections])


def _compiled() -> FileDescriptorSet:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "protos"
        sources = sorted(str(path) for path in PROTOS.rglob("*.proto"))
        flags = ("--include_source_info", f"--descriptor_set_out={out}", f"-I{PROTOS}")
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *flags, *sources], check=True)
        return FileDescriptorSet.FromString(out.read_bytes())


def _comments(file: FileDescriptorProto) -> Mapping[Place, str]:
    return {tuple(spot.path): spot.leading_comments for spot in file.source_code_info.location if spot.leading_comments}


def _section(title: str, source: ProtoFile) -> Iterator[str]:
    yield from (f"## {title}", "", f"`protos/{source.file.name}`", "")
    for number, service in enumerate(source.file.service):
        yield from _service(service, source, (_SERVICES, number))
    for number, message in enumerate(source.file.message_type):
        yield from _message(message, source, (_MESSAGES, number))
    for number, enum in enumerate(source.file.enum_type):
        yield from _enum(enum, source, (_ENUMS, number))


def _service(service: ServiceDescriptorProto, source: ProtoFile, place: Place) -> Iterator[str]:
    yield from (f"### {source.file.package}.{service.name}", "", source.said(*place), "")
    for number, method in enumerate(service.method):
        yield from (_signature(method), "", source.said(*place, _METHODS, number), "")


def _signature(method: MethodDescriptorProto) -> str:
    sent = ("stream of " if method.client_streaming else "") + _link(method.input_type)
    answered = ("stream of " if method.server_streaming else "") + _link(method.output_type)
    return f"**{method.name}**: {sent} → {answered}"


def _message(message: DescriptorProto, source: ProtoFile, place: Place) -> Iterator[str]:
    yield from (f"#### {message.name}", "")
    if said := source.said(*place):
        yield from (said, "")
    if not message.field:
        yield from ("It is empty.", "")
        return
    yield from ("| field | type | what it says |", "|---|---|---|")
    for number, field in enumerate(message.field):
        yield _row(f"`{field.name}`", _type(field, message), source.said(*place, _FIELDS, number))
    yield ""


def _enum(enum: EnumDescriptorProto, source: ProtoFile, place: Place) -> Iterator[str]:
    yield from (f"#### {enum.name}", "", source.said(*place), "", "| value | number | what it says |", "|---|---|---|")
    for number, value in enumerate(enum.value):
        yield _row(f"`{value.name}`", str(value.number), source.said(*place, _VALUES, number))
    yield ""


def _type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """As the protocol writes it, but for `repeated` and `oneof`, which are said in words."""
    entry = next((one for one in message.nested_type if field.type_name.endswith(f".{message.name}.{one.name}")), None)
    if entry is not None:
        return f"map of {_kind(entry.field[0])} to {_kind(entry.field[1])}"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"list of {_kind(field)}"
    if field.proto3_optional:
        return f"optional {_kind(field)}"
    if field.HasField("oneof_index"):
        return f"{_kind(field)}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return _kind(field)


def _kind(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return _link(field.type_name)
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _link(type_name: str) -> str:
    name = type_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})"


def _errors() -> Iterator[str]:
    """From the tree that heads speculation/errors.py: what each error is, and what its receiver can do."""
    yield from ("## Errors", "", "| `reason` | status | in Python | what it is: what to do |", "|---|---|---|---|")
    advice = dict(re.findall(r"── (\w+)\s+(.+)", inspect.getdoc(errors) or ""))
    for kind, status in STATUS_OF.items():
        yield _row(f"`{kind.reason}`", status.name, f"`{kind.__name__}`", advice.get(kind.__name__, ""))
    late = DeadlineExceededError
    yield _row(
        "gRPC's own", late.reason, f"`{late.__name__}`", "your deadline passed: what had come until then is valid"
    )
    yield ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("\n\n", "<br>").replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(reference(), end="")
