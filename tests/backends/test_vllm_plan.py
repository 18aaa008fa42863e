"""What `tts-run --explain` says of deployments on GPUs that are not here: folders with sizes and no weights."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tts_engine.backends.cores import lower, small_blocks, threads
from tts_engine.backends.factory import make_backend
from tts_engine.backends.placement import GIB, Device
from tts_engine.backends.vllm_engine import ENGINES, remember_texts
from tts_engine.cli.run import main
from tts_engine.errors import ConfigError

SIZES = {"layers": 28, "width": 3584, "mlp": 18944, "vocabulary": 152064, "kv_heads": 4, "heads": 28}
CONFIGS = Path(__file__).parents[2] / "configs"
Explain = Callable[..., tuple[int, str, str]]


def model(folder: Path, parameters: int = 7_615_616_512) -> Path:
    """A folder with the sizes of Qwen2.5-7B whose file of weights is only a header."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "num_hidden_layers": SIZES["layers"],
        "hidden_size": SIZES["width"],
        "intermediate_size": SIZES["mlp"],
        "vocab_size": SIZES["vocabulary"],
        "num_attention_heads": SIZES["heads"],
        "num_key_value_heads": SIZES["kv_heads"],
        "max_position_embeddings": 32768,
    }
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def adapter(folder: Path, base: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 16, "base_model_name_or_path": str(base)}))
    return folder


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Explain:
    """Calls `tts-run --explain DEVICE` with one of the shipped configurations and other models."""

    def call(config: str, device: str, policy: Path, verifier: Path, *more: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        data = yaml.safe_load((CONFIGS / config).read_text())
        data["policy"]["model"], data["verifier"]["model"] = str(policy), str(verifier)
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(data))
        code = main(["1+1", "--config", "c.yaml", "--explain", device, *more])
        found = capsys.readouterr()
        assert not (tmp_path / "runs").exists()
        return code, found.out, found.err

    return call


def shares(text: str) -> list[int]:
    return [int(share) for share in re.findall(r"(\d+) % of", text)]


def test_two_engines(explain: Explain, tmp_path: Path) -> None:
    code, out, _ = explain("vllm-two-engines.yaml", "H100", model(tmp_path / "policy"), model(tmp_path / "verifier"))
    assert code == 0
    assert "2 models in 2 vLLM engines" in out
    assert out.count("14.19 GiB of weights") == 2
    assert out.count("56.0 KiB each") == 2
    policy, verifier = shares(out)
    assert 85 <= policy + verifier <= 92
    assert verifier > policy  # four times the context
    assert len(re.findall(r"about [\d,]+ tokens/s", out)) == 2
    assert "tokens/s = 0.6 B" in out


def test_a_lora_adapter_shares_the_engine(explain: Explain, tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    code, out, _ = explain("vllm-lora.yaml", "A100", base, adapter(tmp_path / "judge", base))
    assert code == 0
    assert "2 models in 1 vLLM engines" in out
    assert "base + judge: 14.19 GiB of weights" in out
    assert shares(out) == [92]


def test_taking_turns(explain: Explain, tmp_path: Path) -> None:
    big = [model(tmp_path / name, 32_000_000_000) for name in ("policy", "verifier")]
    code, out, _ = explain("vllm-sleep.yaml", "H100", *big)
    assert code == 0
    assert out.count("taking turns") == 2
    assert shares(out) == [92, 92]
    code, _, err = explain("vllm-two-engines.yaml", "H100", *big)
    assert code == 2
    assert re.search(r"need [\d.]+ GiB more than the 80.0 GiB .*options.sleep", err)


def test_one_model_in_both_roles(explain: Explain, tmp_path: Path) -> None:
    both = model(tmp_path / "both")
    code, out, _ = explain("vllm-one-model.yaml", "GPU:24", both, both)
    assert code == 0
    assert "1 models in 1 vLLM engines" in out
    assert "tokens/s" not in out  # nobody knows the speed of such a device


def test_tensor_parallel(explain: Explain, tmp_path: Path) -> None:
    large, small = model(tmp_path / "large", 72_000_000_000), model(tmp_path / "small")
    code, out, _ = explain("vllm-parallel.yaml", "H100", large, small)
    assert code == 0
    assert "large on devices 0,1,2,3: 33.53 GiB of weights on each of 4 devices, 92 %" in out
    assert "14.0 KiB each" in out
    assert "small on devices 4: 14.19 GiB of weights, 92 %" in out


@pytest.mark.parametrize(
    ("device", "more", "said"),
    [
        ("H1000", (), "use one of L4"),
        ("GPU:4", (), "GiB more than the 4.0 GiB"),
        ("H100", ("--set", "policy.options.slots=0"), "slots must be at least 1"),
        ("H100", ("--set", "policy.options.nonsense=1"), "nonsense"),
        ("H100", ("--policy", "nowhere"), "no model folder 'nowhere'"),
    ],
)
def test_nonsense(explain: Explain, tmp_path: Path, device: str, more: tuple[str, ...], said: str) -> None:
    both = model(tmp_path / "both")
    code, _, err = explain("vllm-two-engines.yaml", device, both, both, *more)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_several_engines_on_a_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)))
    small, large = 1_000_000, 500_000_000
    assert threads([small]) == threads([large]) == {"OMP_NUM_THREADS": "9"}
    assert threads([small, large]) == {"OMP_NUM_THREADS": "9", "OMP_WAIT_POLICY": "passive"}
    assert threads([small, small]) == {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "passive"}
    assert threads([small] * 10) == {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads([small, small]) == {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize(
    ("machine", "tiles", "parameters", "small"),
    [
        ("x86_64", False, 500_000_000, True),
        ("x86_64", True, 500_000_000, False),
        ("x86_64", True, 1_000_000, True),
        ("aarch64", False, 1_000_000, False),
    ],
)
def test_blocks_are_small_unless_attention_needs_tiles(
    monkeypatch: pytest.MonkeyPatch, machine: str, tiles: bool, parameters: int, small: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": machine, "amx_tile": tiles})
    assert small_blocks(parameters) is small


@pytest.mark.parametrize(("ability", "weights"), [("avx512_bf16", "14.19 GiB"), ("avx2", "28.37 GiB")])
def test_a_cpu_without_bfloat16_gets_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ability: str, weights: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", ability: True})
    backend = make_backend("vllm", str(model(tmp_path / "m")), {})
    device = Device(memory=512 * GIB)
    assert f"{weights} of weights" in ENGINES.plan(device, cpu=True)[0]
    assert "14.19 GiB of weights" in ENGINES.plan(device)[0]
    assert backend.info.context == 32768  # an engine is planned as long as its backend is there


class Tokens:
    """Says how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def decode(self, tokens: list[int], sep: str = "") -> str:
        self.asked += 1
        return sep.join(map(str, tokens))


def test_the_text_of_a_token_is_decoded_once() -> None:
    tokens = Tokens()
    remember_texts(tokens)
    assert [tokens.decode([7]) for _ in range(3)] == ["7", "7", "7"]
    assert tokens.asked == 1
    assert (tokens.decode([7, 8]), tokens.decode([7, 8], "-"), tokens.decode([9])) == ("78", "7-8", "9")
    assert tokens.asked == 4


def test_a_process_stands_behind_others() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        before = os.getpriority(os.PRIO_PROCESS, process.pid)
        lower(process.pid, 2)
        lower(process.pid, 3)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(before + 5, 19)
        process.communicate(b"\n")


def test_nice_has_bounds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use 0"):
        make_backend("vllm", str(model(tmp_path / "m")), {"nice": 20})
