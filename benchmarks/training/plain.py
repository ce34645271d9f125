"""The plain script, as one types it today: what runs in its process."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.training.bench import PLAIN_BATCH, RECIPE, Bench, Clock, Given, open_rows, prepare, timed
from benchmarks.training.curves import epoch, home_of, keep_curves, read_curves, rights
from tasks.config import Method


def trainer_of(bench: Bench, folder: Path, out: Path, epochs: int, seed: int) -> Any:
    """transformers' Trainer on the tokens in `folder`."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(bench.base.path, num_labels=len(bench.dataset.labels))
    config = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=32, lora_dropout=0.01, target_modules=["query", "value"])
    train, dev = (open_rows(folder / name).remove_columns("length") for name in ("train", "dev"))
    given = TrainingArguments(
        output_dir=str(out),
        learning_rate=1e-3,
        per_device_train_batch_size=PLAIN_BATCH,
        per_device_eval_batch_size=PLAIN_BATCH,
        num_train_epochs=epochs,
        weight_decay=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        seed=seed,
        report_to=[],
        disable_tqdm=True,
    )
    return Trainer(
        model=get_peft_model(model, config),
        args=given,
        train_dataset=train,
        eval_dataset=dev,
        processing_class=bench.tokenizer,
        data_collator=DataCollatorWithPadding(bench.tokenizer),
        compute_metrics=lambda said: {"accuracy": float((said.predictions.argmax(-1) == said.label_ids).mean())},
    )


def train_slice(given: Given, folder: Path) -> Clock:
    """One epoch over a slice, with its evaluation."""
    from transformers import Trainer

    with TemporaryDirectory() as name:
        trainer = trainer_of(prepare(given), folder, Path(name), 1, RECIPE.seed)
        with timed((Trainer, "train")) as clock:
            trainer.train()
    return clock


def predict_slice(given: Given, contender: Path, start: int, rows: int) -> tuple[Clock, list[str]]:
    """Labels of some test rows, from a loop in batches of 4 over a tuned model as PEFT loads it."""
    import torch

    from tasks.data.examples import read_example_file, split_path
    from tasks.tuning.methods import restore

    bench = prepare(given)
    tokenizer, labels = bench.tokenizer, bench.dataset.labels
    tokenizer.truncation_side = "left"
    model = restore(contender, Method.LORA, bench.base.path, labels, len(tokenizer), tokenizer.pad_token_id)
    texts = [each.inputs["text"] for each in list(read_example_file(split_path(bench.dataset, "test")))[start : start + rows]]
    clock, said = Clock(), []
    with clock.running():
        for place in range(0, len(texts), PLAIN_BATCH):
            several = texts[place : place + PLAIN_BATCH]
            batch = tokenizer(several, truncation=True, max_length=RECIPE.max_tokens, padding=True, return_tensors="pt")
            with torch.no_grad():
                said += model(**batch).logits.argmax(-1).tolist()
    return clock, [labels[index] for index in said]


def curve(given: Given, seed: int, seconds: float) -> None:
    """All epochs; it stops at an epoch's end when time is up, and goes on there the next time."""
    from transformers import TrainerCallback

    bench, until = prepare(given), time.monotonic() + seconds
    curves, home = read_curves(bench, seed), home_of(bench, seed)
    done = curves["plain"]
    before = done[-1] if done else None
    trainer = trainer_of(bench, bench.tokens.folder, home / "plain", given.plain_epochs, seed)
    steps = -(-len(trainer.train_dataset) // PLAIN_BATCH) * len(done)
    began = time.perf_counter(), time.process_time()

    class Epochs(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
            done.append(epoch("plain", seed, metrics["eval_accuracy"], began, before))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            keep_curves(bench, seed, curves)
            control.should_training_stop = time.monotonic() >= until

    trainer.add_callback(Epochs())
    trainer.train(resume_from_checkpoint=str(home / f"plain/checkpoint-{steps}") if done else None)
    if len(done) >= given.plain_epochs:
        curves["right"]["plain"] = rights(bench, trainer.model)
    keep_curves(bench, seed, curves)
