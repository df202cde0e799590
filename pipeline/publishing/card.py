"""The card of a published corpus (README.md): metadata with the configurations, report card, columns, limits, licences."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.dataset_export.card import (
    KIND_WHAT,
    hub_licence,
    limits_text,
    making_text,
    numbers_text,
    size_category,
)
from pipeline.dataset_export.export import Counts
from pipeline.publishing.configurations import KINDS, config_columns, yields_name
from pipeline.publishing.plan import SAFE, TAGGED, ConfigRows, shard_pattern
from pipeline.publishing.refusals import is_unstated
from pipeline.recipe import Recipe
from pipeline.report.markdown import escape, render_markdown, table

WHAT = {
    SAFE: "Originals that every classifier scored 0.",
    **KIND_WHAT,
    TAGGED: "**Unsafe originals** (score 1 to 5), for training with harmfulness tags only: `slots` says before which words "
    "a tag goes. Do not train on these texts without the tags.",
}
YIELDS_WHAT = "What was written for this kind, what passed verification, and why the rest did not, style by style."
_LANGUAGE = re.compile(r"[a-z]{2,3}")


def corpus_card(
    recipe: Recipe, report: Mapping[str, Any], repo: str, configs: list[ConfigRows], counts: Mapping[str, Counts], shards: int
) -> str:  # fmt: skip
    """README.md. `report` is the Data Safety Report Card's data, `counts` those of each configuration with texts."""
    head = yaml.safe_dump(card_metadata(recipe, configs, counts, shards), sort_keys=False, allow_unicode=True)
    texts = [config for config in configs if config.name in counts]
    parts = [
        f"# {escape(recipe.name)}",
        "A corpus for safety pretraining, made with safetrove: web text that was scored, and rewritten where it was unsafe.",
        _contents(configs),
        _loading(repo, texts),
        _report(report),
        *(_about(config, counts[config.name], recipe) for config in texts),
        *_synthetic_limits(counts),
        "## Licences\n\n" + _licences(recipe, counts),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def card_metadata(
    recipe: Recipe, configs: list[ConfigRows], counts: Mapping[str, Counts], shards: int
) -> dict[str, Any]:
    """The YAML head that the Hub and `datasets` read. The first configuration is the default one."""
    licences = sum((counted.by.get("licence", Counter()) for counted in counts.values()), Counter())
    spoken = sum((counted.by.get("language", Counter()) for counted in counts.values()), Counter())
    languages = sorted(language for language in spoken if _LANGUAGE.fullmatch(language) and language != "und")
    tags = ["safety", "safety-pretraining", "data-safety-report-card"]
    return {
        "pretty_name": recipe.name,
        "license": hub_licence(licences),
        **({"language": languages} if languages else {}),
        "task_categories": ["text-generation"],
        "tags": [*tags, "synthetic"] if any(kind in counts for kind in KINDS) else tags,
        "size_categories": [size_category(sum(counted.rows for counted in counts.values()))],
        "configs": [
            {
                "config_name": config.name,
                **({"default": True} if number == 0 else {}),
                "data_files": [{"split": config.split, "path": config_pattern(config, shards)}],
            }
            for number, config in enumerate(configs)
        ],
    }


def config_pattern(config: ConfigRows, shards: int) -> str:
    """The glob of a configuration's files."""
    return shard_pattern(config.name, shards) if config.split == "train" else f"{config.name}/*.parquet"


def _contents(configs: list[ConfigRows]) -> str:
    rows = [
        [f"`{config.name}`", f"`{config.split}`", f"{config.rows:,}", f"{config.files:,}", f"{config.bytes:,}"]
        for config in configs
    ]
    return "\n".join(table(["configuration", "split", "rows", "files", "bytes"], rows))


def _loading(repo: str, texts: list[ConfigRows]) -> str:
    if not texts:
        return (
            "**There are no texts in this corpus: nothing was safe, and nothing that was written passed verification.**"
        )
    return (
        f'```python\nfrom datasets import load_dataset\n\nload_dataset("{repo}", "{texts[0].name}", split="train")\n```'
    )


def _report(report: Mapping[str, Any]) -> str:
    """The report card, its headings one level down, its figure where it lies in the repository."""
    body = render_markdown(dict(report)).split("---\n", 2)[2].strip()
    body = body.replace("](card.png)", "](report/card.png)")
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in body.split("\n"))


def _about(config: ConfigRows, counts: Counts, recipe: Recipe) -> str:
    columns = [[f"`{name}`", what] for name, what in config_columns(config.name).items()]
    parts = [f"## Configuration `{config.name}`", WHAT[config.name]]
    if config.name in KINDS:
        parts += [numbers_text(counts), making_text(recipe, counts)]
        parts.append(f"`{yields_name(config.name)}`: {YIELDS_WHAT}")
    return "\n\n".join([*parts, "\n".join(table(["column", "content"], columns))])


def _synthetic_limits(counts: Mapping[str, Counts]) -> list[str]:
    written = Counts()
    for kind in KINDS:
        if kind in counts:
            written.merge(counts[kind])
    return ["## Limits of the synthetic texts\n\n" + limits_text(written)] if written.rows else []


def _licences(recipe: Recipe, counts: Mapping[str, Counts]) -> str:
    rows = [
        [
            escape(source.name),
            escape(source.licence) + (" **(not stated)**" if is_unstated(source.licence) else ""),
            f"{sum(counted.by.get('source', Counter())[source.name] for counted in counts.values()):,}",
        ]
        for source in recipe.sources
    ]
    note = (
        "Each row names its source and licence. Synthetic texts are derived from pages of their source; its terms apply"
    )
    return "\n".join(table(["source", "licence", "rows"], rows)) + f"\n\n{note}, and those of the writer's licence."
