"""Batched generation against one prompt at a time: `python -m benchmarks.evaluation_speed --folder SUITES [--prompts 64]`.

One side: the engine of `safetrove evaluate run`. The other: `transformers.generate`, greedy, with its key-value cache, one
prompt after the other, the same model, dtype, threads and prompts. Both sides take turns in one process, on blocks of prompts
drawn evenly from the suites; printed: tokens and prompts a second, their ratio over the repetitions, and what the whole set
would take at that pace (an extrapolation). Processor time is printed too: on a machine that others use, it is the steadier clock.
"""

import argparse
import statistics
import time
from pathlib import Path

from evaluation.generation.local_model import LocalModel
from evaluation.generation.settings import GenerationSettings
from evaluation.suites import SuitePrompt, load_suite
from rephrasers.embedded_writer import EMBEDDED_NAME

SUITES = ("advbench", "jailbreakbench", "strongreject", "xstest")


def spread_prompts(folder: Path | None, count: int, suites: tuple[str, ...]) -> tuple[list[SuitePrompt], int]:
    """(`count` prompts spread evenly over the suites put end to end, how many there are in all)."""
    every = [prompt for name in suites for prompt in load_suite(name, folder).prompts]
    return [every[(2 * i + 1) * len(every) // (2 * count)] for i in range(count)], len(every)


def one_at_a_time(model: LocalModel, texts: list[str]) -> list[str]:
    """The baseline."""
    import torch

    answers = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])
            out = model.model.generate(
                ids, max_new_tokens=model.settings.max_new_tokens, do_sample=False, temperature=None, top_p=None,
                pad_token_id=model.tokenizer.eos_token_id,
            )  # fmt: skip
            answers.append(model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return answers


def main() -> None:
    """See the module."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="local copies of the suites; default: our own suite alone")
    parser.add_argument("--model", default=EMBEDDED_NAME)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--baseline-prompts", type=int, default=8, help="of these, one at a time in each repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=64)
    options = parser.parse_args()
    settings = GenerationSettings(dtype=options.dtype, threads=options.threads, max_new_tokens=options.new_tokens)
    model = LocalModel.load(options.model, settings)
    torch.set_num_threads(options.threads)
    prompts, total = spread_prompts(options.folder, options.prompts, SUITES if options.folder else ("own",))
    texts = [model.render(prompt, "chat") for prompt in prompts]
    step = max(1, len(texts) // options.baseline_prompts)
    few = texts[::step][: options.baseline_prompts]
    one_at_a_time(model, few[:1])
    rates: dict[str, list[tuple[float, float]]] = {"batched": [], "one at a time": []}
    for _ in range(options.repetitions):
        for side, chosen in (("batched", texts), ("one at a time", few)):
            wall, cpu = time.monotonic(), time.process_time()
            answers = model.generate(chosen) if side == "batched" else one_at_a_time(model, chosen)
            wall, cpu = time.monotonic() - wall, time.process_time() - cpu
            tokens = sum(len(model.tokenizer(answer)["input_ids"]) for answer in answers)
            rates[side].append((tokens / wall, tokens / cpu))
            print(
                f"{side}: {len(chosen)} prompts, {tokens} tokens in {wall:.1f} s ({cpu:.1f} s of processor time): "
                f"{tokens / wall:.1f} tokens/s, {len(chosen) / wall:.2f} prompts/s",
                flush=True,
            )
    for clock, name in enumerate(("wall clock", "processor time")):
        ratios = [a[clock] / b[clock] for a, b in zip(rates["batched"], rates["one at a time"], strict=True)]
        print(
            f"{model.identity()['dtype']}, {options.threads} threads, {name}: ratio {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f} over {len(ratios)} repetitions)"
        )
        pace = statistics.median(rate[clock] for rate in rates["batched"])
        minutes = total * options.new_tokens / pace / 60
        print(
            f"extrapolated: {total} prompts of {options.new_tokens} new tokens in at most {minutes:.1f} minutes of {name}"
        )


if __name__ == "__main__":
    main()
