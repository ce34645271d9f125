"""When two free texts say the same: letter case, punctuation, markup and white space aside."""

from tasks.data.duplicates import normalise


def same_text(answer: str, reference: str) -> bool:
    """Whether an answer is its reference, normalised; an empty answer is right only where the reference is empty too."""
    return normalise(answer) == normalise(reference) if answer.strip() else not reference.strip()
