"""The config: defaults, overrides, and one clear error for each kind of mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lookalike.model.errors import CannotStart
from lookalike.server.config import ClusterConfig, EncoderConfig, dump_config, load_config

ROOT = Path(__file__).parents[4]


def load(tmp_path: Path, text: str, **environment: str) -> ClusterConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path, environment)


def test_documented_file_has_every_field_at_its_default() -> None:
    path = ROOT / "deploy" / "local.yaml"
    assert load_config(path, {}) == ClusterConfig()
    documented = yaml.safe_load(path.read_text())
    defaults = ClusterConfig().model_dump(mode="json")
    assert set(documented) == set(defaults)
    for section in ("shard", "coordinator", "encoder"):
        assert set(documented[section]) == set(defaults[section])


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == ClusterConfig()


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "partitions: 2\nencoder: null",
        LOOKALIKE__PARTITIONS="3",
        LOOKALIKE__SHARD__DATA="/srv/codes",
        LOOKALIKE__ENCODER__BITS="512",
        LOOKALIKE_SERVER="not ours",
    )
    assert config.partitions == 3
    assert config.shard.data == Path("/srv/codes")
    assert config.encoder is not None
    assert config.encoder.bits == 512


def test_a_config_without_an_encoder_section_has_the_default_encoder_and_null_has_none(tmp_path: Path) -> None:
    """As for every other section, and as deploy/local.yaml says."""
    assert load(tmp_path, "partitions: 2").encoder == EncoderConfig()
    assert load(tmp_path, "encoder: null").encoder is None
    assert load(tmp_path, "encoder: null").all_encoders == {}
    text = (ROOT / "deploy" / "local.yaml").read_text()
    assert "A config without this section has an encoder with these defaults." in text


def test_encoders_have_names_and_the_default_one_comes_first(tmp_path: Path) -> None:
    text = "encoders: {shoes: {address: 'e:1', bits: 64}}"
    config = load(tmp_path, text, LOOKALIKE__ENCODERS__SHOES__BITS="128", LOOKALIKE__ENCODERS__BAGS__ADDRESS="e:2")
    assert list(config.all_encoders) == ["default", "shoes", "bags"]
    assert config.all_encoders["shoes"].bits == 128
    assert config.encoders["bags"].metrics is None
    assert list(load(tmp_path, f"encoder: null\n{text}").all_encoders) == ["shoes"]
    assert load(tmp_path, dump_config(config)) == config


def test_dumped_config_loads_unchanged(tmp_path: Path) -> None:
    config = ClusterConfig(partitions=7, encoder=None)
    assert load(tmp_path, dump_config(config)) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partition: 3", "partition: is not a known key"),
        ("encoder: {bit: 3}", "encoder.bit: is not a known key"),
        ("partitions: 0", "partitions: Input should be greater than or equal to 1"),
        ("partitions: many", "partitions: .*integer"),
        ("replicas: 8", "replicas: Input should be less than or equal to 7"),
        ("write_quorum: some", "write_quorum: .*'one', 'majority' or 'all'"),
        ("encoder: {bits: 20}", "encoder.bits: 20 is not a multiple of 8"),
        ("encoder: {bits: 9000}", "encoder.bits: .*8192"),
        ("encoder: {min_replicas: 4, max_replicas: 2}", "encoder.min_replicas: 4 is above max_replicas"),
        ("coordinator: {listen: here}", "coordinator.listen: 'here' is not HOST:PORT"),
        ("coordinator: {processes: 65}", "coordinator.processes: .*less than or equal to 64"),
        ("coordinator: {processes: 2, web: 'h:7700'}", "coordinator.web: 'h:7700' is a port of .*listen too"),
        ("coordinator: {processes: 2, metrics: 'h:7779'}", "coordinator.metrics: 'h:7780' is a port of .*web too"),
        ("coordinator: {processes: 2, listen: 'h:0'}", "coordinator.listen: 2 processes cannot use 'h:0'"),
        ("coordinator: {processes: 2, metrics: 'h:0'}", "coordinator.metrics: 2 processes cannot use 'h:0'"),
        ("coordinator: {processes: 2, metrics: 'h:65535'}", "coordinator.metrics: 2 .* cannot use 'h:65535'"),
        ("shard: {address: '127.0.0.1:7710'}", "shard.address: .* gives two shards the same address"),
        ("shard: {address: 'host-{part}:7710'}", "shard.address: .* neither"),
        ("partitions: 200\nshard: {address: '127.0.0.1:655{partition}'}", "shard.address: .* is not HOST:PORT"),
        ("encoder: {purpose: copies}", "encoder.purpose: .*'duplicates' or 'category'"),
        ("encoders: {shoes: {bits: 64}}", "encoders.shoes.address: Field required"),
        ("encoders: {shoes: {address: 'e:1', bit: 3}}", "encoders.shoes.bit: is not a known key"),
        ("encoders: {shoes: {address: 'e:1', bits: 20}}", "encoders.shoes.bits: 20 is not a multiple of 8"),
        ("encoders: {shoes: {address: 'e:1', min_replicas: 2}}", "encoders.shoes.min_replicas: 2 is above"),
        ("encoders: {shoes: {address: '127.0.0.1:7720'}}", "encoders.shoes.address: .* is that of encoder too"),
        (
            "encoders: {a: {address: 'e:1'}, b: {address: 'e:1'}}",
            "encoders.b.address: .* is that of encoders.a too",
        ),
        ("encoders: {Shoes: {address: 'e:1'}}", "encoders: 'Shoes' is not an encoder's name"),
        ("encoders: {default: {address: 'e:1'}}", "encoders: 'default' is not an encoder's name"),
        ("[1, 2]", "holds a list"),
        ("a: [", "is not YAML"),
    ],
)
def test_error_names_the_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(CannotStart, match=words) as error:
        load(tmp_path, text)
    assert "\n" not in error.value.message


def test_error_in_an_override_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"shard\.speed: is not a known key"):
        load(tmp_path, "", LOOKALIKE__SHARD__SPEED="9")


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml", {})


def test_shard_binds_to_listen(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('shard: {address: "shard-r{replica}-{partition}:7710"}')
    assert load_config(path, {}).shard_listen(2, 1) == "shard-r1-2:7710"
    overridden = load_config(path, {"LOOKALIKE__SHARD__LISTEN": "0.0.0.0:7710"})
    assert overridden.shard_listen(2, 1) == "0.0.0.0:7710"
    assert overridden.shard_address(2, 1) == "shard-r1-2:7710"
