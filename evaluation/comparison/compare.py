"""Compares results and writes the comparison."""

from collections.abc import Sequence
from pathlib import Path

from classifiers.errors import RecipeError
from evaluation.comparison.figure import draw_bars
from evaluation.comparison.page import render_page
from evaluation.comparison.rows import comparison_rows, distinct_names, row_as_json
from evaluation.comparison.table import markdown_table
from evaluation.files import make_folder, write_json, write_whole
from evaluation.results import read_result


def compare_results(folders: Sequence[Path], output: Path) -> list[str]:
    """Writes comparison.md, .json, .html and .png; returns the table's lines and where the files are.

    Without any measure there is nothing to draw: no .png then, nor that of an earlier comparison. The first result is what
    the others are tested against. Raises RecipeError for a folder given twice, DataError for one that holds no result.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RecipeError("evaluate compare: a folder is given twice; give each result once")
    results = distinct_names([read_result(folder) for folder in folders])
    make_folder(output)
    names = [result.name for result in results]
    rows = comparison_rows(results)
    table = markdown_table(rows, names)
    write_whole(output / "comparison.md", table)
    write_json(output / "comparison.json", {"results": names, "rows": [row_as_json(row, names) for row in rows]})
    write_whole(output / "comparison.html", render_page(results, rows))
    written = ["md", "json", "html"]
    if rows:
        write_whole(output / "comparison.png", draw_bars(rows, names))
        written.append("png")
    else:
        (output / "comparison.png").unlink(missing_ok=True)
    return [*table.splitlines(), *(str(output / f"comparison.{suffix}") for suffix in written)]
