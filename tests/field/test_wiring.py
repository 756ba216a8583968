"""From the roles' options to what server and client of the lab are made of."""

from pathlib import Path

import pytest
from hydra.utils import instantiate

from apps.field.run import Link, overrides_of
from apps.lab.clients.roles import Honest, Malicious
from apps.lab.clients.spotcheck_lies import LiesInZ1
from apps.lab.config import load
from apps.lab.slice import main as cut
from flwr_faa.verification.spotcheck.verifier import SpotCheck
from tests.authority.parties import run

LAB = "clients=3 dataset=digits partition=iid model=logistic"


def test_the_run_names_the_authority_even_in_odd_folders(tmp_path: Path) -> None:
    odd = tmp_path / "a folder, {with} $things='in' it"
    odd.mkdir()
    assert run("init", odd / "authority").exit_code == 0
    told = overrides_of(odd / "run", "https://127.0.0.1:1", odd / "authority" / "server.json", LAB)
    scenario = load(told)
    verifier = instantiate(scenario.config.verification, _convert_="all")
    assert isinstance(verifier, SpotCheck)
    assert (verifier.max_value, verifier.sample_shape, verifier.authority.url) == (16, (1, 8, 8), "https://127.0.0.1:1")
    assert scenario.folder == odd / "run"


def test_a_node_is_what_its_own_config_says(tmp_path: Path) -> None:
    cut(tmp_path, LAB.split(), samples=60)
    scenario = load(f"{LAB} attack=sign_flip attack.share=0.3")  # which no device is impressed by
    (chosen,) = scenario.malicious
    config = {
        "data": str(tmp_path / f"{chosen}.npz"),
        "device": str(tmp_path / "d"),
        "authority": "0f" * 32,
        "budget": 0.25,
    }
    honest = scenario.node(config)
    assert isinstance(honest, Honest)
    assert (honest.partition, len(honest.data[1])) == (chosen, 60)
    assert honest.device.authority == b"\x0f" * 32 and honest.device.budget == 0.25
    assert not honest.plaintext  # real data: never shown in the clear
    assert isinstance(scenario.node(config | {"attack": "sign_flip"}), Malicious)
    liar = scenario.node(config | {"attack": "spot_lie_z1"})
    assert isinstance(liar, LiesInZ1) and liar.honest.device == honest.device
    assert isinstance(scenario.node({"partition-id": chosen}), Malicious)
    with pytest.raises(ValueError, match="expected a slice"):
        scenario.node(config | {"data": str(tmp_path / "9.npz")})


def test_flowers_settings_name_the_superlink(tmp_path: Path) -> None:
    Link(tmp_path / "flwr", "superlink.example.org:9092", Path("ca.crt")).configure()
    text = (tmp_path / "flwr" / "config.toml").read_text()
    assert 'address = "superlink.example.org:9092"' in text
    assert f'root-certificates = "{Path("ca.crt").absolute()}"' in text
