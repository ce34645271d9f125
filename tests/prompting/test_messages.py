import json

import pytest

from tasks.errors import BadConfig
from tasks.prompting.messages import PromptSpec, Shot, build_request, render, render_instructions
from tests.prompting.conftest import make_spec


def test_template_syntax_in_a_row_stays_data() -> None:
    hostile = "{{ 7*7 }} {% for x in range(9) %}{# no #} {{ text }}"
    shown = json.dumps(render(make_spec(shots=[Shot(inputs={"text": hostile}, label="negative")]), {"text": hostile}))
    assert shown.count(json.dumps(hostile)[1:-1]) == 2
    assert "49" not in shown


def test_the_input_comes_last_and_all_before_it_is_shared() -> None:
    spec = make_spec(shots=[Shot(inputs={"text": "dull"}, label="negative")])
    one, other = render(spec, {"text": "one"}), render(spec, {"text": "other"})
    assert one[:-1] == other[:-1]
    assert one[-1]["content"].removesuffix("one") == other[-1]["content"].removesuffix("other")


def test_examples_are_answered_in_the_form_that_is_asked_for() -> None:
    shots = [Shot(inputs={"text": "dull"}, label="n\u00e9gatif")]
    structured = render(make_spec(shots=shots), {"text": "x"})
    plain = render(make_spec(shots=shots, structured=False), {"text": "x"})
    assert [message["content"] for message in structured if message["role"] == "assistant"] == ['{"label": "n\u00e9gatif"}']
    assert [message["content"] for message in plain if message["role"] == "assistant"] == ["n\u00e9gatif"]


def test_several_columns_are_shown_by_name_in_the_configs_order() -> None:
    spec = make_spec(inputs=["question", "answer"])
    shown = render(spec, {"answer": "1492", "other": "hidden", "question": "When?"})
    assert shown[-1]["content"].endswith("question: When?\nanswer: 1492")


def test_a_row_without_a_column_is_an_error() -> None:
    with pytest.raises(BadConfig, match="'text'"):
        render(make_spec(), {"body": "x"})


def test_a_spec_renders_the_same_bytes_after_a_trip_through_json() -> None:
    spec = make_spec(shots=[Shot(inputs={"text": "caf\u00e9 \u2028 \U0001f600"}, label="positive")])
    again = PromptSpec.model_validate_json(spec.model_dump_json())
    assert json.dumps(build_request(again, {"text": "\u00fc"})) == json.dumps(build_request(spec, {"text": "\u00fc"}))


def test_instructions_may_name_labels_and_columns() -> None:
    assert render_instructions('{{ labels|join("/") }} by {{ inputs[0] }}', ["a", "b"], ["text"]) == "a/b by text"


@pytest.mark.parametrize(
    "template",
    [
        "{{ missing }}",
        "{{ labels",
        "{% for x in labels %}",
        "{{ labels.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ 'a' * 10 ** 10 }}",
        "{% for x in range(10 ** 9) %}x{% endfor %}",
        "{{ labels.append('c') }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_instructions_that_are_broken_or_hostile_are_refused(template: str) -> None:
    with pytest.raises(BadConfig, match="instructions"):
        render_instructions(template, ["a", "b"], ["text"])
