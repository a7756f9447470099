"""A small CNN and a Linear compute the initial state from an image; an RNN spells what it shows: digits → English words.

Repaired from the notes, which only remark that "a CNN + FC in front of h0" can caption images: here it is, with data made on
the fly and a target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from rnnx_models._glyphs import clean_images, noisy_images
from rnnx_models._recipe import Batch, Carried, Recipe, Score, Settings, device_of, pieces, warm_cosine
from rnnx_runtime.artifact import CharCodec, Sampling

WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
START: Final = "<"  # token 0, which a caption begins with
END: Final = ">"
VOCABULARY: Final = START + END + "".join(sorted(set("".join(WORDS))))
LONGEST: Final = max(map(len, WORDS)) + 1  # with its end
TARGET: Final = 0.99
_IMAGES: Final = 2000  # per epoch
_JUDGED: Final = 2000
_JUDGED_SEED: Final = 2**60  # beyond the seeds of all epochs


@dataclass(frozen=True, kw_only=True)
class CaptionRnnConfig:
    """Sizes; the images have 16 × 16 pixels."""

    channels: int = 16
    embedding: int = 16
    hidden: int = 64


@final
class CaptionRnn(nn.Module):
    """An image `(B, 1, 16, 16)` in [0, 1] and the caption so far `(B, T)` → logits of the next characters `(B, T, V)`."""

    def __init__(self, config: CaptionRnnConfig) -> None:
        super().__init__()
        half = config.channels // 2
        self.encoder = nn.Sequential(
            nn.Conv2d(1, half, 3, stride=2, padding=1),  # (B, C/2, 8, 8)
            nn.ReLU(),
            nn.Conv2d(half, config.channels, 3, stride=2, padding=1),  # (B, C, 4, 4)
            nn.ReLU(),
            nn.Flatten(),  # (B, 16·C)
            nn.Linear(16 * config.channels, config.hidden),  # (B, H)
            nn.Tanh(),  # within what a hidden state can be
        )
        self.emb = nn.Embedding(len(VOCABULARY), config.embedding)
        self.rnn = nn.RNN(config.embedding, config.hidden, batch_first=True)
        self.fc = nn.Linear(config.hidden, len(VOCABULARY))

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        h0 = self.encoder(image).unsqueeze(0)  # (1, B, H)
        x = self.emb(tokens)  # (B, T, E)
        x, _ = self.rnn(x, h0)  # (B, T, H)
        logits: Tensor = self.fc(x)  # (B, T, V)
        return logits


def digit_image(digit: int, generator: torch.Generator | None = None) -> Tensor:
    """An image of a digit, `(16, 16)` float32 in [0, 1]: as it is in the font, or shifted, turned and noisy by `generator`."""
    digits = torch.tensor([digit])
    return (clean_images(digits) if generator is None else noisy_images(digits, generator))[0]


def captions(module: nn.Module, images: Tensor) -> list[str]:
    """What a module in eval mode says of images `(B, 1, 16, 16)`: the likeliest character, one after the other."""
    tokens = torch.zeros(len(images), 1, dtype=torch.int64, device=images.device)  # START
    for _ in range(LONGEST):
        following = module(images, tokens)[:, -1].argmax(dim=-1, keepdim=True)  # (B, 1)
        tokens = torch.cat([tokens, following], dim=1)
    return ["".join(VOCABULARY[token] for token in row).partition(END)[0] for row in tokens[:, 1:].tolist()]


@final
class CaptionRnnRecipe(Recipe[CaptionRnnConfig]):
    """Cross-entropy of the next character, given the right ones before it; judged by whole words, on images of its own."""

    name = "caption_rnn"
    config_type = CaptionRnnConfig
    settings = Settings(epochs=30, lr=3e-3, batch_size=50)
    target = f"{TARGET:.0%} of the words"

    def build(self) -> CaptionRnn:
        return CaptionRnn(self.config)

    def example(self) -> tuple[Tensor, ...]:
        digits = torch.tensor([3, 7])
        return clean_images(digits)[:, None], _captions()[digits, :-1]  # (B=2, 1, 16, 16), (B=2, T=6)

    def codec(self) -> CharCodec:
        return CharCodec(vocabulary=VOCABULARY)

    def sampling(self) -> Sampling:
        return Sampling(prompt=START, stop=(END,), temperature=0.0, max_new_tokens=LONGEST)

    def schedule(self, done: float) -> float:
        return warm_cosine(done)

    def batches(self, settings: Settings, generator: torch.Generator) -> Sequence[Batch]:
        assert settings.batch_size is not None
        digits, images = _draw(_IMAGES, generator)
        wanted = _captions()[digits]  # (N, 7)
        return list(zip(pieces(images, settings.batch_size, 0), pieces(wanted, settings.batch_size, 0), strict=True))

    def loss(self, module: nn.Module, batch: Batch, carried: Carried) -> tuple[Tensor, Carried]:
        images, wanted = batch
        logits = module(images, wanted[:, :-1])  # (B, T, V)
        return nn.functional.cross_entropy(logits.flatten(0, 1), wanted[:, 1:].flatten()), ()

    def score(self, module: nn.Module) -> Score:
        digits, images = _draw(_JUDGED, torch.Generator().manual_seed(_JUDGED_SEED))
        said = captions(module, images.to(device_of(module)))
        right = sum(word == WORDS[digit] for word, digit in zip(said, digits.tolist(), strict=True)) / _JUDGED
        return Score(right, "of the words right", right >= TARGET)


def _draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Digits `(N,)` and their images `(N, 1, 16, 16)`."""
    digits = torch.randint(10, (count,), generator=generator)
    return digits, noisy_images(digits, generator)[:, None]


def _captions() -> Tensor:
    """The tokens of every digit's caption, from its start on, filled up with ends: `(10, 7)`."""
    codec = CharCodec(vocabulary=VOCABULARY)
    return torch.stack([torch.from_numpy(codec.encode((START + word).ljust(LONGEST + 1, END))) for word in WORDS])


RECIPE: Final = CaptionRnnRecipe
