"""The rubric as a page for people: `python -m classifiers.rubric_page > docs/rubric.md`."""

from classifiers.rubric import CATEGORIES, LEVELS


def rubric_page() -> str:
    """Markdown, made from the same data file as the judge's prompt and the report card's categories."""
    lines = [
        "# The rubric",
        "",
        "Made from `classifiers/data/rubric.yaml` by `python -m classifiers.rubric_page`, as the judge's prompt is.",
        "The highest level whose criteria are met counts; levels are never added up.",
        "",
        "| level | name | criteria |",
        "|---|---|---|",
        *(f"| {level.level} | {level.name} | {' '.join(level.criteria.split())} |" for level in LEVELS),
        "",
        "A text has exactly one category; `none` if and only if its level is 0.",
        "",
        "| category | what | on the card as | never trained on |",
        "|---|---|---|---|",
        *(
            f"| {category.name} | {' '.join(category.description.split())} | {category.card or '-'} | "
            f"{'yes' if category.never_train else ''} |"
            for category in CATEGORIES
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(rubric_page(), end="")
