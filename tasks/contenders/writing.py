"""Predicts with a fine-tuned causal model that answers in text.

For generation it writes the likeliest tokens one by one; for classification it says how likely each label's name is as the answer.
In float32 on every device, as all tuned contenders.
"""

from collections.abc import Sequence
from pathlib import Path

from tasks.contenders.tuned import base_path, read_spec, refuse_missing_weights
from tasks.data.completions import encode_completions, encode_prompts
from tasks.manifest import ContenderManifest
from tasks.records import Answer, Example, Failure
from tasks.settings import Settings


class WritingPredictor:
    """A tuned contender that answers in text, loaded; errors as of `TunedPredictor`."""

    def __init__(self, folder: Path, manifest: ContenderManifest, settings: Settings) -> None:
        from tasks.data.tokenize import load_tokenizer
        from tasks.device import pick_device
        from tasks.tuning.language.causal import restore
        from tasks.tuning.quiet import quiet_libraries

        quiet_libraries()
        self.spec = read_spec(folder, manifest)
        assert self.spec.frame
        self.frame, self.labels = self.spec.frame, manifest.labels
        refuse_missing_weights(folder, manifest, self.spec)
        self.tokenizer = load_tokenizer(folder / "tokenizer").tokenizer
        self.pad_id = self.tokenizer.pad_token_id
        self.device = pick_device().name
        ground = base_path(folder, self.spec, settings)
        self.model = restore(folder, self.spec.method, ground, self.spec.vocabulary, self.pad_id).to(self.device)

    def predict(self, examples: Sequence[Example]) -> list[Answer]:
        """One answer an example, in order: free text, or for classification the likeliest label with its logits."""
        from tasks.data.examples import input_text

        if not examples:
            return []
        texts = [input_text(example.inputs) for example in examples]
        prompts, _ = encode_prompts(self.tokenizer, self.frame, texts, self.spec.max_tokens, self.spec.truncation_side)
        return self._choose(prompts) if self.labels else self._write(prompts)

    def _write(self, prompts: list[list[int]]) -> list[Answer]:
        from tasks.tuning.language.causal import write_answers

        written = write_answers(self.model, prompts, self.frame.end, self.pad_id, self.spec.max_answer_tokens)
        return [
            Answer(
                answer=self.tokenizer.decode(ids, skip_special_tokens=True).strip(),
                label=None,
                input_tokens=len(prompt),
                output_tokens=len(ids),
                failure=None if ids and ids[-1] == self.frame.end else Failure.CUT,
            )
            for prompt, ids in zip(prompts, written, strict=True)
        ]

    def _choose(self, prompts: list[list[int]]) -> list[Answer]:
        from tasks.tuning.language.causal import label_logits

        names = encode_completions(self.tokenizer, self.frame, self.labels)
        logits = label_logits(self.model, prompts, names, self.pad_id)
        best, sure = logits.argmax(-1).tolist(), (logits / self.spec.temperature).softmax(-1).amax(-1).tolist()
        return [
            Answer(
                answer=self.labels[place], label=self.labels[place], probability=probability, input_tokens=len(prompt), logits=row
            )
            for prompt, place, probability, row in zip(prompts, best, sure, logits.tolist(), strict=True)
        ]
