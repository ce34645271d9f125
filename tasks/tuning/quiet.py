"""The libraries' own bars and remarks, silenced: progress is told by ours, and what they say of heads that training is about to
fill, or of their own future, is nothing to whoever runs a bake-off."""

import warnings


def quiet_libraries() -> None:
    """For this process. Errors still show."""
    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|torch|peft)\b")
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
