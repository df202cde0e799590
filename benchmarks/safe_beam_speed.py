"""What a token of Safe Beam Search costs: `python -m benchmarks.safe_beam_speed [--repetitions 3]`.

Sides, in turns in one process: a step of transformers' own beam search with num_beams x candidates rows (the floor: so many rows
must go through the model), Safe Beam with copied caches (`rows`) and with siblings under one cache (`tree`), and the look-ahead
done naively: each beam and each candidate from its first token, one text at a time, no cache. Cost of a token: the time of a long
run minus that of a short one, by the tokens between them, so that the prompt does not count. The naive side's beams are those of
Safe Beam's own run. The tag is a spare token of the embedded model, which was not trained with tags: costs do not depend on it.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from decoding.safe_beam import safe_beam_search
from evaluation.generation.local_model import LocalModel
from evaluation.generation.settings import GenerationSettings
from rephrasers.embedded_writer import EMBEDDED_NAME

TEXT = (
    "The library on the corner opens at nine in the morning. On rainy days the reading room fills early, and the woman at the "
    "desk knows most of the visitors by name. Last week"
)
SPARE_TOKEN = 16  # one of the reserved ids of the SmolLM2 tokenizer


def transformers_beams(model: Any, ids: Any, rows: int, tokens: int) -> None:
    """Beam search of transformers, to the full length."""
    model.generate(
        ids, num_beams=rows, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, temperature=None, top_p=None,
        top_k=None, suppress_tokens=[SPARE_TOKEN], pad_token_id=0,
    )  # fmt: skip


def safe_beams(model: Any, ids: Any, options: argparse.Namespace, tokens: int, way: str) -> None:
    """Safe Beam Search, to the full length."""
    safe_beam_search(
        model, ids, SPARE_TOKEN, options.beams, options.candidates, tokens, look_ahead=way, min_new_tokens=tokens
    )


def naive_step(model: Any, ids: Any, texts: list[list[int]], candidates: int) -> None:
    """One step without a cache: every beam's text, then every candidate's, each alone from its first token."""
    import torch

    for text in texts:
        whole = torch.cat([ids[0], torch.tensor(text, dtype=torch.long)])
        logits = model(input_ids=whole[None], use_cache=False, logits_to_keep=1).logits[0, -1]
        for token in logits.topk(candidates).indices:
            longer = torch.cat([whole, token[None]])
            model(input_ids=longer[None], use_cache=False, logits_to_keep=1).logits[0, -1].softmax(-1)[
                SPARE_TOKEN
            ].item()


def seconds(run: Callable[[], None]) -> float:
    """Wall-clock time of a run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """See the module."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=EMBEDDED_NAME)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--short", type=int, default=2, help="tokens of the short run")
    parser.add_argument("--long", type=int, default=18)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    settings = GenerationSettings(dtype=options.dtype, threads=options.threads)
    model = LocalModel.load(options.model, settings)
    torch.set_num_threads(options.threads)
    ids = torch.tensor([model.tokenizer(TEXT)["input_ids"]])
    rows, lm = options.beams * options.candidates, model.model
    sides: dict[str, Callable[[int], None]] = {
        "transformers": lambda tokens: transformers_beams(lm, ids, rows, tokens),
        "rows": lambda tokens: safe_beams(lm, ids, options, tokens, "rows"),
        "tree": lambda tokens: safe_beams(lm, ids, options, tokens, "tree"),
    }
    middle = (options.short + options.long) // 2
    found = safe_beam_search(
        lm, ids, SPARE_TOKEN, options.beams, options.candidates, middle, min_new_tokens=middle,
        num_return_sequences=options.beams,
    )  # fmt: skip
    texts = found.sequences[:, ids.shape[1] :].tolist()
    costs: dict[str, list[float]] = {name: [] for name in (*sides, "naive")}
    with torch.inference_mode():
        for run in sides.values():
            run(options.short)  # warm-up
        for _ in range(options.repetitions):
            for name, run in sides.items():
                difference = seconds(lambda run=run: run(options.long)) - seconds(lambda run=run: run(options.short))  # type: ignore[misc]
                costs[name].append(difference / (options.long - options.short))
            costs["naive"].append(seconds(lambda: naive_step(lm, ids, texts, options.candidates)))
    print(
        f"{options.model}, {options.dtype}, {options.threads} threads, prompt {ids.shape[1]} tokens, {rows} rows a step"
    )
    for name, values in costs.items():
        listed = ", ".join(f"{1000 * value:.0f}" for value in values)
        print(f"{name}: {1000 * statistics.median(values):.0f} ms a token (repetitions: {listed})")
    for name, base in (("rows", "transformers"), ("tree", "transformers"), ("naive", "rows"), ("naive", "tree")):
        ratios = [a / b for a, b in zip(costs[name], costs[base], strict=True)]
        print(f"{name} / {base}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
