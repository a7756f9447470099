"""What the character models share: Embedding → a recurrent layer → Linear, which learns what comes next in any text."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from rnnx_models._corpus import CorpusError, check_length, default_text, held_out_windows, split, vocabulary_of, windows
from rnnx_models._recipe import Batch, Carried, Recipe, Score, Settings, device_of, warm_cosine
from rnnx_runtime import RnnxError
from rnnx_runtime.artifact import CharCodec, Sampling

Layer = type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]
Hidden = Tensor | tuple[Tensor, Tensor]  # of `nn.RNN` and `nn.GRU`, or of `nn.LSTM`; each (L, B, H)


@dataclass(frozen=True, kw_only=True)
class CharConfig:
    """Sizes, and the characters that the model knows: by default those of the text that it learns from by default."""

    vocabulary: str = field(default_factory=lambda: vocabulary_of(default_text()))
    embedding: int = 64
    hidden: int = 128
    layers: int = 2
    dropout: float = 0.2


@final
class CharModel(nn.Module):
    """Tokens `(B, T)`, and a state where a text goes on → logits `(B, T, V)` of what comes next, and the next state."""

    def __init__(self, config: CharConfig, layer: Layer) -> None:
        super().__init__()
        between = config.dropout if config.layers > 1 else 0.0  # torch warns of dropout between layers where there is one
        self.emb = nn.Embedding(len(config.vocabulary), config.embedding)
        self.emb_dropout = nn.Dropout(config.dropout / 2)
        self.rnn = layer(config.embedding, config.hidden, config.layers, dropout=between, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(config.hidden, len(config.vocabulary))

    def forward(self, tokens: Tensor, hidden: Hidden | None = None) -> tuple[Tensor, Hidden]:
        x = self.emb_dropout(self.emb(tokens))  # (B, T, E)
        x, hidden = self.rnn(x, hidden)  # (B, T, H)
        x = self.fc(self.dropout(x))  # (B, T, V)
        return x, hidden


class CharRecipe(Recipe[CharConfig]):
    """Cross-entropy of the next character, the state carried from window to window; judged on the last tenth of the text."""

    config_type = CharConfig
    settings = Settings(epochs=30, lr=8e-3, batch_size=32, seq_len=64)
    reads_text = True
    in_bits = True
    layer: ClassVar[Layer]
    bits: ClassVar[float]  # per character, that it must come to

    def __init_subclass__(cls) -> None:
        cls.target = f"at most {cls.bits} bits per character, as English text allows"

    @final
    def __init__(self, config: CharConfig, text: str | None = None) -> None:
        super().__init__(config)
        self._text = text

    @final
    def build(self) -> CharModel:
        return CharModel(self.config, self.layer)

    @final
    def example(self) -> tuple[Tensor, ...]:
        return (torch.arange(2 * 5).view(2, 5) % len(self.config.vocabulary),)  # (B=2, T=5)

    @final
    def codec(self) -> CharCodec:
        return CharCodec(vocabulary=self.config.vocabulary)

    @final
    def sampling(self) -> Sampling:
        vocabulary = self.config.vocabulary
        return Sampling(prompt="\n" if "\n" in vocabulary else vocabulary[0], temperature=0.8)

    @final
    def optimizer(self, module: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.05)

    @final
    def schedule(self, done: float) -> float:
        return warm_cosine(done)

    @final
    def batches(self, settings: Settings, generator: torch.Generator) -> Sequence[Batch]:
        assert settings.batch_size is not None
        assert settings.seq_len is not None
        check_length(len(self._corpus), settings.batch_size, settings.seq_len)
        return windows(self._split[0], settings.batch_size, settings.seq_len, generator)

    @final
    def loss(self, module: nn.Module, batch: Batch, carried: Carried) -> tuple[Tensor, Carried]:
        logits, carried = self._run(module, batch[0], carried)
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten()), carried

    @final
    def score(self, module: nn.Module) -> Score:
        nats, count, device = 0.0, 0, device_of(module)
        carried: Carried = ()
        for x, y in held_out_windows(self._split[1]):
            logits, carried = self._run(module, x.to(device), carried)
            nats += nn.functional.cross_entropy(logits.flatten(0, 1), y.to(device).flatten(), reduction="sum").item()
            count += y.numel()
        bits = nats / count / math.log(2)
        return Score(bits, "bits per character", bits <= self.bits, lower_is_better=True)

    @final
    def fingerprint(self) -> str:
        return self._digest

    def _run(self, module: nn.Module, tokens: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
        """Logits `(B, T, V)`, and the state as a tuple whatever the layer."""
        hidden: Any = None if not carried else carried if len(carried) > 1 else carried[0]
        logits, hidden = module(tokens, hidden)
        return logits, hidden if isinstance(hidden, tuple) else (hidden,)

    @cached_property
    def _corpus(self) -> str:
        return default_text() if self._text is None else self._text

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self._corpus.encode()).hexdigest()

    @cached_property
    def _split(self) -> tuple[Tensor, Tensor]:
        """The text as tokens, `(N,)` each: what is trained on, what is held out."""
        try:
            return split(torch.from_numpy(self.codec().encode(self._corpus)))
        except RnnxError as error:
            raise CorpusError(f"the text does not fit the model: {error}") from None
