"""A page that says what is not so is found out."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reader import Reader

TRUE = """
```sh
greeting=hello
```

```sh
echo "$greeting, you at 127.0.0.1:50050"
```

```text
hello, ... at 127.0.0.1:1
```

```sh stays
echo ready; exec sleep 60
```

```python
number = 6
```

```python
print(7 * number)
```

```text
42
```

```
this is for the eye
```
"""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader(tmp_path, controller="127.0.0.1:1", metrics="127.0.0.1:2") as reader:
        yield reader


def page(folder: Path, text: str) -> Path:
    written = folder / "page.md"
    written.write_text(text)
    return written


def test_blocks_go_on_where_the_ones_before_ended(reader: Reader, tmp_path: Path) -> None:
    reader.follow(page(tmp_path, TRUE))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param(TRUE.replace("42", "41"), "page.md:27", id="another output than is shown"),
        pytest.param("```sh\nfalse\n```", "page.md:2: a command failed", id="a command that fails"),
        pytest.param("```sh\nfalse | true\n```", "failed", id="a command that fails in a pipe"),
        pytest.param("```sh stays\nfalse\n```", "it ended", id="a server that does not start"),
        pytest.param("```python\nassert 1 == 2\n```", None, id="an assertion that does not hold"),
    ],
)
def test_a_page_that_is_wrong_fails(reader: Reader, tmp_path: Path, text: str, fault: str | None) -> None:
    with pytest.raises(AssertionError, match=fault):
        reader.follow(page(tmp_path, text))


def test_what_stays_is_ended_with_the_reader(tmp_path: Path) -> None:
    with Reader(tmp_path, controller="127.0.0.1:1", metrics="127.0.0.1:2") as reader:
        reader.follow(page(tmp_path, "```sh stays\necho $$ > pid; echo ready; exec sleep 60\n```"))
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_command_line_is_that_of_this_tree(reader: Reader, tmp_path: Path) -> None:
    reader.follow(page(tmp_path, "```sh\nforerun --version\n```\n\n```text\nforerun ...\n```"))
