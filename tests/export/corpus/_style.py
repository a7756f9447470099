"""One way that people write a recurrent module, with an example to export it with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Style:
    """`says` is for a table; `refusal` is a word of the message that group "refused" must get."""

    name: str
    says: str
    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    group: Literal["state", "structure", "loops", "cells", "sequence only", "refused"]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    refusal: str | None = None


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tokens(vocabulary: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def flags(*shape: int, seed: int = 0) -> Tensor:
    """Zeros and ones, of both kinds: what tells an agent that its episode goes on."""
    drawn = (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.7).float()
    drawn.view(-1)[0], drawn.view(-1)[-1] = 0.0, 1.0
    return drawn
