"""The catalogue as a file: models with their cards, prices and speeds, and the backends that serve them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from app.domain.dimensions import CardField
from app.domain.models import MOST_TOKENS_PER_IMAGE, Backend, Card, Catalog, Model, Speed, TokenPrice
from app.domain.vocabulary import VOCABULARY
from app.forms.yaml_files import load_form, refuse

Capability = Literal["chat", "completion", "responses", "embeddings", "tools", "vision", "json_schema", "logprobs"]


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


_NumberOnly = BeforeValidator(_no_truth)
Usd = Annotated[float, _NumberOnly, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, _NumberOnly, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, _NumberOnly, Field(gt=0)]

# What the gateway itself sets, and what a request is about.
_NOT_RENAMED = frozenset({"model", "stream", "messages", "prompt", "input"})
_BOUNDS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
# Without such a field an answer is of another kind than the one asked for.
_CAPABILITY_OF = {
    "tools": "tools",
    "response_format": "json_schema",
    "text": "json_schema",
    "structured_outputs": "json_schema",
    "logprobs": "logprobs",
    "prompt_logprobs": "logprobs",
    "include": "logprobs",
}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class Form(BaseModel):
    """A part of a file: closed, and not changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _CardForm(Form):
    context_tokens: Count
    tokens_per_image: Count = MOST_TOKENS_PER_IMAGE
    capabilities: frozenset[Capability] = frozenset({"chat"})
    license: str | None = None
    regions: frozenset[str] = frozenset()
    skill: str | None = None
    """For people only."""
    sources: dict[str, str] = Field(default_factory=dict)

    def values(self) -> dict[str, float]:
        stated = {name: getattr(self, name) for name in VOCABULARY.card_fields}
        return {name: value for name, value in stated.items() if value is not None}


def _parsed_by(field: CardField) -> Callable[[object], float | None]:
    def parse(value: object) -> float | None:
        try:
            return None if value is None else field.parse(value)
        except (ValueError, TypeError) as exc:
            raise ValueError(f"expected {field.expected}") from exc

    return parse


# One key for each field that the table of dimensions and constraints reads from a card.
CardForm: type[_CardForm] = create_model(
    "CardForm",
    __base__=_CardForm,
    **{  # type: ignore[call-overload]  # the names come from the table
        field.name: (Annotated[float | None, BeforeValidator(_parsed_by(field))], None)
        for field in VOCABULARY.card_fields.values()
    },
)


class _SelfHostedForm(Form):
    usd_per_gpu_hour: Usd
    gpus: Count
    tokens_per_s: Positive


class _PriceForm(Form):
    self_hosted: _SelfHostedForm | None = None
    input_usd_per_m: Usd | None = None
    output_usd_per_m: Usd | None = None
    cached_input_usd_per_m: Usd | None = None

    @model_validator(mode="after")
    def _one_form(self) -> _PriceForm:
        stated = (self.input_usd_per_m, self.output_usd_per_m, self.cached_input_usd_per_m)
        whole = stated[0] is not None and stated[1] is not None
        if (self.self_hosted is None) != whole or (self.self_hosted and stated != (None, None, None)):
            raise ValueError("expected either self_hosted, or input_usd_per_m and output_usd_per_m")
        return self

    def price(self) -> TokenPrice:
        if self.self_hosted:
            hosted = self.self_hosted
            return TokenPrice.self_hosted(hosted.usd_per_gpu_hour, hosted.gpus, hosted.tokens_per_s)
        return TokenPrice(self.input_usd_per_m or 0.0, self.output_usd_per_m or 0.0, self.cached_input_usd_per_m)


class _SpeedForm(Form):
    prefill_tokens_per_s: Positive
    s_per_output_token: Positive


class _ModelForm(Form):
    name: str
    served_as: str | None = None
    """The backend's name for it; the same name where absent."""
    backend: str
    predicted_as: str | None = None
    card: CardForm
    price: _PriceForm | None = None
    speed: _SpeedForm | None = None


class _BackendForm(Form):
    name: str
    kind: Literal["vllm", "openai"]
    urls: tuple[str, ...] = Field(min_length=1)
    key_env: str | None = None
    ca_file: str | None = None
    allow_cidr: tuple[str, ...] = ()
    rename: dict[str, str | None] = Field(default_factory=dict)
    """Null leaves a field out."""
    max_connections: Count = 256


class CatalogForm(Form):
    """The file as a whole."""

    models: tuple[_ModelForm, ...] = Field(min_length=1)
    backends: tuple[_BackendForm, ...] = Field(min_length=1)


def load_catalog(path: Path, content: bytes | None = None, option: str = "--catalog") -> Catalog:
    """Read and check a catalogue, or the content that was read from it; `option` is what names it.

    Raises:
        UsageError: with one line for each thing that is wrong.
    """
    form = load_form(path, CatalogForm, content, option)
    refuse(path, list(_problems(form)))
    backends = {backend.name: backend for backend in form.backends}
    return Catalog(
        tuple(_model(one, backends[one.backend]) for one in form.models),
        tuple(_backend(one, path.parent) for one in form.backends),
    )


def _problems(form: CatalogForm) -> Iterator[str]:
    backends = {backend.name for backend in form.backends}
    for index, model in enumerate(form.models):
        if not NAME.fullmatch(model.name) or model.name == "auto":
            yield f"models[{index}].name: expected letters, digits and ._/- and not `auto`, got {model.name!r}"
        if model.backend not in backends:
            yield f"models[{index}].backend: there is no backend {model.backend!r}; there are {', '.join(backends)}"
    yield from _rename_problems(form)
    yield from _twice("models", [model.name for model in form.models])
    yield from _twice("backends", [backend.name for backend in form.backends])


def _rename_problems(form: CatalogForm) -> Iterator[str]:
    for index, backend in enumerate(form.backends):
        for name, theirs in backend.rename.items():
            key = f"backends[{index}].rename.{name}"
            if name in _NOT_RENAMED:
                yield f"{key}: this field has the same name everywhere; leave it out"
            elif theirs is None and name in _BOUNDS:
                yield f"{key}: expected the backend's own name of it; without it answers have no bound"
            elif theirs == "":
                yield f"{key}: expected the backend's own name of it, or null to leave it out"


def _twice(what: str, names: list[str]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if times > 1:
            yield f"{what}: the name {name!r} occurs {times} times; give each its own"


def _model(form: _ModelForm, backend: _BackendForm) -> Model:
    card: _CardForm = form.card
    refused = {_CAPABILITY_OF.get(name) for name, theirs in backend.rename.items() if theirs is None}
    capabilities = frozenset[str](card.capabilities) - refused
    # A vLLM worker that chats also continues plain text.
    implied = {"completion"} if backend.kind == "vllm" and "chat" in capabilities else set[str]()
    return Model(
        name=form.name,
        served_as=form.served_as or form.name,
        backend=form.backend,
        card=Card(
            context_tokens=card.context_tokens,
            tokens_per_image=card.tokens_per_image,
            capabilities=capabilities | implied,
            license=card.license,
            regions=card.regions,
            values=card.values(),
            sources=card.sources,
        ),
        price=form.price.price() if form.price else None,
        speed=Speed(form.speed.prefill_tokens_per_s, form.speed.s_per_output_token) if form.speed else None,
        predicted_as=form.predicted_as,
    )


def _backend(form: _BackendForm, folder: Path) -> Backend:
    fields: Mapping[str, Any] = form.model_dump(exclude={"ca_file"})
    return Backend(**fields, ca_file=str(folder / form.ca_file) if form.ca_file else None)
