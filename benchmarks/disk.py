"""How large is the file that is shipped?"""

import importlib.util
from typing import Final

import msgspec

from benchmarks.models import MODELS, LSTM_2x128, LSTM_2x512, RNN_2x8, Size
from benchmarks.question import Question, Setting
from benchmarks.tables import figure, table


class Figures(msgspec.Struct, frozen=True):
    """Bytes by model and kind of file; of the weights alone too."""

    sizes: dict[str, dict[str, int]]


def measure(setting: Setting) -> Figures:
    return Figures(
        {size.name: _files(setting, size) for size in setting.of(MODELS, (RNN_2x8, LSTM_2x128, LSTM_2x512), (RNN_2x8,))}
    )


def _files(setting: Setting, size: Size) -> dict[str, int]:
    subject = setting.subject(size)
    found = {
        "weights alone, float32": sum(array.nbytes for array in size.weights().values()),
        "rnnx artifact": len(subject.exported),
        "minimal ONNX graph": len(subject.minimal),
        "TorchScript": subject.path.with_suffix(".pt").stat().st_size,
    }
    if importlib.util.find_spec("ai_edge_litert") is not None:
        from benchmarks.peers.tflite import step_graph

        found["LiteRT, one step"] = len(step_graph(size, 1))
    for bits in (8, 4):
        if size.hidden >= 128:
            found[f"rnnx artifact, {bits} bits"] = len(setting.quantised(size, bits).exported)
    return found


def page(figures: Figures) -> str:
    names = dict.fromkeys(name for sizes in figures.sizes.values() for name in sizes)
    rows = [[name, *(figure(s[name] / 1024) if name in s else "" for s in figures.sizes.values())] for name in names]
    return (
        "KiB. The artifact holds its manifest, a golden trace, the parity report's summary and the seal beside the weights.\n\n"
        + table(["", *figures.sizes], rows)
    )


QUESTION: Final = Question("disk", "How large is the file that is shipped?", Figures, measure, page)

if __name__ == "__main__":
    QUESTION.main()
