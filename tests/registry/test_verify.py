import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.places import LivePlaces
from tasks.bases import resolve_base
from tasks.config import Combination, Hybrid, Method, Prompt, Task, Technique, Tuned
from tasks.contenders.hybrid import build_hybrid
from tasks.contenders.loader import load_contender
from tasks.data.examples import read_examples, write_examples
from tasks.data.predictions import FILE, read_predictions
from tasks.data.tokenize import tokenize
from tasks.errors import IntegrityError
from tasks.evaluation.predictions import predict
from tasks.prompting.ask import AskContext
from tasks.prompting.budget import Cap
from tasks.prompting.techniques.registry import build_prompt
from tasks.records import SPLITS
from tasks.registry.champion import champion_contender, current_champion, fetch_contender
from tasks.registry.publish import publish
from tasks.registry.verify import LOGIT_TOLERANCE, Judged, compare
from tasks.settings import Endpoint, Settings
from tasks.store import StoreClient
from tasks.tuning.tune import tune
from tasks.workspace import Workspace
from tests.prompting.loopback import Loopback, Say, completion
from tests.registry.making import NAME, publication_of, tiny_dataset
from tests.tiny_model import make_base, make_tokens

LABELS: list[str | None] = ["a", "b"]
LOGITS = np.array([[1.0, 0.0], [0.0, 1.0]], dtype="float32")


def test_equal_answers_differ_by_nothing() -> None:
    assert compare(LABELS, LOGITS.astype("float64"), Judged(LABELS, LOGITS)) == 0.0
    assert compare(LABELS, None, Judged(LABELS, None)) is None


@pytest.mark.parametrize("change", [10 * LOGIT_TOLERANCE, np.nan, np.inf])
def test_other_logits_are_refused(change: float) -> None:
    with pytest.raises(IntegrityError, match="other logits"):
        compare(LABELS, LOGITS + change, Judged(LABELS, LOGITS))


def test_another_label_is_refused_with_its_row() -> None:
    with pytest.raises(IntegrityError, match=r"1 test rows otherwise.*row 2: 'a', not 'b'"):
        compare(["a", "a"], LOGITS, Judged(LABELS, LOGITS))
    with pytest.raises(IntegrityError, match="row 1"):
        compare([None, "b"], None, Judged(LABELS, None))


def test_a_label_that_rounding_decides_may_differ() -> None:
    tie = np.array([[0.5, 0.5], [0.0, 1.0]], dtype="float32")
    assert compare(["b", "b"], tie, Judged(LABELS, tie)) == 0.0


def test_a_missing_row_or_missing_logits_are_refused() -> None:
    with pytest.raises(IntegrityError, match="1 rows; 2 were judged"):
        compare(LABELS[:1], LOGITS[:1], Judged(LABELS, LOGITS))
    with pytest.raises(IntegrityError):
        compare(LABELS, None, Judged(LABELS, LOGITS))


def prompt_settings(settings: Settings, url: str) -> Settings:
    endpoint = Endpoint(base_url=url, model="m", usd_per_million_input=1.0, usd_per_million_output=2.0)
    return settings.model_copy(update={"endpoints": {"there": endpoint}})


def sentiment(request: dict[str, Any], number: int) -> Say:
    text = request["messages"][-1]["content"]
    label = "positive" if any(word in text for word in ("superb", "moving", "bright", "clever")) else "negative"
    return Say(completion(f'{{"label": "{label}"}}'))


def test_a_prompt_is_published_when_its_messages_come_back_byte_for_byte(
    tmp_path: Path, made: Path, settings: Settings, client: StoreClient
) -> None:
    workspace, dataset = Workspace(tmp_path / "workspace"), tiny_dataset(made)
    cap = Cap(1.0)
    with Loopback(sentiment) as server, LivePlaces(prompt_settings(settings, server.url)) as places:
        prompt = Prompt(name="shots", endpoint="there", techniques=[Technique.FEW_SHOT], examples=2)
        winner = build_prompt(prompt, Task(), dataset, places, cap, workspace)
        predictions = predict(winner, dataset, places, cap, workspace)
        asked, spent = len(server.requests), cap.spent_usd
        record = publish(publication_of(winner, predictions, dataset, "direct"), places, workspace, cap)
        assert (record.rows_verified, record.rows_asked_again, record.answers_repeated) == (40, 5, 5)
        assert len(server.requests) == asked + 5
        assert cap.spent_usd > spent
    card = (client.read(client.key("contenders", record.champion.sha256, "README.md")) or (b"", ""))[0].decode()
    assert f"curl {server.url}/chat/completions" in card
    assert "<text>" in card


def test_a_prompt_within_a_spent_cap_is_published_without_asking_again(tmp_path: Path, made: Path, settings: Settings) -> None:
    workspace, dataset = Workspace(tmp_path / "workspace"), tiny_dataset(made)
    with Loopback(sentiment) as server, LivePlaces(prompt_settings(settings, server.url)) as places:
        prompt = Prompt(name="zero", endpoint="there")
        winner = build_prompt(prompt, Task(), dataset, places, Cap(0), workspace)
        predictions = predict(winner, dataset, places, Cap(1.0), workspace)
        asked = len(server.requests)
        record = publish(publication_of(winner, predictions, dataset, "direct"), places, workspace, Cap(0.0))
        assert record.rows_asked_again == 0
        assert len(server.requests) == asked


def test_a_prompt_that_gets_no_answer_any_more_is_not_made_champion(tmp_path: Path, made: Path, settings: Settings) -> None:
    workspace, dataset = Workspace(tmp_path / "workspace"), tiny_dataset(made)
    with Loopback(sentiment) as server, LivePlaces(prompt_settings(settings, server.url)) as places:
        winner = build_prompt(Prompt(name="zero", endpoint="there"), Task(), dataset, places, Cap(0), workspace)
        predictions = predict(winner, dataset, places, Cap(1.0), workspace)
        server.behave = lambda request, number: Say(completion("nothing to say"))
        with pytest.raises(IntegrityError, match="none of 5 test rows got a usable answer"):
            publish(publication_of(winner, predictions, dataset, "direct"), places, workspace, Cap(1.0))
        assert current_champion(places, "direct", NAME) is None


def test_a_prompt_for_free_text_is_asked_again_and_refused_where_it_gets_no_answer(
    tmp_path: Path, made: Path, settings: Settings
) -> None:
    workspace, dataset = Workspace(tmp_path / "workspace"), tiny_dataset(made)
    free = dataset.model_copy(update={"labels": [], "label_rows": {}, "fingerprint": "free"})

    def says(text: str, finish: str = "stop") -> Callable[[dict[str, Any], int], Say]:
        return lambda request, number: Say(completion(text, finish))

    with Loopback(says("a flat film")) as server, LivePlaces(prompt_settings(settings, server.url)) as places:
        winner = build_prompt(Prompt(name="zero", endpoint="there"), Task(), free, places, Cap(0), workspace)
        predictions = predict(winner, free, places, Cap(1.0), workspace)
        server.behave = says("a flat", "length")
        publication = publication_of(winner, predictions, free, "direct")
        with pytest.raises(IntegrityError, match="none of 5 test rows got a usable answer"):
            publish(publication, places, workspace, Cap(1.0))
        server.behave = says("a flat film")
        record = publish(publication, places, workspace, Cap(1.0))
    assert (record.rows_verified, record.rows_asked_again, record.answers_repeated) == (40, 5, 5)


@pytest.mark.slow
def test_a_tuned_contender_comes_back_with_the_same_logits_and_loads_with_peft_alone(
    tmp_path: Path, made: Path, settings: Settings, client: StoreClient
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    workspace, dataset = Workspace(tmp_path / "workspace"), tiny_dataset(made)
    make_base(tmp_path / "base")
    tuned = Tuned(name="lora", base="base", targets=["q_lin"], epochs=1, batch_size=16, max_tokens=32)
    with LivePlaces(settings.model_copy(update={"roots": [tmp_path]})) as places:
        base = resolve_base("base", "", places.settings)
        winner = tune(tuned, dataset, make_tokens(tmp_path / "tokens", base, dataset), base, workspace)
        predictions = predict(winner, dataset, places, Cap(0.0), workspace)
        record = publish(publication_of(winner, predictions, dataset, "direct"), places, workspace)
    assert (record.rows_verified, record.largest_logit_difference) == (40, 0.0)
    back = tmp_path / "back"
    fetch_contender(client, record.champion.sha256, back)
    assert "PeftModel.from_pretrained" in (back / "README.md").read_text()
    PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=2), back / "adapter")


@pytest.mark.slow
def test_a_tuned_contender_that_writes_text_is_published_when_it_writes_the_same_and_loads_with_peft_alone(
    tmp_path: Path, made: Path, settings: Settings, client: StoreClient
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    workspace, labelled = Workspace(tmp_path / "workspace"), tiny_dataset(made)
    said = {"positive": "bright film", "negative": "flat film"}
    for split in SPLITS:
        rows = [row.model_copy(update={"label": said[str(row.label)]}) for row in read_examples(labelled, split)]
        write_examples(tmp_path / f"{split}.parquet", rows)
    free = labelled.model_copy(update={"folder": tmp_path, "labels": [], "label_rows": {}, "fingerprint": "free"})
    make_base(tmp_path / "base", "llama", tie_word_embeddings=True)  # without, its last layer would be missing
    tuned = Tuned(name="writes", base="base", epochs=1, batch_size=16, max_tokens=32, max_answer_tokens=4)
    with LivePlaces(settings.model_copy(update={"roots": [tmp_path]})) as places:
        base = resolve_base("base", "", places.settings)
        winner = tune(tuned, free, tokenize(tuned, free, base, workspace), base, workspace)
        predictions = predict(winner, free, places, Cap(0.0), workspace)
        table = pq.read_table(predictions.folder / FILE)
        texts = pa.array([f"{text}, or not" for text in table["answer"].to_pylist()])
        (tmp_path / "others").mkdir()
        pq.write_table(table.set_column(table.column_names.index("answer"), "answer", texts), tmp_path / "others" / FILE)
        others = predictions.model_copy(update={"folder": tmp_path / "others"})
        with pytest.raises(IntegrityError, match="40 test rows otherwise than when it was judged"):
            publish(publication_of(winner, others, free, "direct"), places, workspace)
        record = publish(publication_of(winner, predictions, free, "direct"), places, workspace)
    assert (record.rows_verified, record.largest_logit_difference) == (40, None)
    back = tmp_path / "back"
    fetch_contender(client, record.champion.sha256, back)
    adapter = json.loads((back / "adapter" / "adapter_config.json").read_text())
    assert (adapter["peft_type"], adapter["task_type"], adapter["modules_to_save"]) == ("LORA", "CAUSAL_LM", None)
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (base.id, base.revision)
    assert "AutoModelForCausalLM" in (back / "README.md").read_text()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), back / "adapter")
    loaded, weights = get_peft_model_state_dict(model), load_file(back / "adapter" / "adapter_model.safetensors")
    assert set(loaded) == set(weights)
    assert all(loaded[name].equal(weights[name]) and weights[name].any() for name in weights)


@pytest.mark.slow
def test_a_hybrid_is_published_when_both_its_parts_come_back_and_predicts_from_what_was_published(
    tmp_path: Path, made: Path, settings: Settings, client: StoreClient
) -> None:
    workspace, dataset, cap = Workspace(tmp_path / "workspace"), tiny_dataset(made), Cap(1.0)
    make_base(tmp_path / "base")
    recipe = Tuned(name="lora", base="base", method=Method.LORA, learning_rate=0.01, epochs=1, batch_size=8, max_tokens=32)
    with Loopback(sentiment) as server:
        asking = prompt_settings(settings, server.url).model_copy(update={"roots": [tmp_path]})
        with LivePlaces(asking) as places:
            base = resolve_base("base", "", places.settings)
            tuned = tune(recipe, dataset, make_tokens(tmp_path / "tokens", base, dataset), base, workspace)
            prompt = build_prompt(Prompt(name="zero", endpoint="there"), Task(), dataset, places, cap, workspace)
            parts = tuned, predict(tuned, dataset, places, cap, workspace), prompt, predict(prompt, dataset, places, cap, workspace)
            previous = None
            for combination in Combination:
                pair = Hybrid(name=combination.value, tuned="lora", prompt="zero", combination=combination)
                winner = build_hybrid(pair, *parts, dataset, places, cap, workspace)
                predictions = predict(winner, dataset, places, cap, workspace)
                publication = publication_of(winner, predictions, dataset, "direct", previous)
                record = publish(publication, places, workspace, cap)
                assert (record.rows_verified, record.largest_logit_difference) == (40, 0.0)
                assert (record.rows_asked_again, record.answers_repeated) == (5, 5)
                previous = current_champion(places, "direct", NAME)
                champion = champion_contender(places, "direct", NAME, workspace)
                assert champion
                asks = AskContext(places.endpoint("there"), cap)
                answers = load_contender(champion.folder, asks, places.settings).predict(read_examples(dataset, "test"))
                assert [answer.label for answer in answers] == [row.label for row in read_predictions(predictions, "test")]
                card = (champion.folder / "README.md").read_text()
                assert "AskContext(settings.endpoint(" in card
                assert f"curl {server.url}/chat/completions" in card
                assert ("A fine-tuned classifier says: <label>" in card) == (combination is Combination.IN_PROMPT)
                assert ("![Accuracy against cost on dev](routing.svg)" in card) == (combination is Combination.ROUTING)
