"""From the measured rates of a run (`benchmarks.scale`) to a corpus of another size."""

from dataclasses import dataclass
from typing import Any

from pipeline.publishing.plan import ADVISED_FILES, CommitBounds

# What the Hub allows a repository (huggingface.co/docs/hub/rate-limits, storage-limits).
COMMITS_AN_HOUR = 128
_SINGLE = ("blend", "report", "tokenizer")


@dataclass(frozen=True)
class Project:
    """`tokens` of the whole corpus, `shards` of input, `nodes` of `cores` each; tasks of the duplicate search."""

    tokens: float
    shards: int
    nodes: int
    cores: int
    dedup_buckets: int = 64


def projection(measured: dict[str, Any], project: Project) -> str:
    """Markdown: a row a stage (core hours, disk, files), then the sums.

    Core time and disk go with the characters, files with the shards. `blend` reads something of every shard in one task;
    `tokenizer` and `report` stay as they were. Of scratch, only what stays on disk is counted.
    """
    factor = project.tokens / measured["tokens"]
    per_shard = project.shards / measured["shards"]
    characters = measured["characters"] * factor
    lines = [
        f"{project.tokens:.3g} tokens, {characters:.3g} characters ({measured['characters'] / measured['tokens']:.2f} a token), "
        f"{measured['documents'] * factor:.3g} documents as long as those measured ({measured['characters'] / measured['documents']:.0f} "
        f"characters), {project.shards:,} shards of {characters / project.shards / 1e6:.1f} million characters",
        "",
        "| stage | core hours | wall hours | a task | disk | files |",
        "|---|---|---|---|---|---|",
    ]
    cores = project.nodes * project.cores
    core_hours = wall_hours = size = files = 0.0
    for name, stage in measured["stages"].items():
        growth = {"blend": per_shard, "report": 1.0, "tokenizer": 1.0}.get(name, factor)
        hours = stage["seconds"] * growth / 3600
        single = name in _SINGLE
        tasks = 1 if single else round(stage["tasks"] * per_shard)
        if name == "dedup-find":
            tasks = project.dedup_buckets
        wall = hours / min(cores, tasks)
        bytes_here = stage["bytes"] * growth
        files_here = stage["files"] * (1 if single else tasks / stage["tasks"])
        core_hours, wall_hours = core_hours + hours, wall_hours + wall
        size, files = size + bytes_here, files + files_here
        lines.append(
            f"| {name} | {hours:,.1f} | {wall:.2f} | {hours * 3600 / tasks:,.0f} s | {bytes_here / 1e12:.3f} TB | {files_here:,.0f} |"
        )
    lines += [
        f"| all | {core_hours:,.0f} | {wall_hours:.1f} on {project.nodes} nodes of {project.cores} cores | | {size / 1e12:.2f} TB | {files:,.0f} |",
        "",
        _hub(project),
    ]
    return "\n".join(lines)


def _hub(project: Project) -> str:
    """Safe originals alone: one Parquet file a shard."""
    bounds = CommitBounds()
    commits = -(-project.shards // bounds.files)
    return (
        f"Hub: {project.shards:,} files of one configuration in {commits:,} commits of {bounds.files}, at least "
        f"{commits / COMMITS_AN_HOUR:.1f} hours of the {COMMITS_AN_HOUR} commits an hour that are allowed; "
        f"the Hub advises at most {ADVISED_FILES:,} files a repository"
    )
