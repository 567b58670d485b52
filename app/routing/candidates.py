"""The catalogue as columns, made once: what is known of every model before a request comes.

Legend of array suffixes: M models of the catalogue, in its order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from app.domain.decision import Fleet
from app.domain.dimensions import Dimension, Floats, Labels, Scale, Truths
from app.domain.models import TOKENS_PER_PRICE, Backend, Catalog, Speed, TokenPrice
from app.domain.vocabulary import VOCABULARY, Vocabulary

_FLOAT64 = np.dtype(np.float64)
UNTESTED = -1
"""Column of a model that the artifact does not predict."""


class CandidateTable:
    """All models of a catalogue. Nothing in it changes, so requests share it."""

    def __init__(
        self,
        catalog: Catalog,
        predicted: Sequence[str] = (),
        scales: Mapping[str, Scale] | None = None,
        vocabulary: Vocabulary = VOCABULARY,
    ) -> None:
        """`predicted` are the predictor's models in its order; `scales` replace those of dimensions, by name."""
        self.models = catalog.models
        self.vocabulary = vocabulary
        self.scales = {each.name: (scales or {}).get(each.name, each.scale) for each in vocabulary.dimensions}
        self.position = {model.name: number for number, model in enumerate(self.models)}
        self.names = Labels([model.name for model in self.models])
        spared = {each.name: _spared(each) for each in catalog.backends}
        self.spared = Labels([spared.get(model.backend, frozenset()) for model in self.models])
        self.spared_by_any = frozenset[str]().union(*spared.values())
        self.licenses = Labels([model.card.license for model in self.models])
        self.regions = Labels([model.card.regions for model in self.models])
        self.capabilities = Labels([model.card.capabilities for model in self.models])
        models, no_price, no_speed = self.models, TokenPrice(math.nan, math.nan), Speed(math.nan, math.nan)
        prices, speeds = [each.price or no_price for each in models], [each.speed or no_speed for each in models]
        self.cards: dict[str, Floats] = {
            name: _column(each.card.values.get(name, math.nan) for each in models) for name in vocabulary.card_fields
        }
        self.context_tokens_M = _column(each.card.context_tokens for each in models)
        self.shortest_context_tokens = float(self.context_tokens_M.min(initial=math.inf))
        self.input_usd_M = _column(each.input_usd_per_m for each in prices) / TOKENS_PER_PRICE
        self.output_usd_M = _column(each.output_usd_per_m for each in prices) / TOKENS_PER_PRICE
        free_M = self.output_usd_M == 0.0
        self.free_answers_M: Truths | None = free_M if free_M.any() else None
        """Models whose answers cost nothing, however long; None where there is none."""
        cached = [each.input_usd_per_m if (less := each.cached_input_usd_per_m) is None else less for each in prices]
        self.cached_saves_usd_M = self.input_usd_M - _column(cached) / TOKENS_PER_PRICE
        self.s_per_input_token_M: Floats = _column(1 / each.prefill_tokens_per_s for each in speeds)
        self.s_per_output_token_M = _column(each.s_per_output_token for each in speeds)
        column = {name: number for number, name in enumerate(predicted)}
        columns = [column.get(model.predicted_as or "", UNTESTED) for model in self.models]
        self.column_M = np.array(columns, dtype=np.intp)
        self.tested_M: Truths = self.column_M != UNTESTED
        self.all_tested = bool(self.tested_M.all())
        self._is_in_order = columns == list(range(len(predicted)))
        self._card_shares: dict[str, Floats] = {}

    def __len__(self) -> int:
        return len(self.models)

    def card_share(self, dimension: Dimension, value: Callable[[], Floats]) -> Floats:
        """The share of a dimension that is the same for every request, computed once."""
        share_M = self._card_shares.get(dimension.name)
        if share_M is None:
            share_M = self._card_shares[dimension.name] = self.scales[dimension.name].share(value())
        return share_M

    def spread(self, predicted: npt.NDArray[np.floating]) -> Floats:
        """Numbers per column of the artifact as numbers per model [M, ...]; NaN for untested ones."""
        if self._is_in_order:
            return predicted.astype(_FLOAT64)
        if not self.all_tested:
            # The extra row at the end is what UNTESTED points to.
            predicted = np.concatenate((predicted, np.full((1, *predicted.shape[1:]), math.nan)))
        return predicted.take(self.column_M, axis=0).astype(np.float64, copy=False)


class FleetColumns:
    """What the replicas look like now, as columns [M]."""

    def __init__(self, table: CandidateTable, fleet: Fleet) -> None:
        self.available_M: Truths = np.array(fleet.available, dtype=np.bool_)
        self.all_available = bool(self.available_M.all())
        self.limited_for_s = fleet.limited_for_s
        self.last_resort_M: Truths | None = np.array(fleet.last_resort, dtype=np.bool_) if fleet.last_resort else None
        self.wait_s_M: Floats = np.array(fleet.wait_s, dtype=np.float64)
        self.s_per_input_token_M = table.s_per_input_token_M
        if fleet.ttft_s:
            # How much of it was reading is not known, so all of it counts whatever there is to read.
            ttft_s_M = np.array(fleet.ttft_s, dtype=np.float64)
            is_seen_M = np.isnan(self.s_per_input_token_M) & ~np.isnan(ttft_s_M)
            self.wait_s_M = np.where(is_seen_M, ttft_s_M, self.wait_s_M)
            self.s_per_input_token_M = np.where(is_seen_M, 0.0, self.s_per_input_token_M)
        # A template is read with every prompt, so its price is the same for all.
        self.template_usd_M: Floats = table.input_usd_M * np.array(fleet.template_tokens or 0.0)
        seen_M = np.array(fleet.s_per_output_token, dtype=np.float64)  # None becomes NaN
        self.s_per_output_token_M: Floats = np.where(np.isnan(seen_M), table.s_per_output_token_M, seen_M)

    @property
    def nbytes(self) -> int:
        """What it keeps alive, about: as many numbers as there are models, four times over."""
        return 4 * self.wait_s_M.nbytes + self.available_M.nbytes


def _spared(backend: Backend) -> frozenset[str]:
    """Parameters that it refuses, and so is not sent."""
    return frozenset(name for name, theirs in backend.rename.items() if theirs is None)


def _column(values: Iterable[float]) -> Floats:
    return np.array(list(values), dtype=np.float64)
