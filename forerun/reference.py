"""What transformers itself would generate: the judge that knows nothing of us."""

from pathlib import Path
from typing import Any, Self


class Reference:
    """The target as transformers runs it.

    Attributes:
        tokenizer: The model's own.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._model = model

    @classmethod
    def load(cls, folder: str | Path, *, dtype: str = "float32") -> Self:
        """Load model and tokenizer of a folder. Takes seconds and all the memory that the model needs."""
        from transformers import AutoTokenizer

        return cls(plain_model(folder, dtype=dtype), AutoTokenizer.from_pretrained(folder))

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a prompt whose chat markers, if any, are in it already."""
        return tuple(self.tokenizer(prompt)["input_ids"])

    def greedy(self, prompt: tuple[int, ...], max_new_tokens: int) -> tuple[int, ...]:
        """The answer by `generate`, an end token included."""
        import torch

        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens
            )
        return tuple(output[0, len(prompt) :].tolist())


def plain_model(folder: str | Path, dtype: str = "float32") -> Any:
    """A model as transformers loads it, in evaluation mode and in a number format of torch's."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
