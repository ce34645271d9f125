"""Prompt and completion as token ids: how a causal model is shown a row, and where its answer begins and ends.

A row is framed once (by the base's chat template where it has one, else by a line end); its own text is tokenized apart from the
frame, with no special tokens in it, so that a row cannot end its turn and speak as somebody else.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.config import TruncationSide
from tasks.errors import BadConfig
from tasks.records import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\u241eROW\u241e"


class Frame(Model):
    """What stands around a row's text, as token ids."""

    before: list[int]
    after: list[int]
    end: int
    """Ends an answer."""


def frame_of(tokenizer: "PreTrainedTokenizerBase") -> Frame:
    """How this tokenizer's model is shown a row.

    Raises:
        BadConfig: it has no token that ends a text, or a chat template that cannot be rendered (in a sandbox).
    """
    if tokenizer.eos_token_id is None:
        raise BadConfig("the base's tokenizer has no token that ends a text: choose a causal base")
    before, after = tokenizer.bos_token or "", "\n"
    if tokenizer.chat_template:
        from jinja2 import TemplateError

        try:
            shown = tokenizer.apply_chat_template([{"role": "user", "content": MARK}], tokenize=False, add_generation_prompt=True)
        except (TemplateError, ValueError, TypeError) as error:
            raise BadConfig(f"the base's chat template cannot be rendered ({error}): choose another base") from None
        before, found, after = str(shown).partition(MARK)
        if not found:
            raise BadConfig("the base's chat template does not show what a user says: choose another base")
    return Frame(before=_ids(tokenizer, before), after=_ids(tokenizer, after), end=tokenizer.eos_token_id)


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase", frame: Frame, texts: Sequence[str], max_tokens: int, side: TruncationSide
) -> tuple[list[list[int]], list[int]]:
    """Framed token ids of texts, each text cut on `side` to `max_tokens`; and how many tokens were cut, by text."""
    whole = _plain(tokenizer, texts)
    kept = [ids[:max_tokens] if side is TruncationSide.RIGHT else ids[-max_tokens:] for ids in whole]
    cut = [len(every) - len(some) for every, some in zip(whole, kept, strict=True)]
    return [[*frame.before, *ids, *frame.after] for ids in kept], cut


def encode_completions(tokenizer: "PreTrainedTokenizerBase", frame: Frame, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of answers, each with its end."""
    return [[*ids, frame.end] for ids in _plain(tokenizer, texts)]


def _plain(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Text alone: what looks like a special token is tokenized as the characters it is made of."""
    if not texts:
        return []
    found: Any = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return [list(ids) for ids in found]


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
