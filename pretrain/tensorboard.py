"""TensorBoard's event files, where a recipe asks for them."""

from pathlib import Path

from pretrain.errors import PretrainDependencyError
from pretrain.metrics import Progress


class EventFiles:
    """Writes scalars under `folder`. Raises `PretrainDependencyError` where the tensorboard package is missing."""

    def __init__(self, folder: Path, resumed_from: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise PretrainDependencyError(
                "tensorboard: the package is not installed; pip install 'safetrove[train]', or leave the key out"
            ) from error
        # What an earlier part wrote after its checkpoint is hidden: those iterations come again.
        self._writer = SummaryWriter(str(folder), purge_step=resumed_from + 1)

    def add_progress(self, progress: Progress) -> None:
        """One point of each curve."""
        numbers = {key: value for key, value in vars(progress).items() if isinstance(value, int | float)}
        for name in ("iteration", "train_iters"):
            del numbers[name]
        for name, value in numbers.items():
            self._writer.add_scalar(f"train/{name}", value, progress.iteration)
        for kind in ("source", "level"):
            for name, tokens in getattr(progress, f"tokens_by_{kind}").items():
                self._writer.add_scalar(f"tokens_by_{kind}/{name}", tokens, progress.iteration)
        self._writer.flush()

    def add_validation(self, iteration: int, losses: dict[str, float]) -> None:
        """One point of each source's loss."""
        for source, loss in losses.items():
            self._writer.add_scalar(f"validation/{source}", loss, iteration)
        self._writer.flush()

    def close(self) -> None:
        """Nothing can be added afterwards."""
        self._writer.close()
