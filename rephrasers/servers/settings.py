"""What a recipe says about the server that writes: model, sampling, limits, and how it is started."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ServerKind = Literal["auto", "vllm", "sglang", "transformers", "endpoint"]


class ServerSettings(BaseModel):
    """Settings of one server; frozen, unknown keys are errors.

    Tokens are the model's own. Times are seconds. Sampling is part of every request;
    `sampling.sampling_notes` says what the chosen server makes of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: ServerKind = Field(
        "auto", description="auto: endpoint if `url` is given, else vllm if installed, else transformers"
    )
    model: str = Field(
        "embedded:SmolLM2-135M-Instruct",
        description="see `rephrasers.models.resolve_model`; for an endpoint its own name",
    )
    url: str | None = Field(None, description="base of an OpenAI-compatible endpoint, without /v1")
    api_key_variable: str | None = Field(None, description="environment variable that holds the endpoint's key")
    tokenizer: str | None = Field(None, description="folder or Hub id to count an endpoint's prompt tokens with")
    max_context: int = Field(2048, ge=64, description="prompt and answer together")
    max_tokens: int = Field(512, ge=1, description="of an answer")
    temperature: float = Field(0.7, ge=0.0, le=2.0)
    top_p: float = Field(0.9, gt=0.0, le=1.0)
    stop: tuple[str, ...] = Field(
        (), max_length=4, description="an answer ends before the first of these; cut here where the server ignores them"
    )
    send_seeds: bool = Field(
        True, description="send a seed with each request, drawn from the recipe's seed and the document's id"
    )
    concurrency: int = Field(16, ge=1, description="requests in flight at once")
    max_attempts: int = Field(5, ge=1, description="tries of one request before it is given up")
    max_restarts: int = Field(
        2, ge=0, description="how often a server of ours that ends is started again while one shard is asked about"
    )
    request_timeout_seconds: float = Field(600.0, gt=0)
    start_timeout_seconds: float = Field(600.0, gt=0)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    extra_arguments: tuple[str, ...] = Field((), description="appended to the server's command line")
    server_python: str | None = Field(
        None,
        description="the python of the environment that vLLM or SGLang is installed in; null: $SAFETROVE_VLLM_PYTHON for "
        "vLLM, else the one that runs this",
    )
    continuous_batching: bool = Field(
        True, description="kind transformers: false answers one request at a time; its decision endpoint needs that"
    )
    allow_remote_code_of: tuple[str, ...] = Field(
        (), description="models whose own code may run, each as org/name@commit; empty: none"
    )

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty stop string would end every answer before it begins")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "ServerSettings":
        if self.url is not None and "@" in urlsplit(self.url if "//" in self.url else f"//{self.url}").netloc:
            raise ValueError("`url` holds a user or a key, which the run folder would keep: use `api_key_variable`")
        if self.kind == "endpoint" and self.url is None:
            raise ValueError("kind 'endpoint' needs `url`")
        if self.url is not None and self.kind not in ("auto", "endpoint"):
            raise ValueError(f"`url` is for kind 'endpoint' (or 'auto'), not {self.kind!r}")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"`url` must begin with http:// or https://, got {self.url!r}")
        if any(argument.split("=")[0] in ("--api-key", "--hf-token") for argument in self.extra_arguments):
            raise ValueError(
                "`extra_arguments` holds a key, which the run folder would keep: set it in the server's environment "
                "(VLLM_API_KEY, HF_TOKEN)"
            )
        if self.max_tokens >= self.max_context:
            raise ValueError(
                f"max_tokens ({self.max_tokens}) leaves no room for a prompt in max_context ({self.max_context})"
            )
        if any("trust-remote-code" in argument or "trust_remote_code" in argument for argument in self.extra_arguments):
            raise ValueError("list the model in `allow_remote_code_of` instead of passing --trust-remote-code")
        return self

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens that a prompt may have, chat template included."""
        return self.max_context - self.max_tokens
