"""What a key can see: the models and profiles that its callers may use, and nothing that tells of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from app.api.names import Names
from app.domain.decision import Fleet
from app.domain.models import Catalog, Model
from app.domain.preferences import DEFAULT_PROFILE, Profile, merged
from app.domain.request import Preferences
from app.errors import UnknownModel, shown
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Case, Question
from app.routing.filters import CardFilter
from app.store.keys.key import Key

AUTO = "auto"


class Access:
    """The catalogue and the profiles, seen through a key."""

    def __init__(self, catalog: Catalog, profiles: Mapping[str, Profile]) -> None:
        self._catalog, self._models, self._profiles = catalog, catalog.models, profiles
        self.names = Names(catalog.models)
        self._allowed: dict[tuple[str, ...], frozenset[str]] = {}
        """By the patterns of a key; there are as many as keys in the configuration."""
        self._allowed_profiles: dict[tuple[str, ...], tuple[str, ...]] = {}

    def allowed(self, key: Key) -> frozenset[str]:
        """Names of the models that this key may use."""
        allowed = self._allowed.get(key.models)
        if allowed is None:
            allowed = frozenset(model.name for model in self._models if key.may_use(model.name))
            self._allowed[key.models] = allowed
        return allowed

    def models(self, key: Key) -> tuple[Model, ...]:
        """The models that this key may use, in the catalogue's order."""
        allowed = self.allowed(key)
        return tuple(model for model in self._models if model.name in allowed)

    def profiles(self, key: Key) -> tuple[str, ...]:
        """Names of the profiles that this key's callers may ask for."""
        allowed = self._allowed_profiles.get(key.profiles)
        if allowed is None:
            allowed = tuple(profile for profile in self._profiles if key.may_ask_for(profile))
            self._allowed_profiles[key.profiles] = allowed
        return allowed

    def shut_out(self, keys: Iterable[Key]) -> list[str]:
        """Which of these keys name models or profiles, and none of those is here."""
        return [
            key.id
            for key in keys
            if (key.models and not self.allowed(key)) or (key.profiles and not self.profiles(key))
        ]

    def preferences(self, profile: str) -> Preferences:
        """What a profile asks for."""
        return self._profiles[profile].preferences

    def choosable(self, profile: str, key: Key) -> tuple[Model, ...]:
        """The models that a profile may choose for this key's callers, as far as limits on their cards go."""
        return self._passing(key, merged(self.preferences(profile), key.routing))

    def nameable(self, key: Key) -> tuple[Model, ...]:
        """The models that answer this key's callers who name them, as far as limits of the key on their cards go."""
        return self._passing(key, key.routing)

    def _passing(self, key: Key, preferences: Preferences) -> tuple[Model, ...]:
        question = Question(
            model=None,
            profile=DEFAULT_PROFILE,
            input_tokens=0,
            max_tokens=0,
            needs=frozenset(),
            uses=frozenset(),
            preferences=preferences,
            allowed_models=self.allowed(key),
        )
        passing = self._card_filter.passing(Case(self._table, question, self._idle))
        return tuple(model for model, passes in zip(self._models, passing.models_M.tolist(), strict=True) if passes)

    @cached_property
    def _table(self) -> CandidateTable:
        return CandidateTable(self._catalog)

    @cached_property
    def _idle(self) -> FleetColumns:
        """Cards are looked at here, so how busy anybody is does not matter."""
        return FleetColumns(self._table, Fleet.idle(len(self._table)))

    @cached_property
    def _card_filter(self) -> CardFilter:
        return CardFilter(self._table)

    def resolve(self, name: str, key: Key) -> tuple[str | None, str]:
        """The concrete model (None lets the router choose) and the profile that a `model` field stands for.

        Raises:
            UnknownModel: there is no such model, or not for this key: the answer is the same.
        """
        virtual, _, profile = name.partition(":")
        if virtual == AUTO:
            profile = profile or DEFAULT_PROFILE
            if profile in self.profiles(key):
                return None, profile
        elif name in self.allowed(key):
            return name, DEFAULT_PROFILE
        raise unknown_model(name)


def unknown_model(name: str) -> UnknownModel:
    return UnknownModel(
        f"the model {shown(name)!r} does not exist for this key; GET /v1/models lists those that do", param="model"
    )


def listed_name(name: str) -> str:
    """The name in the list of models for one that a `model` field may have: the default profile has three."""
    virtual, _, profile = name.partition(":")
    return virtual_name(profile or DEFAULT_PROFILE) if virtual == AUTO else name


def virtual_name(profile: str) -> str:
    return AUTO if profile == DEFAULT_PROFILE else f"{AUTO}:{profile}"
