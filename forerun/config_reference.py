"""The reference of the configuration file, made from its JSON Schema: a table for each section."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from controller.settings import NEEDS_RESTART

Schema = Mapping[str, Any]


def reference(schema: Schema) -> str:
    """Markdown: the file's own fields first, then every section in the order in which the fields name them."""
    lines: list[str] = []
    for title, section in _sections(schema):
        lines += [f"### {title}", "", str(section["description"]), ""]
        lines += ["| field | value | default | what it does |", "|---|---|---|---|"]
        lines += [_row(name, field, section, schema) for name, field in section["properties"].items()]
        lines.append("")
    return "\n".join(lines)


def _sections(schema: Schema) -> Iterator[tuple[str, Schema]]:
    waiting: list[tuple[str, Schema]] = [("", schema)]
    seen: set[str] = set()
    while waiting:
        path, section = waiting.pop(0)
        yield (f"`{path}`" if path else "The file"), section
        for name, field in section["properties"].items():
            for referred in _referred(field):
                target = schema["$defs"][referred]
                if referred not in seen and "properties" in target:
                    seen.add(referred)
                    waiting.append((f"{path}.{name}" if path else name, target))


def _referred(field: Schema) -> Iterator[str]:
    """Names of the sections that a field may hold."""
    if "$ref" in field:
        yield str(field["$ref"]).rpartition("/")[2]
    for below in (*field.get("anyOf", ()), *([field["items"]] if "items" in field else ())):
        yield from _referred(below)


def _row(name: str, field: Schema, section: Schema, schema: Schema) -> str:
    # Where field and section have the same description, the schema gives it once.
    described = (field, *(schema["$defs"][name] for name in _referred(field)))
    what = " ".join(next(str(one["description"]) for one in described if "description" in one).split())
    if field.get(NEEDS_RESTART):
        what += " *Needs a restart.*"
    default = "*required*" if name in section.get("required", ()) else _default(field)
    return f"| `{name}` | {_value(field, schema)} | {default} | {what} |"


def _default(field: Schema) -> str:
    default = field.get("default")
    if default is None or default == [] or isinstance(default, dict):
        return ""
    if isinstance(default, list) and isinstance(default[0], dict):
        return ", ".join(f"`{one['name']}`" for one in default)
    return f"`{json.dumps(default)}`"


def _value(field: Schema, schema: Schema) -> str:
    """What may be written, in words."""
    if "$ref" in field:
        target = schema["$defs"][str(field["$ref"]).rpartition("/")[2]]
        return _value(target, schema) if "properties" not in target else "a section"
    if "anyOf" in field:
        return " or ".join(_value(one, schema) for one in field["anyOf"] if one.get("type") != "null")
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if field.get("type") == "array":
        return f"a list of {_value(field['items'], schema).removeprefix('a ').replace('section', 'sections')}"
    kinds = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}
    return kinds.get(str(field.get("type")), str(field.get("type"))) + _bounds(field)


def _bounds(field: Schema) -> str:
    words = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}"}
    told = [word.format(f"{field[bound]:g}") for bound, word in words.items() if bound in field]
    return f" {' '.join(told)}" if told else ""
