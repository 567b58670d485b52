"""The files of a gateway: written from a draft, and edited in place."""

from __future__ import annotations

import stat
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.models import Speed
from app.errors import UsageError
from app.settings import load_settings
from app.setup.commented import plain, write_commented
from app.setup.draft import Draft, DraftBackend, DraftModel, Fact
from app.setup.files import adopt, write_files
from tests.fakes.full_disk import files_of_at_most

GATEWAY = """\
# Ours.
listen: 127.0.0.1:8080
catalog: models.yaml            # beside this file
artifact: ../artifacts/old-v1   # guess: the one that came with the installation

profiles:
  default: {order: [small]}     # cheap enough
keys:
- id: us
  secret: sk-us
  concurrency: null
"""
CATALOG = """\
models:
- name: small                   # callers' word
  served_as: org/Small
  backend: here
  predicted_as: llama-2-7b      # guess: by its name
  # The rest was measured.
  card: {context_tokens: 4096, capabilities: [chat]}

- name: large
  backend: here
  card:
    context_tokens: 8192        # --max-model-len

# One machine.
backends:
- name: here
  kind: vllm
  urls: ["http://127.0.0.1:8000"]
"""


def written(folder: Path, gateway: str = GATEWAY, catalog: str = CATALOG) -> Path:
    (folder / "configs").mkdir()
    (folder / "configs/models.yaml").write_text(catalog)
    config = folder / "configs/gateway.yaml"
    config.write_text(gateway)
    return config


def test_adopting_an_artifact_changes_its_lines_and_no_others(tmp_path: Path) -> None:
    config = written(tmp_path)

    adopt(config, tmp_path / "var/mine-v1", {"small": "small", "large": "no"})

    assert config.read_text() == GATEWAY.replace(
        "artifact: ../artifacts/old-v1   # guess: the one that came with the installation", "artifact: ../var/mine-v1"
    )
    assert (config.parent / "models.yaml").read_text() == CATALOG.replace(
        "predicted_as: llama-2-7b      # guess: by its name", "predicted_as: small"
    ).replace("- name: large\n  backend: here\n", '- name: large\n  backend: here\n  predicted_as: "no"\n')
    settings = load_settings(config)
    assert settings.artifact == config.parent / "../var/mine-v1"
    assert [model.predicted_as for model in settings.catalog.models] == ["small", "no"]


def test_a_file_that_names_no_artifact_gets_one(tmp_path: Path) -> None:
    config = written(tmp_path, "catalog: models.yaml    # beside this file\n")
    adopt(config, Path("/elsewhere/mine-v1"), {})
    assert config.read_text() == "artifact: /elsewhere/mine-v1\ncatalog: models.yaml    # beside this file\n"


def test_the_projects_own_files_change_in_those_lines_only(tmp_path: Path) -> None:
    for name in ("demo.yaml", "demo-catalog.yaml"):
        (tmp_path / name).write_text(Path("configs", name).read_text())
    config = tmp_path / "demo.yaml"
    before = {name: (tmp_path / name).read_text().splitlines() for name in ("demo.yaml", "demo-catalog.yaml")}

    adopt(config, tmp_path / "mine-v1", {"smollm2-135m": "mine"})

    changed = {
        line for name, lines in before.items() for line in set(lines) ^ set((tmp_path / name).read_text().splitlines())
    }
    assert {line.split(":")[0].strip() for line in changed} == {"artifact", "predicted_as"}


def test_comments_that_are_no_guess_stay(tmp_path: Path) -> None:
    config = written(tmp_path, GATEWAY.replace("guess: the one", "the one"))
    adopt(config, tmp_path / "var/mine-v1", {})
    assert "# the one that came with the installation" in config.read_text()


def test_an_unknown_model_leaves_both_files_alone(tmp_path: Path) -> None:
    config = written(tmp_path)
    with pytest.raises(UsageError, match="has no model 'medium'; it has small, large"):
        adopt(config, tmp_path / "mine-v1", {"small": "small", "medium": "medium"})
    assert (config.read_text(), (config.parent / "models.yaml").read_text()) == (GATEWAY, CATALOG)


def test_files_that_do_not_load_together_are_left_alone(tmp_path: Path) -> None:
    config = written(tmp_path, gateway=GATEWAY.replace("order: [small]", "order: [gone]"))
    before = config.read_text()
    with pytest.raises(UsageError, match="gone"):
        adopt(config, tmp_path / "mine-v1", {"small": "small"})
    assert (config.read_text(), (tmp_path / "configs/models.yaml").read_text()) == (before, CATALOG)


def test_what_would_not_load_is_named_where_it_would_be_and_leaves_no_folder(tmp_path: Path) -> None:
    dear = draft()
    dear.models[0].price = fact({"self_hosted": {"usd_per_gpu_hour": float("inf"), "gpus": 1, "tokens_per_s": 9.0}})

    with pytest.raises(UsageError, match=rf"^{tmp_path}/new/catalog\.yaml: models\[0\]\.price"):
        write_files(tmp_path / "new", dear, None)

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_the_folder_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        files_of_at_most(10),
        pytest.raises(UsageError, match=rf"^{tmp_path}/new: File too large; name another folder"),
    ):
        write_files(tmp_path / "new", draft(), None)
    assert list((tmp_path / "new").iterdir()) == []

    config = written(tmp_path)
    with files_of_at_most(10), pytest.raises(UsageError, match=rf"^{config.parent}/models.yaml: File too large$"):
        adopt(config, tmp_path / "mine-v1", {"small": "small"})
    assert sorted(path.name for path in config.parent.iterdir()) == ["gateway.yaml", "models.yaml"]


def test_files_keep_their_modes_and_links_stay_links(tmp_path: Path) -> None:
    config = written(tmp_path)
    config.chmod(0o640)
    link = tmp_path / "configs/link.yaml"
    link.symlink_to(config)

    adopt(link, tmp_path / "mine-v1", {"small": "small"})

    assert link.is_symlink()
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert "artifact: ../mine-v1" in config.read_text()
    assert sorted(path.name for path in config.parent.iterdir()) == ["gateway.yaml", "link.yaml", "models.yaml"]


def fact(value: object, source: str = "", *, is_guess: bool = False) -> Fact:
    return Fact(value, source, is_guess=is_guess)


def draft() -> Draft:
    """A model of which all is known, and one of which nothing is."""
    released = date(2024, 9, 19)
    known = DraftModel(
        "no",
        "org/No",
        "here",
        card={
            "released": fact(released, "guess by its name, as no", is_guess=True),
            "parameters_b": fact(7.6, "card"),
            "context_tokens": fact(8192, "max_model_len"),
            "capabilities": fact(["chat", "tools"], "its card", is_guess=True),
        },
        predicted_as=fact("llama-2-7b", "by its name", is_guess=True),
        price=fact({"self_hosted": {"usd_per_gpu_hour": 2, "gpus": 1, "tokens_per_s": 100}}, "one GPU", is_guess=True),
        speed=fact({"prefill_tokens_per_s": 1000, "s_per_output_token": 0.01}, "measured"),
    )
    unknown = DraftModel(
        "1e3", "1e3", "paid", card={"released": fact(released)}, open=["price: not known", "regions: not\n\x00known"]
    )
    return Draft(
        [known, unknown],
        [
            DraftBackend("here", "vllm", ["http://10.0.0.11:8000"], allow_cidr=["10.0.0.11/32"]),
            DraftBackend("paid", "openai", ["https://api.example.com/v1"], "PAID_KEY", rename={"max_tokens": "other"}),
        ],
    )


def test_a_draft_becomes_two_files_that_the_gateway_accepts(tmp_path: Path) -> None:
    write_files(tmp_path / "configs", draft(), tmp_path / "artifacts/public-v1")

    settings = load_settings(tmp_path / "configs/gateway.yaml", {"PAID_KEY": "x"})
    known, unknown = settings.catalog.models
    assert (known.name, known.served_as, known.predicted_as) == ("no", "org/No", "llama-2-7b")
    assert known.card.values["parameters_b"] == 7.6
    assert known.speed == Speed(1000, 0.01)
    assert (unknown.name, unknown.price, unknown.card.context_tokens) == ("1e3", None, 4096)
    assert settings.catalog.backends[1].rename == {"max_tokens": "other"}
    assert settings.artifact
    assert settings.artifact.resolve() == tmp_path / "artifacts/public-v1"
    assert settings.profiles["default"].order == ("no", "1e3")
    assert settings.profiles["cheap"].order == ("no", "1e3")
    assert settings.predictor_limit_s == 0.02
    assert sorted(path.name for path in (tmp_path / "configs").iterdir()) == ["catalog.yaml", "gateway.yaml"]


def test_guesses_are_marked_and_questions_are_comments(tmp_path: Path) -> None:
    write_files(tmp_path, draft(), None, shares_machine=True)
    catalog, gateway = (tmp_path / "catalog.yaml").read_text(), (tmp_path / "gateway.yaml").read_text()
    marked = {line.split(":")[0].strip() for line in catalog.splitlines() if " # guess: " in line}
    assert marked == {"released", "capabilities", "predicted_as", "price", "context_tokens"}
    assert "released: 2024-09-19" in catalog
    assert "# guess: by its name, as no\n" in catalog
    assert "    # open: price: not known\n    # open: regions: not known\n    card:" in catalog
    assert "&" not in catalog
    assert "# guess: largest first where a size is known" in gateway
    assert "predictor_limit_s: 0.25  # a backend is on this machine" in gateway
    assert "No keys are set here, and nobody is let in without one" in gateway
    assert "artifact" not in gateway.split("\n\n", 1)[1]


def test_settings_that_were_taken_over_are_written(tmp_path: Path) -> None:
    taken = draft()
    taken.gateway = {
        "profiles": {"no": {"limits": {"models": ["no"]}, "order": ["no"]}},
        "upstream": {"max_attempts": 2},
        "keys": [{"id": "master", "secret_env": "MASTER", "models": ["*"], "concurrency": None}],
    }
    write_files(tmp_path, taken, None)
    settings = load_settings(tmp_path / "gateway.yaml", {"PAID_KEY": "x", "MASTER": "y"})
    assert settings.max_attempts == 2
    assert set(settings.profiles) == {"default", "cheap", "best", "no"}
    assert "No keys are set" not in (tmp_path / "gateway.yaml").read_text()


def test_the_largest_comes_first_and_what_is_sold_without_a_size_before_it(tmp_path: Path) -> None:
    sold = DraftModel("sold", "sold", "here", price=fact({"input_usd_per_m": 1, "output_usd_per_m": 5}))
    dear = DraftModel("dear", "dear", "here", price=fact({"input_usd_per_m": 1, "output_usd_per_m": 9}))
    both = draft()
    both.models += [sold, dear]
    write_files(tmp_path, both, None)
    settings = load_settings(tmp_path / "gateway.yaml", {"PAID_KEY": "x"})
    assert settings.profiles["best"].order == ("dear", "sold", "no", "1e3")


def test_cheap_loses_more_than_the_default_and_begins_with_the_smallest_of_ones_own(tmp_path: Path) -> None:
    """Public addresses come last, and before them what nobody knows the size of."""
    sizes = {"large": 70.0, "small": 3.0, "unknown": None}
    wish = draft()
    wish.models = [
        DraftModel(
            f"{where}-{name}",
            name,
            "here",
            card={
                **({} if size is None else {"parameters_b": fact(size)}),
                "security": fact("public_api" if where == "public" else "self_hosted"),
            },
        )
        for where in ("public", "own")
        for name, size in sizes.items()
    ]
    write_files(tmp_path, wish, None)
    gateway = (tmp_path / "gateway.yaml").read_text()
    profiles = load_settings(tmp_path / "gateway.yaml", {"PAID_KEY": "x"}).profiles
    ours = ("own-small", "own-large", "own-unknown")
    assert profiles["cheap"].order == (*ours, "public-small", "public-large", "public-unknown")
    assert "guess: smallest first where a size is known; public addresses last;" in gateway
    losses = [profiles[name].preferences.max_quality_loss for name in ("default", "cheap")]
    assert (losses, profiles["cheap"].preferences.weights) == ([0.01, 0.05], {})


def test_no_order_by_size_is_claimed_where_no_size_is_known(tmp_path: Path) -> None:
    nameless = draft()
    nameless.models = nameless.models[1:]
    write_files(tmp_path, nameless, None)
    gateway = (tmp_path / "gateway.yaml").read_text()
    assert "first" not in "".join(line for line in gateway.splitlines() if "order:" in line)
    assert gateway.count("guess: no size is known, so put them in order;") == 3


def test_files_that_are_there_are_replaced_only_when_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("ours")
    with pytest.raises(UsageError, match=r"gateway.yaml is there already; --force replaces"):
        write_files(tmp_path, draft(), None)
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.yaml"]
    write_files(tmp_path, draft(), None, force=True)
    assert load_settings(tmp_path / "gateway.yaml", {"PAID_KEY": "x"})


def test_files_that_would_not_load_do_not_appear(tmp_path: Path) -> None:
    wrong = draft()
    wrong.gateway = {"upstream": {"max_attempts": 99}}
    with pytest.raises(UsageError, match="max_attempts"):
        write_files(tmp_path, wrong, None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_can_adopt_an_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAID_KEY", "set")
    write_files(tmp_path, draft(), None)
    adopt(tmp_path / "gateway.yaml", tmp_path / "mine-v1", {"no": "mine", "1e3": "1e3"})
    settings = load_settings(tmp_path / "gateway.yaml", {"PAID_KEY": "x"})
    assert [model.predicted_as for model in settings.catalog.models] == ["mine", "1e3"]
    assert "predicted_as: mine\n" in (tmp_path / "catalog.yaml").read_text()


@given(st.text())
@example("no")
@example("2024-13-45")
@example("1e3")
@example("12:30:45")
@example("a: b # c")
@example("=")
def test_every_text_reads_back_the_same(text: str) -> None:
    content = {"value": plain(text), "list": plain([text]), **plain({text: 1})}
    assert yaml.safe_load(write_commented(content)) == {"value": text, "list": [text], text: 1}
