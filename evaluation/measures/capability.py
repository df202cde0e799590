"""Is the model still useful: lm-eval's tasks (optional dependency)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from classifiers.errors import DependencyError, RecipeError
from evaluation.files import make_folder, write_json
from evaluation.measures.intervals import normal_interval
from rephrasers.models import resolve_model

# Utility tasks of Safety Pretraining under lm-eval's names.
PAPER_TASKS: Final = (
    "arc_challenge", "arc_easy", "commonsense_qa", "gsm8k", "openbookqa", "piqa", "triviaqa", "winogrande", "mmlu",
)  # fmt: skip
RESULT_FILE: Final = "capability.json"
# Of metrics that have no closed form of their standard error.
_RESAMPLES: Final = 1000


@dataclass(frozen=True)
class TaskMeasure:
    """One metric of one task under lm-eval's names ("acc,none"). `low`, `high`: 95 %, normal, by lm-eval's standard error; None
    where it gives none. `n`: documents; None for a group of tasks."""

    task: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int | None

    def as_text(self) -> str:
        """ "piqa  acc,none  0.684 [0.662, 0.706]  n = 1838"."""
        interval = "" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.task}  {self.metric}  {self.value:.3f}{interval}" + ("" if self.n is None else f"  n = {self.n}")


def measure_capability(
    model: str,
    tasks: Sequence[str],
    output: Path,
    task_folder: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    chat: bool = False,
) -> list[TaskMeasure]:
    """lm-eval's tasks on a model (`resolve_model` says what a name means), kept in `output`/capability.json with what they depend on.

    task_folder: YAML tasks of one's own (`dataset_path: json` runs offline). limit: documents a task. chat: prompts in the
    model's chat template. Raises DependencyError without lm-eval, RecipeError for a task that it does not know, ModelError.
    """
    lm_eval, huggingface, manager_class = _lm_eval()
    manager = manager_class(include_path=None if task_folder is None else str(task_folder))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise RecipeError(f"lm-eval knows no task {unknown[0]!r}; `lm-eval ls tasks` lists them")
    reference = resolve_model(model)
    make_folder(output)
    revision = {} if reference.is_local else {"revision": reference.revision}
    loaded = huggingface(pretrained=reference.path_or_id, device=_device(), batch_size=batch_size, **revision)
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=loaded,
        tasks=list(tasks),
        task_manager=manager,
        limit=limit,
        apply_chat_template=chat,
        bootstrap_iters=_RESAMPLES,
    )
    measures = task_measures(found)
    write_json(
        output / RESULT_FILE,
        {
            "model": reference.description,
            "revision": reference.revision,
            "lm_eval": lm_eval.__version__,
            "task_versions": found["versions"],
            "limit": limit,
            "chat": chat,
            "measures": [asdict(measure) for measure in measures],
        },
    )
    return measures


def task_measures(found: dict[str, Any]) -> list[TaskMeasure]:
    """The metrics in what `lm_eval.simple_evaluate` gives, by task in its order."""
    measures = []
    for task, values in found["results"].items():
        n = found.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            interval = normal_interval(value, error, n or 0) if isinstance(error, int | float) else None
            low, high = (None, None) if interval is None else (interval.low, interval.high)
            measures.append(TaskMeasure(task, key, float(value), low, high, n))
    return measures


def _lm_eval() -> tuple[Any, Any, Any]:
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise DependencyError(
            f"capability needs lm-eval ({error.name} is missing): pip install 'safetrove[eval]'"
        ) from error
    return lm_eval, HFLM, TaskManager


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
