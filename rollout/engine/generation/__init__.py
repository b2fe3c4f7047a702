"""Text with per-token early exit: requests in; answers, and all that explains them, out."""

from rollout.engine.generation.decoding import Decoding, generate, stream
from rollout.engine.generation.exits import TokenExits, TokenHead
from rollout.engine.generation.fitting import Forecast, fit_token_exits, probe_layers
from rollout.engine.generation.request import GenerationError, TextRequest
from rollout.engine.generation.result import Generated, TextAgreement
from rollout.engine.generation.shadow import shadow

__all__ = [
    "Decoding",
    "Forecast",
    "Generated",
    "GenerationError",
    "TextAgreement",
    "TextRequest",
    "TokenExits",
    "TokenHead",
    "fit_token_exits",
    "generate",
    "probe_layers",
    "shadow",
    "stream",
]
