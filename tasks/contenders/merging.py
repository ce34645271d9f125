"""A tuned contender and its base as one model, and the proof that it answers as the contender does: what was written is loaded
again, and must give the same answers to the same prompts, with logits that differ by rounding alone. The written tokenizer must
give the same tokens; of a contender that answers in text, for how many rows its chat template makes the prompt is told.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contenders.tuned import TunedSpec, base_path
from tasks.data.completions import Frame
from tasks.errors import IntegrityError
from tasks.manifest import ContenderManifest
from tasks.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOLERANCE = 1e-3
"""How far logits may be from those of the unmerged contender: float32 rounding of another order of additions."""


@dataclass(frozen=True)
class Said:
    """What a model says to some rows."""

    answers: list[Any]
    """The place of a label, or the tokens of a text."""
    logits: Any
    """Float32 [rows, labels], or those of a text's first token [rows, vocabulary]."""


def write_merged(folder: Path, manifest: ContenderManifest, spec: TunedSpec, aside: Path, settings: Settings) -> None:
    """Write model and tokenizer into an empty folder, as transformers writes them."""
    from tasks.data.tokenize import load_tokenizer
    from tasks.tuning.quiet import quiet_libraries

    quiet_libraries()
    tokenizer = load_tokenizer(folder / "tokenizer").tokenizer
    model = _restored(folder, manifest, spec, tokenizer.pad_token_id, settings, merged=True)
    if spec.frame:
        write_the_likeliest(model, spec, tokenizer.pad_token_id)
        tokenizer.chat_template = template_of(tokenizer, spec.frame)
    else:
        tokenizer.model_max_length, tokenizer.truncation_side = spec.max_tokens, spec.truncation_side.value
        tokenizer.init_kwargs["truncation_side"] = spec.truncation_side.value  # else it is not saved
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)


def compare(
    folder: Path, manifest: ContenderManifest, spec: TunedSpec, aside: Path, texts: Sequence[str], settings: Settings
) -> tuple[float, int | None]:
    """The largest difference between the logits of what was written and of the unmerged contender; and for one that answers in
    text, for how many rows the written tokenizer's chat template gives the prompt.

    Raises:
        IntegrityError: tokens or an answer differ, or a logit beyond `TOLERANCE`.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from tasks.data.tokenize import load_tokenizer

    kept, written = (load_tokenizer(place).tokenizer for place in (folder / "tokenizer", aside))
    ids = _encode(kept, spec, texts)
    plain = _encode(written, spec, texts) if spec.frame else [list(row) for row in written(list(texts), truncation=True).input_ids]
    if plain != ids:
        raise IntegrityError(f"contender {manifest.name!r}: the exported tokenizer gives other tokens; nothing was written")
    pad_id: Any = kept.pad_token_id
    before = _say(_restored(folder, manifest, spec, pad_id, settings, merged=False), ids, kept, manifest, spec)
    kind = AutoModelForCausalLM if spec.frame else AutoModelForSequenceClassification
    model = kind.from_pretrained(aside, local_files_only=True, use_safetensors=True)
    after = _say(model, ids, kept, manifest, spec)
    unlike = [row for row, pair in enumerate(zip(before.answers, after.answers, strict=True)) if pair[0] != pair[1]]
    if spec.frame and not manifest.labels:
        unlike = [row for row in unlike if not is_near_tie(model, ids[row], before.answers[row], after.answers[row], pad_id)]
    other = len(unlike)
    apart = float((before.logits - after.logits).abs().max())
    if other or not apart <= TOLERANCE:
        raise IntegrityError(
            f"contender {manifest.name!r}: merged and unmerged differ, in the answer to {other} of {len(texts)} rows and by up to "
            f"{apart:.2g} in a logit (at most {TOLERANCE:g} is rounding); nothing was written: export it without --merged"
        )
    return apart, _prompts_alike(written, texts, ids) if spec.frame else None


def _restored(folder: Path, manifest: ContenderManifest, spec: TunedSpec, pad_id: int, settings: Settings, merged: bool) -> Any:
    from tasks.tuning import methods
    from tasks.tuning.language import causal

    ground = base_path(folder, spec, settings)
    if spec.frame:
        return causal.restore(folder, spec.method, ground, spec.vocabulary, pad_id, merged=merged)
    return methods.restore(folder, spec.method, ground, manifest.labels, spec.vocabulary, pad_id, merged=merged)


def _encode(tokenizer: "PreTrainedTokenizerBase", spec: TunedSpec, texts: Sequence[str]) -> list[list[int]]:
    """Rows as the contender is shown them."""
    from tasks.data.completions import encode_prompts
    from tasks.data.tokenize import encode_texts

    if spec.frame:
        return encode_prompts(tokenizer, spec.frame, texts, spec.max_tokens, spec.truncation_side)[0]
    return [list(row) for row in encode_texts(tokenizer, texts, spec.max_tokens, spec.truncation_side).ids]


def _say(
    model: Any, ids: list[list[int]], tokenizer: "PreTrainedTokenizerBase", manifest: ContenderManifest, spec: TunedSpec
) -> Said:
    from tasks.data.completions import encode_completions
    from tasks.tuning.batches import logits_of
    from tasks.tuning.language.causal import first_logits, label_logits, write_answers

    pad_id: Any = tokenizer.pad_token_id
    if spec.frame and not manifest.labels:
        answers = write_answers(model, ids, spec.frame.end, pad_id, spec.max_answer_tokens)
        return Said(answers, first_logits(model, ids, pad_id))
    if spec.frame:
        logits = label_logits(model, ids, encode_completions(tokenizer, spec.frame, manifest.labels), pad_id)
    else:
        logits = logits_of(model, lambda rows: [ids[row] for row in rows], [*map(len, ids)], pad_id)
    return Said(logits.argmax(-1).tolist(), logits)


def write_the_likeliest(model: Any, spec: TunedSpec, pad_id: int) -> None:
    """Have `generate` do by itself what the contender does: the likeliest tokens, to where it learned to end. What else the base
    says of generation (a penalty on repetition, say) holds for the contender as well, and stays; what is for sampling goes."""
    sampling = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
    ends = {"eos_token_id": spec.frame.end if spec.frame else None, "pad_token_id": pad_id, "max_length": None}
    most = {"max_new_tokens": spec.max_answer_tokens} if spec.max_answer_tokens else {}
    model.generation_config.update(do_sample=False, **dict.fromkeys(sampling), **ends, **most)


def is_near_tie(model: Any, prompt: list[int], one: Sequence[int], other: Sequence[int], pad_id: int) -> bool:
    """Whether two answers part at two tokens of which rounding may choose either; what comes after follows from that choice."""
    from tasks.tuning.language.causal import first_logits

    common = next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    if common is None:  # one goes on where the other was cut or ended
        return False
    [logits] = first_logits(model, [[*prompt, *one[:common]]], pad_id)
    return abs(float(logits[one[common]] - logits[other[common]])) <= 2 * TOLERANCE


def template_of(tokenizer: "PreTrainedTokenizerBase", frame: Frame) -> str:
    """A chat template that shows one turn as the contender was shown a row; the base's own lies in no contender."""
    before, after = (json.dumps(str(tokenizer.decode(ids)), ensure_ascii=False) for ids in (frame.before, frame.after))
    return f"{{{{ {before} + messages[-1]['content'] + {after} }}}}"


def _prompts_alike(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], ids: Sequence[list[int]]) -> int:
    """For how many rows a program that knows the tokenizer alone comes to the prompt that the contender is shown."""
    turns = [[{"role": "user", "content": text}] for text in texts]
    shown = [tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False) for turn in turns]
    return sum(each == row for each, row in zip(shown, ids, strict=True))
