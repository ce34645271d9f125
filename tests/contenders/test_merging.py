"""What a merged model of a contender that answers in text brings along."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from tasks.bases import ResolvedBase, resolve_base
from tasks.config import Method, Tuned
from tasks.contenders.merging import TOLERANCE, is_near_tie, template_of, write_the_likeliest
from tasks.contenders.tuned import TunedSpec
from tasks.data.completions import Frame
from tasks.errors import BadConfig
from tasks.settings import Settings
from tasks.tuning.language.causal import choose_weights, first_logits, load_causal
from tests.tiny_model import make_base

END = 3


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    root = tmp_path_factory.mktemp("root")
    make_base(root / "tiny", "gpt2")
    return resolve_base("tiny", "", Settings(roots=[root]))


@pytest.fixture
def model(causal: ResolvedBase) -> Any:
    return load_causal(causal.path, 0, 0)


def spec(**changes: Any) -> TunedSpec:
    values: dict[str, Any] = {
        "method": Method.LORA,
        "base": "b",
        "revision": "",
        "config_sha256": "",
        "source": "b",
        "vocabulary": 0,
    }
    values |= {"max_tokens": 8, "truncation_side": "right", "frame": Frame(before=[], after=[], end=END), "max_answer_tokens": 5}
    return TunedSpec.model_validate(values | changes)


def test_a_template_shows_one_turn_between_the_very_tokens_of_the_frame() -> None:
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer, learned.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=["<user>", "<bot>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learned.train_from_iterator(["a good film", "a bad film"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learned, clean_up_tokenization_spaces=False)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    before, after = ids('<user>\n"\U0001f600" {{ \\ }}\u2028\n'), ids("\n<bot>\n")
    tokenizer.chat_template = template_of(tokenizer, Frame(before=before, after=after, end=END))
    turn = [{"role": "user", "content": "a good {{ film }}"}]
    shown = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    assert shown == [*before, *ids("a good {{ film }}"), *after]


def test_what_the_base_says_of_generation_stays_but_for_sampling(model: Any, tmp_path: Path) -> None:
    model.generation_config = GenerationConfig(repetition_penalty=1.3, do_sample=True, temperature=0.2, top_p=0.5, max_length=9)
    write_the_likeliest(model, spec(), 0)
    model.save_pretrained(tmp_path)
    found = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    told = (found.repetition_penalty, found.eos_token_id, found.pad_token_id, found.max_new_tokens)
    assert told == (1.3, END, 0, 5)
    assert not found.do_sample
    assert (found.temperature, found.top_p, found.max_length) == (None, None, None)


def test_answers_that_part_where_rounding_may_choose_are_no_other_answers(model: Any) -> None:
    prompt = [5, 6]
    [logits] = first_logits(model, [prompt], 0)
    best, second = logits.topk(2).indices.tolist()
    assert logits[best] - logits[second] > 2 * TOLERANCE
    assert not is_near_tie(model, prompt, [best, 7], [second, 8], 0)
    with torch.no_grad():
        model.lm_head.weight[second] = model.lm_head.weight[best]
    assert is_near_tie(model, prompt, [best, 7], [second, 8], 0)
    assert not is_near_tie(model, prompt, [best], [best, 7], 0), "one goes on where the other has ended"


def test_embeddings_that_grow_are_the_same_at_each_load_and_leave_chance_alone(causal: ResolvedBase) -> None:
    grown = load_causal(causal.path, 0, 0).get_input_embeddings().num_embeddings + 3
    torch.manual_seed(1)
    first, drawn = load_causal(causal.path, grown, 0), torch.rand(2)
    torch.manual_seed(2)
    again = load_causal(causal.path, grown, 0)
    assert first.get_input_embeddings().num_embeddings == grown
    assert torch.equal(first.get_input_embeddings().weight, again.get_input_embeddings().weight)
    torch.manual_seed(1)
    load_causal(causal.path, 0, 0)
    assert torch.equal(drawn, torch.rand(2))


def test_an_output_layer_that_is_the_embedding_is_refused_as_a_target(model: Any, causal: ResolvedBase) -> None:
    tuned = Tuned(name="t", base="tiny", as_text=True, targets=["c_attn", "lm_head"])
    with pytest.raises(BadConfig, match=r"lm_head of the base .* is its embedding of tokens as well"):
        choose_weights(model, tuned, causal)
