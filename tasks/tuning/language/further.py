"""What comes after the supervised step, in a child process: preferences (DPO), or a reward model and then RLOO or GRPO.

The policy goes on with the adapter that the supervised step left; TRL keeps a frozen copy of it as the reference that the KL is
measured against. While it is rewarded, dev's rows are answered now and then: that score is what the reward model does not know.

An alarm stops the rewarded run: the reward rises while the score on dev falls, or the KL leaves its bound (reward hacking). The
weights that were best on dev are kept, those of the supervised step where nothing was better; after preferences, where dev fell.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.bases import ResolvedBase
from tasks.child import serve_child
from tasks.config import Algorithm, Objective, Tuned
from tasks.data.answers import same_text
from tasks.device import Device, pick_device
from tasks.errors import BadData
from tasks.progress import progress
from tasks.records import Example, Finding
from tasks.tuning.language.pairs import FILE, Pair, load_pairs, split_pairs, write_pairs
from tasks.tuning.train import as_before
from tasks.workspace import write_durably

BEST, LOOKS, REWARD = "best.safetensors", "looks.json", "reward"
ROWS_LOOKED_AT = 32
"""Dev rows that are answered at each look."""
LOOKS_A_RUN = 10
FALL = 0.05
"""So far may the score on dev fall below where it began while the reward rises."""
SAMPLES_A_ROW = 4


class Job(BaseModel):
    """What the child is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tuned: Tuned
    labels: list[str]
    base: ResolvedBase
    supervised: Path
    """The contender that the supervised step made."""
    vocabulary: int
    train: Path
    dev: Path
    pairs: Path | None = None
    """None: they are made of the train rows."""
    folder: Path
    work: Path
    """Grows, and is found again after a kill."""


class Desk:
    """What every step here has at hand."""

    def __init__(self, job: Job) -> None:
        from tasks.data.completions import frame_of
        from tasks.data.examples import read_example_file
        from tasks.data.tokenize import load_tokenizer

        self.job, self.tuned = job, job.tuned
        self.device: Device = as_before(job.work, pick_device())
        self.tokenizer = load_tokenizer(job.base.path).tokenizer
        self.frame = frame_of(self.tokenizer)
        self.train: list[Example] = _by_hash(read_example_file(job.train))
        self.dev: list[Example] = _by_hash(read_example_file(job.dev))[:ROWS_LOOKED_AT]
        self.longest_answer = max(map(len, self.answers(job.labels))) if job.labels else self.tuned.max_answer_tokens

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        from tasks.data.completions import encode_prompts

        return encode_prompts(self.tokenizer, self.frame, texts, self.tuned.max_tokens, self.tuned.truncation_side)[0]

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        from tasks.data.completions import encode_completions

        return encode_completions(self.tokenizer, self.frame, texts)

    def dataset(self, pairs: Sequence[Pair], with_prompt: bool) -> Any:
        """Pairs as token ids for TRL; a reward model's chosen and rejected begin with the prompt."""
        from datasets import Dataset

        prompts = self.prompts([pair.prompt for pair in pairs])
        chosen, rejected = (self.answers([pair[side] for pair in pairs]) for side in (1, 2))
        if with_prompt:
            chosen, rejected = ([[*p, *a] for p, a in zip(prompts, some, strict=True)] for some in (chosen, rejected))
        return Dataset.from_dict({"prompt_ids": prompts, "chosen_ids": chosen, "rejected_ids": rejected})

    def policy(self) -> Any:
        """The supervised model, ready to train on."""
        from tasks.tuning.language.causal import restore

        job = self.job
        return restore(
            job.supervised, self.tuned.method, job.base.path, job.vocabulary, self.tokenizer.pad_token_id, trainable=True
        )

    def say(self, model: Any, rows: Sequence[Example]) -> list[str]:
        """The model's likeliest answers, found as the contender finds them: where there are labels, one of their names."""
        from tasks.data.examples import input_text
        from tasks.tuning.language.causal import label_logits, write_answers

        prompts, labels = self.prompts([input_text(row.inputs) for row in rows]), self.job.labels
        if labels:
            best = label_logits(model, prompts, self.answers(labels), self.tokenizer.pad_token_id).argmax(-1).tolist()
            return [labels[place] for place in best]
        ids = write_answers(model, prompts, self.frame.end, self.tokenizer.pad_token_id, self.longest_answer)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def run(request: dict[str, Any]) -> dict[str, Any]:
    """A `Job` in; `seconds`, `findings` and `watched` (a line a look) out."""
    job = Job.model_validate(request)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}
    from transformers import set_seed

    from tasks.tuning.language.causal import store
    from tasks.tuning.quiet import quiet_libraries

    quiet_libraries()
    set_seed(job.tuned.seed)
    started = time.perf_counter()
    desk = Desk(job)
    job.work.mkdir(parents=True, exist_ok=True)
    learned, held = split_pairs(_pairs(desk))
    policy = desk.policy().to(desk.device.name)
    if job.tuned.objective is Objective.PREFERENCES:
        findings, watched = _prefer(desk, policy, learned, held)
    else:
        reward, findings = _reward_model(desk, learned, held)
        more, watched = _reinforce(desk, policy, reward)
        findings += more
    store(policy, job.tuned, job.base, job.folder)
    seconds = round(time.perf_counter() - started, 3)
    return {"seconds": seconds, "findings": [each.model_dump() for each in findings], "watched": watched}


def _by_hash(rows: Iterable[Example]) -> list[Example]:
    """In an order that knows nothing of the source: where that is sorted by label, its first rows are of one class."""
    return sorted(rows, key=lambda row: (row.example, row.row))


def _pairs(desk: Desk) -> list[Pair]:
    """From the file, or of the train rows; kept, so that a run that goes on learns from the same."""
    if desk.job.pairs:
        return load_pairs(desk.job.pairs)
    kept = desk.job.work / FILE
    if not kept.exists():
        made = sample_pairs(desk)
        aside = kept.with_suffix(".writing")
        write_pairs(made, aside)
        aside.rename(kept)
    return load_pairs(kept)


def sample_pairs(desk: Desk) -> list[Pair]:
    """What the supervised model answers to train rows, several times with chance, graded against the row's own completion.

    Raises:
        BadData: it made hardly any mistake, so there is nothing to prefer.
    """
    import torch
    from transformers import GenerationConfig

    from tasks.data.examples import input_text
    from tasks.tuning.language.causal import pad_left

    model = desk.policy().to(desk.device.name).eval()
    how = GenerationConfig(
        max_new_tokens=desk.longest_answer,
        do_sample=True,
        top_k=0,
        num_return_sequences=SAMPLES_A_ROW,
        eos_token_id=desk.frame.end,
        pad_token_id=desk.tokenizer.pad_token_id,
    )
    found: dict[Pair, None] = {}
    with torch.inference_mode(), progress(f"sample pairs {desk.tuned.name}", desk.tuned.most_pairs) as bar:
        for start in range(0, len(desk.train), 8):
            rows = desk.train[start : start + 8]
            texts = [input_text(row.inputs) for row in rows]
            given = pad_left(desk.prompts(texts), desk.tokenizer.pad_token_id, model.device)
            given.pop("position_ids")
            written = model.generate(**given, generation_config=how)[:, given["input_ids"].shape[1] :]
            said = [text.strip() for text in desk.tokenizer.batch_decode(written, skip_special_tokens=True)]
            for place, text in enumerate(said):
                row, prompt = rows[place // SAMPLES_A_ROW], texts[place // SAMPLES_A_ROW]
                if row.label is not None and text and not same_text(text, row.label):
                    found.setdefault(Pair(prompt, row.label, text))
            bar.move(len(found))
            if len(found) >= desk.tuned.most_pairs:
                break
    pairs = list(found)[: desk.tuned.most_pairs]
    if len({pair.prompt for pair in pairs}) < 2:
        raise BadData(
            f"tuned contender {desk.tuned.name!r}: the supervised model answered {len(pairs)} train rows wrongly, which leaves "
            "nothing to prefer: name a file of preferences, or leave the objective supervised"
        )
    return pairs


def _prefer(desk: Desk, policy: Any, learned: Sequence[Pair], held: Sequence[Pair]) -> tuple[list[Finding], list[dict[str, float]]]:
    """DPO: the chosen answers become likelier than the rejected ones, beside the reference. Where dev's rows are then
    answered worse, the supervised step's weights are put back."""
    from trl import DPOConfig, DPOTrainer

    from tasks.tuning.language.whole import Whole, common
    from tasks.tuning.methods import set_weights, trained_weights

    class Preferring(Whole, DPOTrainer):  # type: ignore[misc,unused-ignore]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # token ids already

    tuned = desk.tuned
    given = DPOConfig(
        **common(desk.device, desk.job.work / "policy", tuned.seed),
        **_trl(desk),
        beta=tuned.beta,
        max_length=None,
        per_device_train_batch_size=min(tuned.batch_size, 8),
        per_device_eval_batch_size=min(tuned.batch_size, 8),
        learning_rate=tuned.preference_learning_rate,
        num_train_epochs=tuned.preference_epochs,
        logging_steps=1,
        eval_strategy="no",
    )
    data = desk.dataset(learned, with_prompt=False), desk.dataset(held, with_prompt=False)
    trainer = Preferring(model=policy, args=given, train_dataset=data[0], eval_dataset=data[1], processing_class=desk.tokenizer)
    trainer.set_up(tuned, desk.device)
    before, supervised = _score(desk, policy), {name: weight.clone() for name, weight in trained_weights(policy).items()}
    trainer.run(f"prefer {tuned.name}")
    ranked = float(trainer.evaluate()["eval_rewards/accuracies"])
    after = _score(desk, policy)
    message = (
        f"preferences: {len(learned)} pairs learned; of {len(held)} held-out pairs {100 * ranked:.0f} % came out as preferred; "
        f"right on {len(desk.dev)} dev rows: {100 * before:.0f} % before, {100 * after:.0f} % after"
    )
    rewards = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    watched = [{"step": entry["step"], "loss": entry["loss"], "margin": entry["rewards/margins"]} for entry in rewards]
    found = [Finding(kind="preferences", count=len(learned), message=message)]
    if after < before:
        set_weights(policy, supervised, str(desk.job.supervised))
        said = "the preferences made the answers to dev rows worse: the supervised step's weights were kept"
        found.append(Finding(kind="alarm", count=len(desk.dev), message=said))
    return found, watched


def _reward_model(desk: Desk, learned: Sequence[Pair], held: Sequence[Pair]) -> tuple[Any, list[Finding]]:
    """A model with one output, which ranks the chosen answers above the rejected; LoRA on the same base."""
    from trl import RewardConfig, RewardTrainer

    from tasks.tuning.language.whole import Whole, common
    from tasks.tuning.methods import choose_weights, load_base

    class Ranking(Whole, RewardTrainer):  # type: ignore[misc,unused-ignore]
        pass

    tuned = desk.tuned
    model = load_base(desk.job.base.path, [REWARD], desk.job.vocabulary, desk.tokenizer.pad_token_id)
    model = choose_weights(model, tuned, desk.job.base).to(desk.device.name)
    given = RewardConfig(
        **common(desk.device, desk.job.work / REWARD, tuned.seed),
        **_trl(desk),
        max_length=None,
        per_device_train_batch_size=min(tuned.batch_size, 8),
        per_device_eval_batch_size=min(tuned.batch_size, 8),
        learning_rate=tuned.learning_rate,
        num_train_epochs=tuned.preference_epochs,
        logging_steps=1,
        eval_strategy="no",
    )
    data = desk.dataset(learned, with_prompt=True), desk.dataset(held, with_prompt=True)
    trainer = Ranking(model=model, args=given, train_dataset=data[0], eval_dataset=data[1], processing_class=desk.tokenizer)
    trainer.set_up(tuned, desk.device)
    trainer.run(f"reward model {tuned.name}")
    ranked = float(trainer.evaluate()["eval_accuracy"])
    message = (
        f"reward model: {len(learned)} pairs learned; it ranks {100 * ranked:.0f} % of {len(held)} held-out pairs as preferred"
    )
    return model.eval(), [Finding(kind="reward_model", count=len(learned), message=message)]


def _reinforce(desk: Desk, policy: Any, reward_model: Any) -> tuple[list[Finding], list[dict[str, float]]]:
    """Answers that the reward model likes become likelier, while the KL to the supervised model is charged."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    from tasks.data.examples import input_text
    from tasks.tuning.language.whole import Whole, common

    rloo = desk.tuned.algorithm is Algorithm.RLOO
    config, base = (RLOOConfig, RLOOTrainer) if rloo else (GRPOConfig, GRPOTrainer)

    class Reinforcing(Whole, base):  # type: ignore[misc,valid-type,unused-ignore]
        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return desk.prompts(prompts), None, {}

    tuned, every = desk.tuned, max(1, desk.tuned.reinforce_steps // LOOKS_A_RUN)
    given = config(
        **(common(desk.device, desk.job.work / "policy", tuned.seed) | {"save_strategy": "steps", "save_steps": every}),
        **_trl(desk),
        max_steps=tuned.reinforce_steps,
        learning_rate=tuned.reinforce_learning_rate,
        beta=tuned.kl_weight,
        num_generations=tuned.group,
        per_device_train_batch_size=2 * tuned.group,
        max_completion_length=desk.longest_answer,
        disable_dropout=True,  # it would be counted in the KL
        logging_steps=1,
    )

    def rewarded(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return score_answers(desk, reward_model, prompts, completion_ids)

    rows = Dataset.from_dict({"prompt": [input_text(row.inputs) for row in desk.train]})
    trainer = Reinforcing(model=policy, reward_funcs=[rewarded], args=given, train_dataset=rows, processing_class=desk.tokenizer)
    trainer.set_up(tuned, desk.device)
    watch = _watch(desk, policy, reward_model, trainer, every)
    trainer.add_callback(watch)
    trainer.run(f"reinforce {tuned.name}")
    return watch.close(), watch.looks


def score_answers(desk: Desk, reward_model: Any, prompts: Sequence[str], answers: Sequence[Sequence[int]]) -> list[float]:
    """The reward model's word on answers (token ids, with or without their end)."""
    from tasks.tuning.batches import logits_of

    end, pad = desk.frame.end, desk.tokenizer.pad_token_id
    said = [[token for token in ids if token not in (end, pad)] for ids in answers]
    ids = [[*prompt, *answer, end] for prompt, answer in zip(desk.prompts(prompts), said, strict=True)]
    return [float(value) for value in logits_of(reward_model, lambda rows: [ids[row] for row in rows], [*map(len, ids)], pad)[:, 0]]


def alarm(looks: Sequence[dict[str, float]], kl_limit: float) -> str:
    """Why a run must stop, in words; empty while it need not.

    Args:
        looks: what was seen so far, the first before training: `step`, `reward` (train's), `kl`, `score` (on dev).
    """
    first, last = looks[0], looks[-1]
    if last["kl"] > kl_limit:
        return f"the KL to the supervised model is {last['kl']:.3f}, over its limit of {kl_limit:g}"
    trained = [look["reward"] for look in looks[1:]]
    if len(trained) > 1 and trained[-1] > trained[0] and last["score"] < first["score"] - FALL:
        return (
            f"the reward rose from {trained[0]:.3f} to {trained[-1]:.3f} while the share of dev rows answered rightly fell from "
            f"{100 * first['score']:.0f} to {100 * last['score']:.0f} %"
        )
    return ""


def _watch(desk: Desk, policy: Any, reward_model: Any, trainer: Any, every: int) -> Any:
    from safetensors.torch import load_file, save_file
    from transformers import TrainerCallback

    from tasks.data.examples import input_text
    from tasks.tuning.methods import set_weights, trained_weights

    class Watch(TrainerCallback):  # type: ignore[misc,unused-ignore]
        """Looks at dev now and then, keeps what was best there, and raises the alarm."""

        def __init__(self) -> None:
            self.path = desk.job.work / LOOKS
            self.looks: list[dict[str, float]] = json.loads(self.path.read_text()) if self.path.exists() else []
            self.seen: list[tuple[float, float]] = []
            self.stopped = ""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.looks = [look for look in self.looks if look["step"] <= state.global_step]
            if not self.looks:
                self.look(0)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs and "reward" in logs:
                self.seen.append((float(logs["reward"]), float(logs.get("kl") or 0.0)))
            if self.seen and (state.global_step % every == 0 or state.global_step == state.max_steps):
                self.look(state.global_step)
                self.stopped = alarm(self.looks, desk.tuned.kl_limit)
                if self.stopped:
                    control.should_training_stop = True

        def look(self, step: int) -> None:
            said = desk.say(policy, desk.dev)
            right = [row.label is not None and same_text(text, row.label) for row, text in zip(desk.dev, said, strict=True)]
            words = score_answers(desk, reward_model, [input_text(row.inputs) for row in desk.dev], desk.answers(said))
            rewards, kls = zip(*self.seen, strict=True) if self.seen else ((0.0,), (0.0,))
            self.looks.append(
                {
                    "step": step,
                    "reward": round(sum(rewards) / len(rewards), 5),
                    "kl": round(sum(kls) / len(kls), 6),
                    "score": round(sum(right) / len(right), 5),
                    "held_out_reward": round(sum(words) / len(words), 5),
                }
            )
            self.seen = []
            best = max(self.looks, key=lambda look: (look["score"], look["held_out_reward"]))
            if best is self.looks[-1]:
                save_file(trained_weights(policy), desk.job.work / BEST)
            write_durably(self.path, json.dumps(self.looks))
            policy.train()

        def close(self) -> list[Finding]:
            """Put the best weights in place, and say what was seen."""
            set_weights(policy, load_file(desk.job.work / BEST), str(desk.job.work / BEST))
            first, last = self.looks[0], self.looks[-1]
            best = max(self.looks, key=lambda look: (look["score"], look["held_out_reward"]))
            message = (
                f"{desk.tuned.algorithm}: {last['step']:.0f} steps; held-out reward {first['held_out_reward']:.3f} to "
                f"{last['held_out_reward']:.3f}, right on dev {100 * first['score']:.0f} to {100 * last['score']:.0f} %, "
                f"KL {last['kl']:.4f}; kept: step {best['step']:.0f}"
            )
            found = [Finding(kind="reinforcement", count=int(last["step"]), message=message)]
            if self.stopped:
                said = f"alarm (reward hacking): {self.stopped}; the run was stopped at step {last['step']:.0f}"
                found.append(Finding(kind="alarm", count=int(last["step"]), message=said))
            return found

    return Watch()


def _score(desk: Desk, model: Any) -> float:
    """Share of the dev rows looked at that are answered rightly."""
    said = desk.say(model, desk.dev)
    return sum(row.label is not None and same_text(text, row.label) for row, text in zip(desk.dev, said, strict=True)) / len(said)


def _trl(desk: Desk) -> dict[str, Any]:
    """What TRL would set otherwise than this room does: our autocast chooses the type, and small models need no checkpointing."""
    return {"bf16": False, "gradient_checkpointing": False, "weight_decay": desk.tuned.weight_decay}


if __name__ == "__main__":
    serve_child(run)
