"""Recurrent modules in the many styles of public repositories: what an exporter of any of them must take or refuse."""

from tests.export.corpus import agents, audio, cells, forecasting, language, refused, scratch, sequence_only, tagging
from tests.export.corpus._style import Style

STYLES: tuple[Style, ...] = (
    *language.STYLES,
    *forecasting.STYLES,
    *agents.STYLES,
    *audio.STYLES,
    *tagging.STYLES,
    *cells.STYLES,
    *scratch.STYLES,
    *sequence_only.STYLES,
    *refused.STYLES,
)

__all__ = ["STYLES", "Style"]
