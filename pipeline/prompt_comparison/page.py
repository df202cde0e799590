"""The comparison as one HTML page: no script, nothing loaded from elsewhere, everything escaped, unsafe text folded away."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.prompt_comparison.comparison import Comparison

TEMPLATE = "page.html.j2"


def render_page(comparison: Comparison) -> str:
    """The whole page: the yields, then each document with its rewrites beside it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    yields = comparison.yields()
    return environment.get_template(TEMPLATE).render(
        comparison=comparison,
        yields=yields,
        passed=sum(row.passed for row in yields),
        asked=sum(row.asked for row in yields),
        documents=list(zip(comparison.documents, comparison.rewrites, strict=True)),
    )
