"""transformers' `generate`, around the same module: what it costs to write a small model's text with it."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from benchmarks.models import Size
from benchmarks.peers.peer import Peer, Subject, one_thread


@final
class Transformers(Peer):
    """A `PreTrainedModel` that hands its recurrent state on between the steps of `generate`, as its own recurrent models do."""

    name = "transformers generate"
    package = "transformers"

    def write(self, subject: Subject, prompt: Any) -> Callable[[float, int], Sequence[int]]:
        """A text of so many tokens at a temperature; 0: the likeliest each time."""
        import torch

        one_thread()
        model = _model(subject.size)
        given = torch.from_numpy(prompt)[None]

        def write(temperature: float, count: int) -> Sequence[int]:
            how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
            with torch.inference_mode():
                found = model.generate(given, max_new_tokens=count, pad_token_id=0, **how)
            tokens: list[int] = found[0, given.shape[1] :].tolist()
            return tokens

        return write


def _model(size: Size) -> Any:
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    base: Any = importlib.import_module("transformers.utils").ModelOutput

    class Config(transformers.PretrainedConfig):  # type: ignore[misc, name-defined]
        model_type = "benchmarked"

    @dataclass
    class Output(base):  # type: ignore[misc]
        logits: Any = None
        hidden: Any = None

    class Model(transformers.PreTrainedModel, transformers.GenerationMixin):  # type: ignore[misc, name-defined]
        config_class = Config
        _is_stateful = True  # no cache of keys and values

        @classmethod
        def _supports_default_dynamic_cache(cls) -> bool:
            return False

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.net = size.module()
            self.post_init()

        def forward(self, input_ids: Any, hidden: Any = None, **_: Any) -> Any:
            logits, following = self.net.carried(input_ids, hidden)
            return Output(logits=logits, hidden=following)

        def prepare_inputs_for_generation(self, input_ids: Any, hidden: Any = None, **_: Any) -> Any:
            return {"input_ids": input_ids if hidden is None else input_ids[:, -1:], "hidden": hidden}

        def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: Any, **_: Any) -> Any:
            return {**model_kwargs, "hidden": outputs.hidden}

    model = Model(Config(vocab_size=size.vocabulary)).eval()
    model.net.load_state_dict(size.module().state_dict())  # it draws weights of its own
    return model
