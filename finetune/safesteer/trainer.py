"""SafeSteer as a `transformers.Trainer`: samples each step's answers from the student, then computes its loss on them."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from torch.utils.data import SequentialSampler

from finetune.errors import DivergenceError
from finetune.safesteer.losses import full_reverse_kl, log_probabilities, position_losses, reduce_positions
from finetune.safesteer.rollouts import PlannedAnswer, answer_logits, rollout_batch
from finetune.safesteer.sampling import AnswerRequest, SampledAnswer, SamplingLimits, paired, sample_answers
from finetune.safesteer.teacher import SteeredTeacher
from finetune.training import on_one_device

Loss = Literal["partial", "generalised", "bucketed", "full"]


@dataclass(frozen=True)
class SafeSteerSettings:
    """`token_ids`: S; the loss "full" takes it for the log alone. `refusal_ids`: first tokens of refusals, for the log."""

    loss: Loss
    token_ids: tuple[int, ...]
    refusal_ids: frozenset[int]
    limits: SamplingLimits
    sampling_batch: int
    pad_id: int
    seed: int


class SafeSteerTrainer(transformers.Trainer):
    """Each optimiser step takes the next planned answers, samples them all from the student as it is now, pairs them with
    their prompts by id, and pulls the student to the teacher on them.

    The loss is the mean over a step's answers of the mean over each answer's tokens, however the step is cut into
    micro-batches. No gradient flows through the sampling. `rollouts` holds the last step's answers.
    """

    def __init__(
        self,
        model: Any,
        arguments: dict[str, Any],
        plan: Sequence[PlannedAnswer],
        teacher: SteeredTeacher,
        settings: SafeSteerSettings,
        **trainer_arguments: Any,
    ) -> None:
        args = on_one_device(transformers.TrainingArguments(**arguments))
        super().__init__(
            model=model,
            args=args,
            train_dataset=[{"answer": number} for number in range(len(plan))],
            data_collator=_numbers,
            **trainer_arguments,
        )
        # Our loss is already divided by the answers of the whole step.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True
        self.plan, self.teacher, self.settings = plan, teacher, settings
        self.token_ids = torch.tensor(settings.token_ids, dtype=torch.long, device=args.device)
        self.rollouts: list[SampledAnswer] = []
        self._seen: dict[str, list[float]] = {}

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        """The plan is in order already."""
        return SequentialSampler(self.plan)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], int | None]:
        """The micro-batches of one step, sampled now; and how many answers they hold."""
        numbered = []
        for batch in epoch_iterator:
            numbered.append(batch["answers"].tolist())
            if len(numbered) == num_batches:
                break
        if not numbered:
            return [], None
        self.rollouts = self.sample([number for batch in numbered for number in batch])
        answers = iter(self.rollouts)
        batches = [rollout_batch([next(answers) for _ in batch], self.settings.pad_id) for batch in numbered]
        return batches, len(self.rollouts)

    def sample(self, numbers: Sequence[int]) -> list[SampledAnswer]:
        """Answers to the planned numbers from the student as it is now, in their order."""
        settings, step = self.settings, self.state.global_step
        requests = [
            AnswerRequest(f"{one.prompt.id}#{one.sample}@{step}", one.prompt.token_ids)
            for one in (self.plan[number] for number in numbers)
        ]
        model = self.accelerator.unwrap_model(self.model)
        with self.accelerator.autocast():
            answers = list(
                sample_answers(
                    model, requests, settings.limits, settings.seed, settings.pad_id, settings.sampling_batch
                )
            )
        rollouts = paired(requests, answers)
        self._note("answer_tokens", statistics.fmean(len(answer.answer) for answer in rollouts))
        refused = sum(answer.answer[0] in settings.refusal_ids for answer in rollouts)
        self._note("refusal_share", refused / len(rollouts))
        cut = sum(answer.answer[-1] not in settings.limits.end_ids for answer in rollouts)
        self._note("cut_share", cut / len(rollouts))
        return rollouts

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The step's loss that comes from these answers; all of it, where `num_items_in_batch` is None."""
        mask = inputs["response_mask"]
        forward: dict[str, Any] = {name: inputs[name] for name in ("input_ids", "attention_mask", "position_ids")}
        forward["logits_to_keep"] = mask.shape[1] + 1
        with self.accelerator.autocast():
            # The teacher first: where it shares the student's weights, its switches are back before gradients are recorded.
            teacher = answer_logits(self.teacher.logits(**forward))
            outputs = model(**forward, use_cache=False)
        student = answer_logits(outputs.logits)
        total = self._total_loss(student, teacher, mask)
        loss = total / (len(mask) if num_items_in_batch is None else num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the means since the last entry of what was noted: masses of S, lengths, shares."""
        if "loss" in logs:
            logs |= {name: statistics.fmean(values) for name, values in self._seen.items()}
            self._seen.clear()
            if not math.isfinite(logs["loss"]) or not math.isfinite(logs.get("grad_norm", 0.0)):
                raise DivergenceError(
                    f"update {self.state.global_step}: the loss or its gradient is not finite; lower lr or clip_grad"
                )
        super().log(logs, *args, **kwargs)

    def _note(self, name: str, value: float) -> None:
        self._seen.setdefault(name, []).append(value)

    def _total_loss(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """The sum over answers of their mean losses; logits [answers, longest answer, vocabulary]. Notes the masses of S."""
        form = self.settings.loss
        with torch.set_grad_enabled(form != "full"):
            log_p = log_probabilities(student, self.token_ids)
        log_q = log_probabilities(teacher, self.token_ids)
        for name, columns in (("student_mass", log_p), ("teacher_mass", log_q)):
            self._note(name, float(columns.detach()[mask].exp().sum(-1).mean()))
        if form == "full":
            return full_reverse_kl(student, teacher, mask, "sum")
        return reduce_positions(position_losses(student, teacher, log_p, log_q, self.token_ids, form), mask, "sum")


def _numbers(rows: Sequence[dict[str, int]]) -> dict[str, Tensor]:
    return {"answers": torch.tensor([row["answer"] for row in rows])}
