"""Examples go to disk and come back the same."""

from pathlib import Path

import pytest

from tasks.data.examples import input_text, read_example_file, write_examples
from tasks.records import Example


def test_examples_come_back_as_they_were_written(tmp_path: Path) -> None:
    examples = [
        Example(
            example=f"{number:032x}", row=number + 1, inputs={"z": f"one {number}", "a": "ü\n"}, label=None if number % 7 else "x"
        )
        for number in range(2500)
    ]

    assert write_examples(tmp_path / "test.parquet", iter(examples)) == 2500
    back = list(read_example_file(tmp_path / "test.parquet"))

    assert back == examples
    assert list(back[0].inputs) == ["z", "a"]


def test_no_examples_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no examples"):
        write_examples(tmp_path / "test.parquet", [])


def test_one_column_is_the_text_itself_and_several_are_named_lines() -> None:
    assert input_text({"review": "fine"}) == "fine"
    assert input_text({"question": "why?", "answer": "so"}) == "question: why?\nanswer: so"
