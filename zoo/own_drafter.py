"""A drafter for texts of your own: the recipe of the zoo's specialists, in minutes instead of hours.

It becomes worse than a shipped one, as it sees a hundredth of what they saw; it knows a kind of text that they do not.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from speculation.errors import ConfigurationError, InvalidRequestError
from zoo.build import StageBegins, export_model
from zoo.catalog import model_folder
from zoo.distillation import divergence_from
from zoo.lean_model import DRAFTER_SHAPE, LeanLlama, from_hugging_face
from zoo.recipe import TARGET, Schedule
from zoo.token_stream import Mixture, TokenStream, encode
from zoo.training import train

READING_SHARE = 1 / 6
"""Of the steps, in which it reads the text as such; in the others it follows the target. As in the shipped recipe."""

ROWS, LENGTH = 8, 256
READING_RATE = 5e-3
FEWEST_TOKENS = 10 * LENGTH


def train_own_drafter(texts: Sequence[str], out: Path, *, steps: int, seed: int, begin: StageBegins) -> Path:
    """Train a drafter for the zoo's target on these documents, and write it as a Hugging Face folder.

    Args:
        texts: Documents, of the kind that requests will be.
        out: A new or empty folder.
        steps: Of training, each over 2,048 tokens.
        seed: Of first weights and batches.
        begin: Told of each stage; see `zoo.build`.

    Raises:
        ConfigurationError: There is something in that folder.
        InvalidRequestError: The documents are too short to learn from.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigurationError("out", f"{out} is there and not an empty folder; name a new one")
    tokenizer = Tokenizer.from_file(str(model_folder(TARGET) / "tokenizer.json"))
    stream = encode(texts, tokenizer, seed=f"order-{seed}") if texts else None
    if stream is None or len(stream.token_ids) < FEWEST_TOKENS:
        raise InvalidRequestError("text", f"holds fewer than {FEWEST_TOKENS} tokens: name more files")
    reading_steps = max(1, round(READING_SHARE * steps))
    model = LeanLlama(DRAFTER_SHAPE).initialise(seed)
    reading = Schedule(steps=reading_steps, rows=ROWS, length=LENGTH, vector_rate=READING_RATE)
    train(model, _batches(stream, seed), reading, report=begin("reading"), compiled=False)
    following = Schedule(steps=max(1, steps - reading_steps), rows=ROWS, length=LENGTH)
    divergence = divergence_from(from_hugging_face(model_folder(TARGET)), compiled=False)
    train(model, _batches(stream, seed + 1), following, loss=divergence, report=begin("following"), compiled=False)
    export_model(model, tokenizer, out)
    return out


def read_texts(places: Sequence[Path], pattern: str = "*") -> list[str]:
    """The documents in files, and in the files of folders whose names match, however deep they lie.

    What is no text (UTF-8) is passed over in folders, and an error where it was named.

    Raises:
        InvalidRequestError: There is no such file or folder, or a named file is no text.
    """
    return [text for place in places for text in _texts_of(place, pattern)]


def _texts_of(place: Path, pattern: str) -> Iterator[str]:
    if place.is_dir():
        for file in sorted(path for path in place.rglob(pattern) if path.is_file()):
            try:
                yield file.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue
        return
    try:
        yield place.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise InvalidRequestError("text", f"{place} cannot be read as text: {error}") from error


def _batches(stream: TokenStream, seed: int) -> Mixture:
    return Mixture({"own": stream}, {"own": 1.0}, seed=seed)
