"""The room's supervised trainer on rows whose order was chosen before."""

from typing import Any

from torch.utils.data import SequentialSampler
from transformers import TrainingArguments

from finetune.trainer import SupervisedTrainer
from finetune.training import on_one_device


class OrderedTrainer(SupervisedTrainer):
    """Cross-entropy on the assistant's tokens, rows in the order they are given: those of a prompt stay beside each other."""

    def __init__(self, model: Any, arguments: dict[str, Any], rows: list[dict[str, Any]], collator: Any) -> None:
        self._rows = rows
        args = on_one_device(TrainingArguments(**arguments))
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=collator, objective=None)

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self._rows)
