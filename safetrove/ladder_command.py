"""`safetrove evaluate ladder`: every rung and seed in a process of its own, then the table beside the paper's numbers.

OUTPUT/ladder_recipe.json   what the numbers depend on; another recipe is refused here
OUTPUT/ladder.{json,md,png} from whatever is evaluated so far
"""

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from classifiers.errors import DataError, IdentityError, ModelError, RecipeError
from evaluation.files import make_folder, read_json, write_json, write_whole
from evaluation.ladder.rungs import COLUMNS, RUNG_OF
from evaluation.ladder.table import Ladder, RungFacts, SourceUse, ladder_json, ladder_markdown
from evaluation.results import RESULT_FILE, read_result
from evaluation.run import judges_and_suites
from pipeline.executors.die_with_parent import die_with_parent
from pipeline.manifest import identity_difference
from safetrove.ladder_recipe import LadderRecipe, ladder_identity, load_ladder
from safetrove.ladder_steps import chain_folder, chats_file, evaluation_folder, installation, is_done, run_chain
from safetrove.ladder_tokens import sources_file, write_tokens
from safetrove.own_texts import read_own, write_chats

FROZEN = "ladder_recipe.json"
Chain = tuple[str, int]  # rung, seed


def run_ladder(
    path: Path, overrides: Sequence[str], output: Path, rungs: Sequence[str] = (), seeds: Sequence[int] = ()
) -> int:
    """Does what is left of the chosen rungs and seeds (none named: all of them), writes the report and prints the table; 0.

    Raises RecipeError, IdentityError for an output of another recipe, ModelError where a rung failed (the others are done).
    """
    recipe = load_ladder(path, overrides)
    chains = _chosen(recipe, rungs, seeds)
    if not all(is_done(output, *chain) for chain in chains):
        # Before anything is frozen or trained: a suite that is not there can still be left out of the recipe.
        judges_and_suites(recipe.evaluating())
    with _exclusive(output):
        uses = prepare(recipe, output)
    began = time.monotonic()
    failed: list[Chain] = []
    blocked: list[Chain] = []
    left = [chain for chain in chains if not is_done(output, *chain)]
    if len(left) == 1:
        run_chain(recipe, output, *left[0], report=_say)
    else:
        # Safe Beam decodes the models of another rung, which must be there first.
        trained = [chain for chain in left if RUNG_OF[chain[0]].decodes is None]
        failed = _run_apart(path, overrides, output, trained, recipe.workers)
        blocked = [(rung, seed) for rung, seed in left if (RUNG_OF[rung].decodes, seed) in failed]
        decoding = [chain for chain in left if chain not in [*trained, *blocked]]
        failed += _run_apart(path, overrides, output, decoding, recipe.workers)
    if any(is_done(output, rung, seed) for rung in recipe.rungs for seed in recipe.seeds):
        print("\n" + write_report(recipe, output, uses))
        print(
            f"{output / 'ladder.md'}, ladder.json, ladder.png; {len(left) - len(failed) - len(blocked)} models in "
            f"{time.monotonic() - began:.0f} s"
        )
    if failed:
        logs = ", ".join(str(chain_folder(output, *chain) / "log.txt") for chain in failed)
        raise ModelError(
            f"{len(failed) + len(blocked)} of {len(left)} models are not done; why stands at the end of {logs}. After mending the cause run "
            "the same command again: what is done is kept"
        )
    return 0


def prepare(recipe: LadderRecipe, output: Path) -> dict[str, list[SourceUse]]:
    """Freezes the recipe, writes tokens and chats where they are missing; how each rung uses its sources.

    Raises IdentityError with the difference where `output` holds another recipe's ladder.
    """
    blend = recipe.corpus / "tokens" / "blend.json"
    if not blend.is_file():
        raise DataError(f"corpus {recipe.corpus}: it has no tokens/blend.json; give a `safetrove run` that is finished")
    wanted = json.loads(json.dumps(ladder_identity(recipe, blend)))
    frozen, ready = output / FROZEN, sources_file(output).is_file()
    _refuse_foreign(output)
    # Until tokens and chats are there nothing was trained: a recipe that failed so far may be mended.
    if ready and (different := identity_difference(read_json(frozen), wanted)):
        lines = [f"    {key}: {old!r} -> {new!r}" for key, (old, new) in different.items()]
        raise IdentityError(
            f"{output} holds the ladder of another recipe:\n"
            + "\n".join(lines)
            + "\nName another --output, or delete it. "
            "Seeds may be added to the recipe of an old one."
        )
    if not ready:
        write_json(frozen, wanted)
        for name, files in recipe.chats.items():
            if left_out := write_chats(read_own(files), chats_file(output, name)):
                print(f"chats {name}: {left_out} rows are no dialogue of two and are left out")
    return write_tokens(recipe, output)


def write_report(recipe: LadderRecipe, output: Path, uses: dict[str, list[SourceUse]]) -> str:
    """Writes ladder.json, ladder.md and ladder.png from what is evaluated so far; the Markdown. DataError: nothing is."""
    from evaluation.ladder.figure import draw_ladder

    ladder = read_ladder(recipe, output, uses)
    if not ladder.results():
        raise DataError(f"{output}: no rung is evaluated yet")
    text = ladder_markdown(ladder)
    with _exclusive(output):
        write_json(output / "ladder.json", ladder_json(ladder))
        write_whole(output / "ladder.md", text)
        write_whole(output / "ladder.png", draw_ladder(ladder))
    return text


def read_ladder(recipe: LadderRecipe, output: Path, uses: dict[str, list[SourceUse]]) -> Ladder:
    """The ladder from its folders, as far as it is done."""
    evaluations = {
        rung: {
            column: {
                str(seed): read_result(folder)
                for seed in recipe.seeds
                if ((folder := evaluation_folder(output, rung, seed, column)) / RESULT_FILE).is_file()
            }
            for column in COLUMNS
        }
        for rung in recipe.rungs
    }
    pretraining = recipe.pretraining()
    facts = {rung: RungFacts(found, _losses(recipe, output, rung)) for rung, found in uses.items()}
    tokens = pretraining.train_iters * pretraining.global_batch_size * pretraining.seq_length
    return Ladder(recipe.rungs, recipe.seeds, tokens, evaluations, facts, _notes(recipe, uses))


def _losses(recipe: LadderRecipe, output: Path, rung: str) -> dict[str, float]:
    """Means over the seeds that have them."""
    found: dict[str, list[float]] = {}
    for seed in recipe.seeds:
        folder = chain_folder(output, rung, seed)
        metrics, tuned = folder / "pretrain" / "metrics.jsonl", folder / "benign" / "finetune.json"
        if (folder / "base").is_dir():
            rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
            found.setdefault("last loss of pretraining", []).append([row["loss"] for row in rows if "loss" in row][-1])
        if tuned.is_file():
            measured = read_json(tuned)["metrics"]
            for when in ("before", "after"):
                if (loss := measured[f"held_out_loss_{when}"]) is not None:
                    found.setdefault(f"held-out benign loss {when} its tuning", []).append(loss)
    return {name: sum(losses) / len(losses) for name, losses in found.items()}


def _notes(recipe: LadderRecipe, uses: dict[str, list[SourceUse]]) -> list[str]:
    notes = []
    if own := {use.name: use for found in uses.values() for use in found if "own texts" in use.note}:
        notes.append(
            "Texts of our own stand in for an LLM's, so these rungs are not rewrites of the corpus: "
            + "; ".join(f"{name}: {use.note}, {use.tokens:,} tokens in all" for name, use in own.items())
            + "."
        )
    rising = sorted((use for found in uses.values() for use in found), key=lambda use: use.epochs)
    most = {use.name: use.epochs for use in rising}  # a source's largest, whatever the rung
    repeated = {name: epochs for name, epochs in most.items() if epochs > 4}
    if repeated:
        shown = ", ".join(f"{name} {epochs:.1f} times" for name, epochs in repeated.items())
        notes.append(f"Read more than four times in some rung: {shown}. A source that small is partly learnt by heart.")
    notes.append(
        "`refusal_strings` reads wording alone: nonsense that does not refuse counts as success. `safety_classifier` reads the "
        "answer alone: nonsense that is harmless counts as safe. Read them together."
    )
    return notes


def _chosen(recipe: LadderRecipe, rungs: Sequence[str], seeds: Sequence[int]) -> list[Chain]:
    if unknown := [rung for rung in rungs if rung not in recipe.rungs]:
        raise RecipeError(f"--rung {unknown[0]}: the recipe's rungs are {', '.join(recipe.rungs)}")
    if other := [seed for seed in seeds if seed not in recipe.seeds]:
        raise RecipeError(f"--seed {other[0]}: the recipe's seeds are {', '.join(map(str, recipe.seeds))}")
    needed = {RUNG_OF[rung].decodes for rung in rungs} | {*rungs}
    return [(r, s) for r in recipe.rungs if not rungs or r in needed for s in recipe.seeds if not seeds or s in seeds]


def _run_apart(
    path: Path, overrides: Sequence[str], output: Path, chains: Sequence[Chain], workers: int
) -> list[Chain]:
    """Runs each chain as a command of its own, `workers` at a time, its output in the chain's log.txt; those that failed."""
    failed: list[Chain] = []
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_run_command, path, overrides, output, chain): chain for chain in chains}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                rung, seed = futures[future]
                code, seconds = future.result()
                _say(
                    f"{number} of {len(chains)}: {RUNG_OF[rung].title}, seed {seed}: {'failed' if code else 'done'} in {seconds:.0f} s"
                )
                failed += [(rung, seed)] if code else []
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _run_command(path: Path, overrides: Sequence[str], output: Path, chain: Chain) -> tuple[int, float]:
    """(exit code, seconds)."""
    folder, began = chain_folder(output, *chain), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    settings = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "safetrove", "evaluate", "ladder", str(path), "--output", str(output), *settings]
    command += ["--rung", chain[0], "--seed", str(chain[1])]
    environment = {**installation(), "TQDM_DISABLE": "1"}  # bars are no lines of a log
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        # a model that goes on without its ladder would be in the way of the next call
        code = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, preexec_fn=die_with_parent
        ).returncode
    return code, time.monotonic() - began


@contextmanager
def _exclusive(output: Path) -> Iterator[None]:
    """One process at a time prepares or reports; the others wait."""
    make_folder(output)
    if not (output / ".lock").exists():
        _refuse_foreign(output)  # before anything is written into it
    with (output / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_foreign(output: Path) -> None:
    if not (output / FROZEN).is_file() and any(path.name != ".lock" for path in output.iterdir()):
        raise DataError(f"{output}: the folder is not empty and no ladder of ours; give another --output")


def _say(line: str) -> None:
    print(line, flush=True)
