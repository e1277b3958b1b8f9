"""A prompt and what a model makes of it, as people read them."""

ARROW = " → "
ENDED = "(the model ended the text)"


def sample_text(prompt: str, continuation: str) -> str:
    """'prompt → continuation'. Where the model ended the text at once, it says so in place of the continuation."""
    return prompt.strip() + ARROW + (continuation.strip() if continuation else ENDED)
