"""What NGSD costs: `python -m benchmarks.ngsd_speed [--expert FOLDER]`.

Four ways take turns in one process, prompt by prompt, on the same models, dtype and threads: greedy decoding of the base and of
the expert, each alone with its cache (the engine of `safetrove evaluate run`), NGSD with both caches and an expert that reads
every token at once, and NGSD with the deferred expert. Each answer is brought to the same number of tokens: no end token is
obeyed. Printed: milliseconds a token, the ratios with their spread over the turns, passes of the expert a token, and the
published way (no caches: both models read everything again for every token) at growing lengths.
Without --expert the expert is the base with noise added to its weights until it disagrees about as much as logged experts do;
an expert of the base's own size is the hardest case for these ratios, the published ones are 4 to 12 times smaller.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from decoding.ngsd import ChatModel, Deferral, NgsdSettings, Prompt, generate
from decoding.ngsd.fusion import disagreement, fused_choice, probabilities
from evaluation.generation.batched_decoding import decode_batch
from evaluation.generation.local_model import LocalModel
from evaluation.generation.settings import GenerationSettings
from evaluation.suites import load_suite
from rephrasers.embedded_writer import EMBEDDED_NAME


def without_end(side: ChatModel) -> ChatModel:
    """The same model with an end token that is never the likeliest: a row of the output matrix that is only padding or rare."""
    rare = side.tokenizer.convert_tokens_to_ids("<|im_start|>")
    side.model.generation_config.eos_token_id = rare
    side.tokenizer.eos_token = side.tokenizer.convert_ids_to_tokens(rare)
    return side


def noisy_copy(side: ChatModel, noise: float) -> ChatModel:
    """An expert that disagrees: every weight matrix times (1 + noise * normal), seed 0."""
    import copy

    import torch

    model = copy.deepcopy(side.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 1 + noise * torch.randn(parameter.shape, generator=generator).to(parameter)
    return ChatModel(model, side.tokenizer, "noisy expert")


def greedy(side: ChatModel, prompt: Prompt, tokens: int) -> int:
    """Tokens of one greedy answer with a cache."""
    import torch

    ids = side.tokenizer(side.render(prompt), add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        return len(decode_batch(side.model, [ids], tokens, frozenset({-1}), 0)[0])


def cacheless(base: ChatModel, expert: ChatModel, prompt: Prompt, tokens: int, settings: NgsdSettings) -> int:
    """The published way: both models read the whole sequence for every token."""
    import torch

    read = [side.tokenizer(side.render(prompt), add_special_tokens=False)["input_ids"] for side in (base, expert)]
    size, state, strength = len(base.tokenizer), settings.gate.initial(1), torch.tensor([settings.strength or 0.0])
    answer: list[int] = []
    with torch.inference_mode():
        while len(answer) < tokens:
            logits = [
                side.model(torch.tensor([[*ids, *answer]]), use_cache=False, logits_to_keep=1).logits[:, -1, :size]
                for side, ids in zip((base, expert), read, strict=True)
            ]
            p_base, p_expert = map(probabilities, logits)
            state, _, fired = settings.gate.step(state, disagreement(p_base, p_expert).double())
            own = logits[0].argmax(-1)
            chosen = fused_choice(p_base, p_expert, strength, settings.candidates, own) if bool(fired) else own
            answer.append(int(chosen))
    return len(answer)


def take_turns(ways: dict[str, Callable[[Prompt], Any]], prompts: list[Prompt], tokens: int) -> dict[str, list[float]]:
    """Milliseconds a token of each way and prompt; the order of the ways changes from prompt to prompt."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn, prompt in enumerate(prompts):
        names = list(ways)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            ways[name](prompt)
            spent[name].append((time.perf_counter() - started) / tokens * 1000)
    return spent


def ratio_line(what: str, above: list[float], below: list[float], limit: float) -> str:
    """Median, spread and whether the median holds."""
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    middle, low, high = statistics.median(ratios), ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    verdict = "holds" if middle <= limit else "does not hold"
    return f"{what}: {middle:.3f} (quartiles {low:.3f} to {high:.3f}, {len(ratios)} turns); limit {limit}: {verdict}"


def harmless_prompts(count: int) -> list[Prompt]:
    """Benign requests of our own suite."""
    return [Prompt.ask(p.text) for p in load_suite("own").prompts if p.kind == "benign"][:count]


def growth(base: ChatModel, expert: ChatModel, prompt: Prompt, lengths: list[int], settings: NgsdSettings) -> None:
    """Prints seconds of an answer with and without caches at each length."""
    for tokens in lengths:
        at = replace(settings, max_new_tokens=tokens)
        started = time.perf_counter()
        generate(base, expert, [prompt], at)
        cached = time.perf_counter() - started
        started = time.perf_counter()
        cacheless(base, expert, prompt, tokens, at)
        plain = time.perf_counter() - started
        print(
            f"{tokens} tokens: cached {cached:.2f} s, as published {plain:.2f} s, {plain / cached:.1f} times",
            flush=True,
        )


def main() -> None:
    """See the module."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=EMBEDDED_NAME)
    parser.add_argument("--expert", help="folder of a trained expert; default: the base with noise")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-queue", type=int, default=Deferral().max_queue)
    parser.add_argument("--max-undecided", type=int, default=Deferral().max_undecided)
    parser.add_argument("--lengths", type=int, nargs="*", default=[32, 64, 128, 256])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generation = GenerationSettings(dtype=options.dtype, threads=options.threads)
    loaded = LocalModel.load(options.model, generation)
    base = without_end(ChatModel(loaded.model, loaded.tokenizer, "base"))
    if options.expert:
        other = LocalModel.load(options.expert, generation)
        expert = without_end(ChatModel(other.model, other.tokenizer, "expert"))
    else:
        expert = noisy_copy(base, options.noise)
    immediate = NgsdSettings(max_new_tokens=options.tokens, strength=0.1, deferral=None, early_stop=None)
    deferral = Deferral(options.max_queue, options.max_undecided)
    ways = {
        "base greedy": lambda prompt: greedy(base, prompt, options.tokens),
        "expert greedy": lambda prompt: greedy(expert, prompt, options.tokens),
        "NGSD": lambda prompt: generate(base, expert, [prompt], immediate),
        "NGSD, deferred expert": lambda prompt: generate(base, expert, [prompt], replace(immediate, deferral=deferral)),
    }
    prompts = harmless_prompts(options.prompts)
    for way in ways.values():
        way(prompts[0])
    spent = take_turns(ways, prompts, options.tokens)
    print(f"{options.dtype}, {options.threads} threads, {options.tokens} tokens an answer, strength 0.1")
    for name, values in spent.items():
        print(f"{name}: {statistics.median(values):.1f} ms a token")
    both = [a + b for a, b in zip(spent["base greedy"], spent["expert greedy"], strict=True)]
    print(ratio_line("NGSD / (base greedy + expert greedy)", spent["NGSD"], both, 1.15))
    print(ratio_line("NGSD, deferred / base greedy", spent["NGSD, deferred expert"], spent["base greedy"], 1.3))
    describe(base, expert, prompts, immediate, deferral)
    growth(base, expert, prompts[0], options.lengths, replace(immediate, strength=0.9))


def describe(
    base: ChatModel, expert: ChatModel, prompts: list[Prompt], immediate: NgsdSettings, deferral: Deferral
) -> None:
    """Prints what both ways did, and whether they gave the same texts and traces."""
    at_once = [generate(base, expert, [prompt], immediate)[0] for prompt in prompts]
    later = [generate(base, expert, [prompt], replace(immediate, deferral=deferral))[0] for prompt in prompts]
    tokens = sum(len(answer.tokens) for answer in at_once)
    facts = {
        "same tokens": sum(a.tokens == b.tokens for a, b in zip(at_once, later, strict=True)) / len(prompts),
        "same fires": sum(
            [s.fired for s in a.trace] == [s.fired for s in b.trace] for a, b in zip(at_once, later, strict=True)
        )
        / len(prompts),
        "mean current": sum(s.current for a in at_once for s in a.trace) / tokens,
        "fire share": sum(s.fired for a in at_once for s in a.trace) / tokens,
        "changed share": sum(s.token != s.base_token for a in at_once for s in a.trace) / tokens,
        "expert passes a token": sum(a.work.expert_passes for a in later) / tokens,
        "expert passes a token, published rule of deferral": sum(
            generate(base, expert, [prompt], replace(immediate, deferral=Deferral(deferral.max_queue, 0)))[
                0
            ].work.expert_passes
            for prompt in prompts
        )
        / tokens,
        "base passes a token": sum(a.work.base_passes for a in later) / tokens,
        "fusion, ms a token (at once)": sum(a.work.fusion_seconds for a in at_once) / tokens * 1000,
    }
    print(json.dumps({name: round(value, 4) for name, value in facts.items()}, indent=1), flush=True)


if __name__ == "__main__":
    main()
