"""datatrove's executor as shards use it."""

from datatrove.executor import LocalPipelineExecutor


class ShardExecutor(LocalPipelineExecutor):
    """datatrove's executor for one rank. The manifest is the completion mark: datatrove's empty file knows no identity."""

    def mark_rank_as_completed(self, rank: int) -> None:
        """Nothing: `ShardTask.commit` writes the manifest."""
