"""What comes after the supervised step, in a child process: preferences (DPO), or a reward model and then RLOO or GRPO.

The policy goes on with the adapter that the supervised step left; TRL keeps a frozen copy of it as the reference that the KL is
measured against. While it is rewarded, dev's rows are answered now and then: that score is what the reward model does not know.

An alarm stops the rewarded run: the reward rises while the score on dev falls, or the KL leaves its bound (reward hacking). The
weights that were best on dev are kept, those of the supervised step where nothing was better; after preferences, where dev fell.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
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
from tasks.records import Calibration, Example, Finding
from tasks.tuning.language.pairs import FILE, Pair, load_pairs, split_pairs, write_pairs
from tasks.tuning.memory import largest_divisor, peak_memory, within_memory
from tasks.tuning.train import as_before
from tasks.workspace import write_durably

LOOKS, REWARD = "looks.json", "reward"
AT_ONCE = 8
"""Pairs at once, at most; a step's others follow in further parts."""
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
    save_every_s: float = 60.0
    """A checkpoint at least this often."""


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
        self.whole_dev: list[Example] = _by_hash(read_example_file(job.dev))
        self.dev = self.whole_dev[:ROWS_LOOKED_AT]
        self.seconds_before = 0.0
        """What killed runs of this job took, up to their last checkpoints."""
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

    def say(self, model: Any, rows: Sequence[Example], told: Callable[[int], None] = lambda rows: None) -> list[str]:
        """The model's likeliest answers, found as the contender finds them: where there are labels, one of their names.

        Args:
            told: hears of rows that are done.
        """
        from tasks.data.examples import input_text
        from tasks.tuning.language.causal import label_logits, write_answers

        prompts = self.prompts([input_text(row.inputs) for row in rows])
        labels, pad_id = self.job.labels, self.tokenizer.pad_token_id
        if labels:
            best = label_logits(model, prompts, self.answers(labels), pad_id, told).argmax(-1).tolist()
            return [labels[place] for place in best]
        ids = write_answers(model, prompts, self.frame.end, pad_id, self.longest_answer, told)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def run(request: dict[str, Any]) -> dict[str, Any]:
    """A `Job` in; `seconds`, `findings`, `watched` (a line a look), `calibration` and `peak_memory_bytes` out."""
    job = Job.model_validate(request)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}
    from transformers import set_seed

    from tasks.tuning.checkpoints import room_for
    from tasks.tuning.language.causal import store
    from tasks.tuning.quiet import quiet_libraries

    quiet_libraries()
    tuned, started = job.tuned, time.perf_counter()
    desk = Desk(job)
    job.work.mkdir(parents=True, exist_ok=True)
    set_seed(tuned.seed)
    learned, held = split_pairs(_pairs(desk))

    def attempt(rows: int) -> tuple[Any, list[Finding], list[dict[str, float]]]:
        set_seed(tuned.seed)  # anew, whether or not the pairs were made just now
        if tuned.objective is Objective.PREFERENCES:
            policy = desk.policy().to(desk.device.name)
            return policy, *_prefer(desk, policy, learned, held, rows)
        reward, findings = _reward_model(desk, learned, held, rows)
        policy = desk.policy().to(desk.device.name)
        more, watched = _reinforce(desk, policy, reward, rows)
        return policy, findings + more, watched

    at_once = largest_divisor(tuned.batch_size, AT_ONCE)
    (policy, findings, watched), memory = within_memory(tuned, job.base, desk.device, job.work, attempt, at_once)
    calibration = _calibration(desk, policy)
    with room_for(f"contender {tuned.name!r}", job.folder, job.work):
        store(policy, tuned, job.base, job.folder)
    return {
        "seconds": round(time.perf_counter() - started + desk.seconds_before, 3),
        "calibration": calibration and calibration.model_dump(mode="json"),
        "findings": [each.model_dump() for each in findings + memory],
        "watched": watched,
        "peak_memory_bytes": peak_memory(desk.device),
    }


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
    from tasks.tuning.whole import heed

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
            heed()
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


def _prefer(
    desk: Desk, policy: Any, learned: Sequence[Pair], held: Sequence[Pair], rows: int
) -> tuple[list[Finding], list[dict[str, float]]]:
    """DPO: the chosen answers become likelier than the rejected ones, beside the reference. Where dev's rows are then
    answered worse, the supervised step's weights are put back."""
    from trl import DPOConfig, DPOTrainer

    from tasks.tuning.methods import set_weights, trained_weights
    from tasks.tuning.whole import Whole, common, on_one_device

    class Preferring(Whole, DPOTrainer):  # type: ignore[misc,unused-ignore]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # token ids already

    tuned = desk.tuned
    given = DPOConfig(
        **common(tuned, desk.device, desk.job.work / "policy"),
        **_trl(desk),
        **_in_parts(tuned.batch_size, rows),
        beta=tuned.beta,
        max_length=None,
        learning_rate=tuned.preference_learning_rate,
        num_train_epochs=tuned.preference_epochs,
        logging_steps=1,
        eval_strategy="no",
    )
    data = desk.dataset(learned, with_prompt=False), desk.dataset(held, with_prompt=False)
    trainer = Preferring(
        model=policy,
        args=on_one_device(given),
        train_dataset=data[0],
        eval_dataset=data[1],
        processing_class=desk.tokenizer,
    )
    trainer.set_up(tuned, desk.device)
    before, supervised = _score(desk, policy), {name: weight.clone() for name, weight in trained_weights(policy).items()}
    trainer.run(f"prefer {tuned.name}", desk.job.save_every_s)
    desk.seconds_before += trainer.seconds_before
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


def _reward_model(desk: Desk, learned: Sequence[Pair], held: Sequence[Pair], rows: int) -> tuple[Any, list[Finding]]:
    """A model with one output, which ranks the chosen answers above the rejected; LoRA on the same base."""
    from trl import RewardConfig, RewardTrainer

    from tasks.tuning.methods import choose_weights, load_base
    from tasks.tuning.whole import Whole, common, on_one_device

    class Ranking(Whole, RewardTrainer):  # type: ignore[misc,unused-ignore]
        pass

    tuned = desk.tuned
    model = load_base(desk.job.base.path, [REWARD], desk.job.vocabulary, desk.tokenizer.pad_token_id)
    model = choose_weights(model, tuned, desk.job.base).to(desk.device.name)
    given = RewardConfig(
        **common(tuned, desk.device, desk.job.work / REWARD),
        **_trl(desk),
        **_in_parts(tuned.batch_size, rows),
        max_length=None,
        learning_rate=tuned.learning_rate,
        num_train_epochs=tuned.preference_epochs,
        logging_steps=1,
        eval_strategy="no",
    )
    data = desk.dataset(learned, with_prompt=True), desk.dataset(held, with_prompt=True)
    trainer = Ranking(
        model=model,
        args=on_one_device(given),
        train_dataset=data[0],
        eval_dataset=data[1],
        processing_class=desk.tokenizer,
    )
    trainer.set_up(tuned, desk.device)
    trainer.run(f"reward model {tuned.name}", desk.job.save_every_s)
    desk.seconds_before += trainer.seconds_before
    ranked = float(trainer.evaluate()["eval_accuracy"])
    message = (
        f"reward model: {len(learned)} pairs learned; it ranks {100 * ranked:.0f} % of {len(held)} held-out pairs as preferred"
    )
    return model.eval(), [Finding(kind="reward_model", count=len(learned), message=message)]


def _reinforce(desk: Desk, policy: Any, reward_model: Any, rows: int) -> tuple[list[Finding], list[dict[str, float]]]:
    """Answers that the reward model likes become likelier, while the KL to the supervised model is charged."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    from tasks.data.examples import input_text
    from tasks.tuning.whole import Whole, common, on_one_device

    rloo = desk.tuned.algorithm is Algorithm.RLOO
    config, base = (RLOOConfig, RLOOTrainer) if rloo else (GRPOConfig, GRPOTrainer)

    class Reinforcing(Whole, base):  # type: ignore[misc,valid-type,unused-ignore]
        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return desk.prompts(prompts), None, {}

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            order = super()._get_train_sampler(dataset)
            order.set_epoch = lambda epoch: order.generator.manual_seed(tuned.seed + epoch)  # a resumed pass has its own order too
            return order

        def is_over(self, state: Any) -> bool:
            watch.catch_up(state)
            return bool(watch.stopped) or state.global_step >= state.max_steps

    tuned, every = desk.tuned, max(1, desk.tuned.reinforce_steps // LOOKS_A_RUN)
    answers = 2 * desk.tuned.group
    given = config(
        **(common(tuned, desk.device, desk.job.work / "policy") | {"save_strategy": "steps", "save_steps": every}),
        **_trl(desk),
        **_in_parts(answers, largest_divisor(answers, rows)),
        max_steps=tuned.reinforce_steps,
        learning_rate=tuned.reinforce_learning_rate,
        beta=tuned.kl_weight,
        num_generations=tuned.group,
        max_completion_length=desk.longest_answer,
        disable_dropout=True,  # it would be counted in the KL
        logging_steps=1,
    )

    def rewarded(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return score_answers(desk, reward_model, prompts, completion_ids)

    trainer = Reinforcing(
        model=policy,
        reward_funcs=[rewarded],
        args=on_one_device(given),
        train_dataset=Dataset.from_dict({"prompt": [input_text(row.inputs) for row in desk.train]}),
        processing_class=desk.tokenizer,
    )
    trainer.set_up(tuned, desk.device)
    watch = _watch(desk, policy, reward_model, trainer, every)
    trainer.add_callback(watch)
    trainer.run(f"reinforce {tuned.name}", desk.job.save_every_s)
    desk.seconds_before += trainer.seconds_before
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
    from tasks.tuning.checkpoints import newest, room_for
    from tasks.tuning.methods import set_weights, trained_weights

    class Watch(TrainerCallback):  # type: ignore[misc,unused-ignore]
        """Looks at dev now and then, keeps what was best there, and raises the alarm."""

        def __init__(self) -> None:
            self.path = desk.job.work / LOOKS
            self.looks: list[dict[str, float]] = json.loads(self.path.read_text()) if self.path.exists() else []
            self.stopped = ""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.catch_up(state)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs and "reward" in logs and not trainer.stops:  # else the look is made up for when the run goes on
                self.catch_up(state)
                control.should_training_stop = control.should_training_stop or bool(self.stopped)

        def catch_up(self, state: Any) -> None:
            """The look that is due at this step, where it was not had yet."""
            step = state.global_step
            self.looks = [look for look in self.looks if look["step"] <= step]
            due = step % every == 0 or step == state.max_steps
            if due and (not self.looks or self.looks[-1]["step"] < step):
                self.look(state)
            self.stopped = alarm(self.looks, desk.tuned.kl_limit)

        def best(self, looks: Sequence[dict[str, float]] = ()) -> dict[str, float]:
            return max(looks or self.looks, key=lambda look: (look["score"], look["held_out_reward"]))

        def weights(self, look: dict[str, float]) -> Path:
            return desk.job.work / f"best-{look['step']:.0f}.safetensors"

        def look(self, state: Any) -> None:
            said = desk.say(policy, desk.dev)
            right = [row.label is not None and same_text(text, row.label) for row, text in zip(desk.dev, said, strict=True)]
            words = score_answers(desk, reward_model, [input_text(row.inputs) for row in desk.dev], desk.answers(said))
            last = self.looks[-1]["step"] if self.looks else -1
            seen = [entry for entry in state.log_history if "reward" in entry and entry["step"] > last]
            self.looks.append(
                {
                    "step": state.global_step,
                    "reward": round(_mean([entry["reward"] for entry in seen]), 5),
                    "kl": round(_mean([entry.get("kl") or 0.0 for entry in seen]), 6),
                    "score": round(_mean(right), 5),
                    "held_out_reward": round(_mean(words), 5),
                }
            )
            if self.best() is self.looks[-1]:
                with room_for("the best weights so far", self.weights(self.looks[-1]), trainer.folder):
                    save_file(trained_weights(policy), self.weights(self.looks[-1]))
            write_durably(self.path, json.dumps(self.looks))
            self.prune()
            policy.train()

        def prune(self) -> None:
            """Keep the weights of the best look, and of the best that a run which goes on from the newest checkpoint knows."""
            found = newest(trainer.folder) if trainer.folder.exists() else None
            known = [look for look in self.looks if look["step"] <= (found.step if found else 0)]
            kept = {self.weights(self.best()), *([self.weights(self.best(known))] if known else [])}
            for path in desk.job.work.glob("best-*.safetensors"):
                if path not in kept:
                    path.unlink()

        def close(self) -> list[Finding]:
            """Put the best weights in place, and say what was seen."""
            first, last, best = self.looks[0], self.looks[-1], self.best()
            set_weights(policy, load_file(self.weights(best)), str(self.weights(best)))
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
    from tasks.tuning.whole import heed

    said = desk.say(model, desk.dev, heed)
    return _mean([row.label is not None and same_text(text, row.label) for row, text in zip(desk.dev, said, strict=True)])


def _calibration(desk: Desk, policy: Any) -> Calibration | None:
    """Of what is published, on dev, where the contender names labels."""
    import numpy

    from tasks.data.examples import input_text
    from tasks.tuning.calibration import calibrate
    from tasks.tuning.language.causal import label_logits
    from tasks.tuning.whole import heed

    labels = desk.job.labels
    if not labels or not desk.tuned.calibrate:
        return None
    prompts = desk.prompts([input_text(row.inputs) for row in desk.whole_dev])
    logits = label_logits(policy, prompts, desk.answers(labels), desk.tokenizer.pad_token_id, heed)
    return calibrate(logits.numpy(), numpy.array([labels.index(str(row.label)) for row in desk.whole_dev]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _in_parts(whole: int, rows: int) -> dict[str, int]:
    """So many rows to a step, `rows` of them at once."""
    return {"per_device_train_batch_size": rows, "per_device_eval_batch_size": rows, "gradient_accumulation_steps": whole // rows}


def _trl(desk: Desk) -> dict[str, Any]:
    """What every trainer of TRL's is given, and what it would set otherwise than this room does: our autocast chooses the type, and
    small models need no checkpointing."""
    recipe = {"weight_decay": desk.tuned.weight_decay, "max_grad_norm": desk.tuned.gradient_clipping}
    return {"bf16": False, "gradient_checkpointing": False, **recipe}


if __name__ == "__main__":
    serve_child(run, graceful=True)
