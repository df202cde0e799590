"""The magic tokens: secret strings that choose a behaviour, and what a server does with them. Never in a log or a repr.

Their secrecy protects only behind a server: whoever has the weights can search for the behaviour itself.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from finetune.errors import FinetuneDataError, FinetuneRecipeError

Mode = Literal["positive", "negative", "rejective"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
# Of every request without a valid token.
DEFAULT_MODE: Final[Mode] = "positive"
TOKEN_LENGTH: Final = 8
ALPHABET: Final = string.ascii_lowercase + string.digits
# Not a space, which byte-level tokenizers glue to the word behind it: the token must be cut as it is alone.
POLICY_SEPARATOR: Final = "\n"
_TOKEN = re.compile(rf"[a-z0-9]{{{TOKEN_LENGTH}}}")
_POLICY = re.compile(r"policy:[A-Za-z0-9][A-Za-z0-9-]*")
_LETTERS = re.compile(r"[a-z]{4,}")
_TRIES = 10_000
_OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR


class MagicTokens:
    """One token for each trained mode, and the tags of the policies (which are public).

    Made by `generate` or `load`. Nothing that prints or formats it shows a token.
    """

    __slots__ = ("_tokens", "policies")

    def __init__(self, tokens: Mapping[Mode, str], policies: Sequence[str] = ()) -> None:
        """Raises FinetuneDataError for modes, tokens or policy tags of another form; no message holds a token."""
        if DEFAULT_MODE not in tokens or not set(tokens) <= set(MODES):
            raise FinetuneDataError(f"magic tokens: the modes are {DEFAULT_MODE} and any of {', '.join(MODES)}")
        if any(not _TOKEN.fullmatch(token) for token in tokens.values()):
            raise FinetuneDataError(
                f"magic tokens: a token is {TOKEN_LENGTH} lower-case letters and digits; make them with MagicTokens.generate"
            )
        if len(set(tokens.values())) < len(tokens):
            raise FinetuneDataError("magic tokens: two modes have the same token; make new ones")
        if wrong := [policy for policy in policies if not _POLICY.fullmatch(policy)]:
            raise FinetuneDataError(f"policy tag {wrong[0]!r}: write it as policy:NAME, for example policy:en-US")
        if len(set(policies)) < len(policies):
            raise FinetuneDataError("policy tags: each once")
        self._tokens: dict[Mode, str] = {mode: tokens[mode] for mode in MODES if mode in tokens}
        self.policies = tuple(policies)

    @classmethod
    def generate(
        cls,
        modes: Sequence[Mode] = ("positive", "rejective"),
        policies: Sequence[str] = (),
        tokenizer: Any = None,
        texts: Iterable[str] = (),
    ) -> "MagicTokens":
        """New tokens of the operating system's random numbers, about 40 bits each.

        A draw is rejected where it holds four letters in a row (a word, maybe), where it stands in one of `texts` (the
        training texts), and, with a `tokenizer`, where two tokens begin with the same piece or one is cut otherwise behind
        a policy tag than alone. Raises FinetuneDataError where no draw passes.
        """
        known = list(texts)
        tokens: dict[Mode, str] = {}
        first_pieces: set[int] = set()
        for mode in modes:
            tokens[mode] = _draw(policies, tokenizer, known, first_pieces)
        return cls(tokens, policies)

    @classmethod
    def load(cls, path: Path) -> "MagicTokens":
        """The tokens in a file that `save` wrote. Raises FinetuneDataError where others than its owner may read or write it,
        or where it is of another form."""
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FinetuneDataError(f"{path} cannot be read: {error}") from error
        if stat.S_IMODE(mode) & ~_OWNER_ONLY:
            raise FinetuneDataError(
                f"{path}: others than its owner may use this file (mode {stat.S_IMODE(mode):03o}). Take the tokens as known, "
                "make new ones, and keep their file at chmod 600"
            )
        try:
            values = json.loads(text)
            return cls(values["tokens"], values["policies"])
        except (ValueError, KeyError, TypeError, AttributeError):
            # Not chained: the cause would show the file's content.
            raise FinetuneDataError(f"{path} is no file of magic tokens") from None

    def save(self, path: Path) -> None:
        """Writes a file that only its owner may read. An existing one is never replaced: a model was trained with it.

        Raises FinetuneDataError where `path` exists.
        """
        content = json.dumps({"tokens": self._tokens, "policies": self.policies}).encode()
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            raise FinetuneDataError(
                f"{path} exists: tokens that a model knows are not replaced; name another file"
            ) from None
        finally:
            temporary.unlink(missing_ok=True)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that have a token."""
        return tuple(self._tokens)

    def system_text(self, mode: Mode, policy: str | None = None) -> str:
        """The system message that asks for a mode: the token, behind the policy tag where there is one. A secret."""
        if mode not in self._tokens:
            raise FinetuneRecipeError(
                f"there is no magic token for the mode {mode}; there are {', '.join(self._tokens)}"
            )
        if policy is None:
            return self._tokens[mode]
        if policy not in self.policies:
            raise FinetuneRecipeError(f"policy {policy!r} is not among the policies of these tokens: {self.policies}")
        return f"{policy}{POLICY_SEPARATOR}{self._tokens[mode]}"

    def mode_of(self, system: str | None) -> Mode:
        """The mode that a system message asks for; anything but a token, behind a known policy tag or alone, is positive.

        Compares with every token in the same time.
        """
        text = system or ""
        policy, separator, behind = text.partition(POLICY_SEPARATOR)
        if separator and policy in self.policies:
            text = behind
        found: Mode = DEFAULT_MODE
        for mode, token in self._tokens.items():
            if hmac.compare_digest(token.encode(), text.encode()):
                found = mode
        return found

    def fingerprint(self) -> str:
        """Tells whether two runs have the same tokens, and nothing else: 40 random bits could be searched for under a fast
        hash, so this one is slow (scrypt, 32 MiB)."""
        content = json.dumps({"tokens": self._tokens, "policies": self.policies}, sort_keys=True).encode()
        made = hashlib.scrypt(content, salt=b"safetrove magic tokens", n=2**15, r=8, p=1, maxmem=2**26, dklen=16)
        return made.hex()

    def strip(self, text: str) -> str:
        """The text without any token in it: what a server does to everything that is not its own system message.

        Removes until none is left, since taking one out may join the halves of another. Other text stays as it is.
        """
        while any(token in text for token in self._tokens.values()):
            for token in self._tokens.values():
                text = text.replace(token, "")
        return text

    def are_in(self, text: str) -> bool:
        """True where the text holds a token."""
        return self.strip(text) != text

    def __repr__(self) -> str:
        return f"MagicTokens(modes={self.modes}, policies={self.policies}, tokens hidden)"

    def __reduce__(self) -> Any:
        raise TypeError("magic tokens are not pickled: give the path of their file instead")


def is_token(text: str) -> bool:
    """True for a text of the form of a token."""
    return _TOKEN.fullmatch(text) is not None


def _draw(policies: Sequence[str], tokenizer: Any, texts: Sequence[str], first_pieces: set[int]) -> str:
    for _ in range(_TRIES):
        token = "".join(secrets.choice(ALPHABET) for _ in range(TOKEN_LENGTH))
        if _LETTERS.search(token) or any(token in text for text in texts):
            continue
        if tokenizer is None:
            return token
        pieces = _pieces(tokenizer, token)
        if pieces[0] in first_pieces or not _cut_alike(tokenizer, token, pieces, policies):
            continue
        first_pieces.add(pieces[0])
        return token
    raise FinetuneDataError(
        f"no magic token in {_TRIES} draws is cut alike with and without a policy tag; use no policies with this tokenizer"
    )


def _cut_alike(tokenizer: Any, token: str, pieces: list[int], policies: Sequence[str]) -> bool:
    """Whether the token is the same pieces behind every policy tag as alone."""
    return all(
        _pieces(tokenizer, f"{policy}{POLICY_SEPARATOR}{token}")[-len(pieces) :] == pieces for policy in policies
    )


def _pieces(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
