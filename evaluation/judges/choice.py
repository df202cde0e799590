"""Which judge a recipe's name means."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from classifiers.errors import RecipeError
from evaluation.judges.llm_judges import LLM_JUDGES, LlmJudge
from evaluation.judges.safety_classifier import SafetyClassifierJudge
from evaluation.judges.string_rules import RefusalStrings, XSTestMatcher
from evaluation.judges.verdict import Judge
from rephrasers.servers import ServerSettings

JUDGE_NAMES = ("refusal_strings", "xstest_strings", "safety_classifier", *LLM_JUDGES)


class JudgeChoice(BaseModel):
    """One judge of a recipe: a name, or a name with the server that the judge's model is asked through."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    server: ServerSettings | None = Field(None, description="of an LLM judge; null: the recipe's judge_server")
    unsafe_from: int = Field(3, ge=1, le=5, description="safety_classifier: the level that is a success of the attack")

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


def score_range(name: str) -> tuple[float, float] | None:
    """The range of the scores that a judge of this name gives; None where it gives none or is none of ours."""
    if name == SafetyClassifierJudge.name:
        return SafetyClassifierJudge.score_range
    return LLM_JUDGES[name].score_range if name in LLM_JUDGES else None


def make_judge(choice: JudgeChoice, default_server: ServerSettings | None, threads: int = 1) -> Judge:
    """The judge. Raises RecipeError for an unknown name, or for an LLM judge without a server."""
    if choice.name == "refusal_strings":
        return RefusalStrings()
    if choice.name == "xstest_strings":
        return XSTestMatcher()
    if choice.name == "safety_classifier":
        return SafetyClassifierJudge(choice.unsafe_from, threads)
    if choice.name not in LLM_JUDGES:
        raise RecipeError(f"there is no judge {choice.name!r}; known: {', '.join(JUDGE_NAMES)}")
    server = choice.server or default_server
    if server is None:
        raise RecipeError(
            f"judge {choice.name!r} asks a language model, and none is named: add judge_server: {{model: ...}} "
            "(or {url: http://..., model: ...}) to the recipe, or take refusal_strings, which needs none"
        )
    return LlmJudge(LLM_JUDGES[choice.name], server)
