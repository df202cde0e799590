"""One step of safe decoding for the live rows of all prompts: next-token scores, the candidates' risks, the survivors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from classifiers.errors import ModelError
from decoding.candidate_filter import boundary_risk, tag_probability
from decoding.candidate_forward import CandidateForward
from decoding.prompt_checks import check_context, check_tag_id, checked_mask
from decoding.safe_options import FilterOptions, SafeOutput

if TYPE_CHECKING:
    from torch import Tensor

# A finished row: generated ids, log p, the risk of each.
Finished = tuple[Sequence[int], float, Sequence[float]]


class SafeStep:
    """The model at the live rows: `log_probs_rv` [rows, vocabulary] of the next token, and their `risks`.

    Raises DataError and ModelError for what `decoding.prompt_checks` finds.
    """

    def __init__(
        self,
        model: Any,
        input_ids: "Tensor",
        attention_mask: "Tensor | None",
        tag_token_id: int,
        options: FilterOptions,
    ) -> None:
        risk_id = tag_token_id if options.risk_token_id is None else options.risk_token_id
        check_tag_id(model, tag_token_id)
        check_tag_id(model, risk_id)
        mask = checked_mask(input_ids, attention_mask)
        check_context(model, int(mask.sum(-1).max()), options.max_new_tokens)
        self.prompts = input_ids.to(model.device)
        mask = mask.to(model.device)
        self.end_ids, self.pad_id = _special_ids(model, options)
        self._tag_id, self._risk_id, self._options = tag_token_id, risk_id, options
        starts = options.word_start_ids if options.risk == "boundary" else None
        # Neither an end token nor the tag begins a word.
        ordinary = [i for i in starts or () if i not in (tag_token_id, risk_id, *self.end_ids)]
        self._word_starts = self.prompts.new_tensor(ordinary) if starts else None
        self._forward = CandidateForward(model, options.look_ahead)
        self.log_probs_rv = _log_softmax(self._forward.prefill(self.prompts, mask))
        self.risks: list[float] = self._risk(self.log_probs_rv).tolist()
        self._ahead_rnv: Tensor | None = None

    def prompt_ids(self, prompt: int) -> list[int]:
        """The ids of a prompt as they were given, with its padding."""
        ids: list[int] = self.prompts[prompt].tolist()
        return ids

    def scores(self, owners: Sequence[int], generated: Sequence[Sequence[int]]) -> "Tensor":
        """Log-probabilities [rows, vocabulary] of what may come next: without the tag, after the processors, not renormalised.

        owners: the prompt of each row; generated: its ids so far.
        """
        scores = self.log_probs_rv.clone()
        if self._options.logits_processor:
            scores = self._options.logits_processor(self.sequences(owners, generated), scores)
        banned = [self._tag_id]
        if len(generated[0]) < self._options.min_new_tokens:
            banned += self.end_ids
        scores[:, banned] = float("-inf")
        return scores

    def sequences(self, owners: Sequence[int], generated: Sequence[Sequence[int]]) -> "Tensor":
        """Prompts with what was generated [rows, prompt + generated]; all rows have generated as many tokens."""
        import torch

        return torch.cat([self.prompts[list(owners)], self.prompts.new_tensor(generated).long()], dim=-1)

    def look_ahead(self, candidates_rn: "Tensor") -> list[list[float]]:
        """The risk of each candidate [rows][candidates]: of the text that ends with it; for an end token, of the text before."""
        self._ahead_rnv = _log_softmax(self._forward.look_ahead(candidates_rn))
        risks: list[list[float]] = self._risk(self._ahead_rnv).tolist()
        for row, ids in enumerate(candidates_rn.tolist()):
            for column, token in enumerate(ids):
                if token in self.end_ids:
                    risks[row][column] = self.risks[row]
        return risks

    def keep(self, rows: Sequence[int], columns: Sequence[int], risks: Sequence[float]) -> None:
        """The candidates that go on, by row and column of the last look-ahead; its distributions become the next ones."""
        assert self._ahead_rnv is not None
        at_rows, at_columns = self.prompts.new_tensor(list(rows)), self.prompts.new_tensor(list(columns))
        self._forward.keep(at_rows, at_columns, self._ahead_rnv.shape[1])
        self.log_probs_rv = self._ahead_rnv[at_rows, at_columns]
        self.risks = list(risks)

    def ended(self, owners: Sequence[int], generated: Sequence[Sequence[int]]) -> list[bool]:
        """Which rows have ended: by an end token, or by the stopping criteria."""
        by_token = [ids[-1] in self.end_ids for ids in generated]
        criteria = self._options.stopping_criteria
        if not criteria or not generated:
            return by_token
        stopped = criteria(self.sequences(owners, generated), None).tolist()
        return [a or b for a, b in zip(by_token, stopped, strict=True)]

    def output(self, finished: Sequence[tuple[int, Finished, float]]) -> SafeOutput:
        """The rows (prompt, what it generated, score) as tensors."""
        import torch

        longest = max(len(row[0]) for _, row, _ in finished)
        ids = torch.full((len(finished), longest), self.pad_id)
        risks = torch.full((len(finished), longest), float("nan"))
        for place, (_, (tokens, _, row_risks), _) in enumerate(finished):
            ids[place, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            risks[place, : len(tokens)] = torch.tensor(row_risks)
        owners = [prompt for prompt, _, _ in finished]
        return SafeOutput(
            sequences=torch.cat([self.prompts[owners], ids.to(self.prompts)], dim=-1),
            scores=torch.tensor([score for _, _, score in finished]),
            log_probs=torch.tensor([log_prob for _, (_, log_prob, _), _ in finished]),
            lengths=torch.tensor([len(tokens) for _, (tokens, _, _), _ in finished]),
            risks=risks,
        )

    def _risk(self, log_probs: "Tensor") -> "Tensor":
        if self._word_starts is None:
            return tag_probability(log_probs, self._risk_id)
        return boundary_risk(log_probs, self._risk_id, self._word_starts)


def _log_softmax(logits: "Tensor") -> "Tensor":
    return logits.float().log_softmax(-1)


def _special_ids(model: Any, options: FilterOptions) -> tuple[list[int], int]:
    """(end ids, padding id)."""
    config = getattr(model, "generation_config", None)
    named: Any = options.eos_token_ids
    if named is None:
        named = getattr(config, "eos_token_id", None)
    ends = [named] if named is None or isinstance(named, int) else named
    end_ids = sorted({int(i) for i in ends if i is not None})
    if not end_ids:
        raise ModelError("the model names no end token: give eos_token_ids, or set it in its generation_config.json")
    padding = options.pad_token_id if options.pad_token_id is not None else getattr(config, "pad_token_id", None)
    return end_ids, end_ids[0] if padding is None else int(padding)
