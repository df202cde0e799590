"""How answers are generated."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class GenerationSettings(BaseModel):
    """Settings of one way to generate; frozen, unknown keys are errors. Tokens are the model's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(64, ge=1, description="of an answer, without the tokens of a prefill")
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="0: greedy")
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    seed: int = Field(0, description="with the prompt it fixes what is sampled, whatever the batch")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the processor multiplies it in hardware, else float32"
    )
    threads: int = Field(2, ge=1, description="of torch, on CPU")
    batch_tokens: int = Field(
        8192, ge=64, description="rows times the longest prompt with its answer, at most, a batch"
    )
    max_rows: int = Field(64, ge=1, description="of a batch")

    def of_answer(self) -> dict[str, object]:
        """What of these settings an answer depends on, whoever decodes."""
        sampling = {} if self.temperature == 0 else {"top_p": self.top_p, "seed": self.seed}
        return {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, **sampling}
