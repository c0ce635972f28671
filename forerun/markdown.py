"""Tables of the terminal, for a file."""

from rich.table import Table


def markdown(table: Table) -> str:
    """The table as Markdown, its title above it."""
    rows = zip(*(column.cells for column in table.columns), strict=True)
    lines = [[str(column.header) for column in table.columns], ["---"] * len(table.columns), *map(list, rows)]
    return "\n".join([f"**{table.title}**", "", *(f"| {' | '.join(map(str, line))} |" for line in lines)])
