"""The golden trace on every provider of this machine: what `auto` chooses by, and what `rnnx providers` shows."""

import math
from dataclasses import dataclass

from rnnx_runtime._artifact import open_artifact
from rnnx_runtime._errors import RnnxError
from rnnx_runtime._files import Source
from rnnx_runtime._golden import golden_difference, golden_seconds, tolerance_of
from rnnx_runtime._graph import Graph
from rnnx_runtime._providers import PROVIDERS, find_provider
from rnnx_runtime._session import Options, Session


@dataclass(frozen=True)
class ProviderReport:
    """What this machine has of one execution provider.

    Attributes:
        name: short, as `load` takes it.
        here: whether this machine has it.
        because: why not; where it is here, what its trial came to.
        microseconds: the median time of the artifact's golden trace; None where it was not run, or not rightly.
        difference: the largest difference from the trace, relative above 1; None where it was not run.
    """

    name: str
    here: bool
    because: str
    microseconds: float | None = None
    difference: float | None = None


@dataclass(frozen=True)
class Trial:
    """A provider's report, and where it ran the trace rightly, the session that did."""

    report: ProviderReport
    options: Options | None = None
    session: Session | None = None


def try_providers(data: bytes, graph: Graph, threads: int, *, half: bool) -> list[Trial]:
    """A trial of every provider that this package knows, with the CPU for nodes that it does not take.

    Args:
        half: whether the graph has float16 in it.
    """
    return [_try(name, data, graph, threads, half=half) for name in PROVIDERS]


def _try(name: str, data: bytes, graph: Graph, threads: int, *, half: bool) -> Trial:
    found = find_provider(name)
    if not found.here:
        return Trial(ProviderReport(name, False, found.because))
    options = Options({name: {}, "cpu": {}}, strict=True, threads=threads, half=half)
    try:
        session = Session(data, options)
        difference = golden_difference(graph, session)
        if difference > tolerance_of(graph.manifest, reduced=False):
            return Trial(ProviderReport(name, True, f"wrong: off by {difference:.1e}", None, difference))
        seconds = golden_seconds(graph, session)
    except RnnxError as error:
        return Trial(ProviderReport(name, True, f"fails: {error}"))
    if name not in session.placement.granted:
        return Trial(ProviderReport(name, True, "takes no node of this artifact", None, difference))
    if math.isnan(seconds):
        return Trial(ProviderReport(name, True, "the artifact's golden trace holds no step"), options, session)
    taken = sum(node.provider == name for node in session.placement.nodes)
    because = f"{taken} of {len(session.placement.nodes)} nodes"
    return Trial(ProviderReport(name, True, because, seconds * 1e6, difference), options, session)


def list_providers(artifact: Source | None = None, *, trust: bool = False) -> list[ProviderReport]:
    """What this machine has of every known execution provider.

    Args:
        artifact: run its golden trace on each that is here.
        trust: as `load`.

    Raises:
        ArtifactError: it is not a whole, valid artifact, or it must be trusted.
    """
    if artifact is None:
        found = [find_provider(name) for name in PROVIDERS]
        return [ProviderReport(one.provider.name, one.here, one.because) for one in found]
    opened = open_artifact(artifact, trust=trust)
    return [trial.report for trial in try_providers(opened.data, Graph(opened.manifest, opened.digest), 1, half=opened.half)]
