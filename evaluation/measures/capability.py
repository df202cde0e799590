"""Is the model still useful: lm-eval's tasks (optional dependency)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from classifiers.errors import DependencyError, RecipeError

# Utility tasks of Safety Pretraining under lm-eval's names.
PAPER_TASKS = (
    "arc_challenge", "arc_easy", "commonsense_qa", "gsm8k", "openbookqa", "piqa", "triviaqa", "winogrande", "mmlu",
)  # fmt: skip


def capability(
    model_folder: Path | str,
    tasks: Sequence[str],
    task_folder: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    chat: bool = False,
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """{task: {"metric,filter": value}} of lm-eval, its standard errors under "metric_stderr,filter".

    task_folder: YAML tasks of one's own (`dataset_path: json` runs offline). limit: documents a task.
    Raises DependencyError without lm-eval, RecipeError for a task that it does not know.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise DependencyError(
            f"capability needs lm-eval ({error.name} is missing): pip install 'safetrove[eval]'"
        ) from error
    manager = TaskManager(include_path=None if task_folder is None else str(task_folder))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise RecipeError(f"lm-eval knows no task {unknown[0]!r}; `lm-eval ls tasks` lists them")
    model = HFLM(pretrained=str(model_folder), device=device, batch_size=batch_size)
    found: dict[str, Any] = simple_evaluate(
        model=model, tasks=list(tasks), task_manager=manager, limit=limit, apply_chat_template=chat, bootstrap_iters=0
    )
    return {
        task: {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        for task, values in found["results"].items()
    }
