"""Which device and precision a run uses."""

import platform
import subprocess
import sys
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

import kdrepro
from kdrepro import devices


@pytest.fixture(autouse=True)
def _fresh_state():
    """Accelerate keeps one state for the process, which a pretended device would poison."""
    yield
    AcceleratorState._reset_state(True)


def machine(monkeypatch, *, cuda: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "found"),
    [
        (False, False, ["cpu"]),
        (True, False, ["cpu", "cuda"]),
        (False, True, ["cpu", "mps"]),
    ],
)
def test_what_the_machine_has_is_listed(cuda, mps, found, monkeypatch):
    machine(monkeypatch, cuda=cuda, mps=mps)
    assert devices.available() == found


def test_the_cpu_can_be_asked_for():
    assert devices.place("cpu") == torch.device("cpu")
    with devices.accelerator("cpu") as run:
        assert run.device == torch.device("cpu")


def test_auto_takes_the_cpu_where_there_is_nothing_else(monkeypatch):
    machine(monkeypatch)
    assert devices.place("auto") == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device, monkeypatch):
    machine(monkeypatch)
    with pytest.raises(
        ValueError, match=f"device: got '{device}', expected one that this machine has: auto, cpu"
    ):
        devices.place(device)


def test_an_unknown_device_is_refused_with_the_right_names():
    with pytest.raises(
        ValueError, match="device: got 'cdua', expected one of auto, cpu, cuda, mps; did you mean 'cuda'"
    ):
        devices.place("cdua")


def test_a_second_device_in_one_process_gets_a_state_of_its_own(clean_state):
    PartialState(cpu=True).device = torch.device("meta")
    assert devices.place("cpu") == torch.device("cpu")
    with devices.accelerator("cpu") as run:
        assert run.device == torch.device("cpu")
    assert PartialState().device == torch.device("meta")


def test_precision_is_ours_and_not_accelerates():
    with devices.accelerator("cpu") as run:
        assert run.mixed_precision == "no"


@pytest.fixture
def clean_state():
    """No state of Accelerate before and after."""
    states = (GradientState, AcceleratorState, PartialState)
    for state in states:
        state._shared_state.clear()
    yield
    for state in states:
        state._shared_state.clear()


def test_an_accelerator_of_ones_own_is_left_as_it_was(clean_state):
    inputs, targets = torch.randn(8, 4), torch.zeros(8, dtype=torch.int64)
    net = nn.Linear(4, 3)

    def ours():
        kdrepro.predict(net, inputs, device="cpu")
        kdrepro.fit(
            net,
            kdrepro.Supervised(),
            kdrepro.Batches(inputs, targets, batch_size=4, seed=0),
            optimizer=partial(torch.optim.SGD, lr=0.1),
            epochs=1,
            device="cpu",
        )

    ours()
    own = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
    ours()
    assert own.mixed_precision == own.state.mixed_precision == AcceleratorState().mixed_precision == "bf16"
    assert own.gradient_accumulation_steps == 4


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bf16_where_the_processor_has_it(has, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has, raising=False)
    cpu = torch.device("cpu")
    assert devices.has_bf16(cpu) is has
    assert devices.precision_for("auto", cpu) == ("bf16" if has else "fp32")
    assert devices.precision_for("fp32", cpu) == "fp32"
    assert devices.precision_for("bf16", cpu) == "bf16"


def test_other_devices_keep_to_fp32():
    assert devices.precision_for("auto", torch.device("mps")) == "fp32"


def test_an_unknown_precision_is_refused_with_the_right_names():
    with pytest.raises(ValueError, match="precision: got 'fp16', expected one of auto, fp32, bf16"):
        devices.precision_for("fp16", torch.device("cpu"))


@pytest.mark.parametrize("precision", ["auto", "fp16", "BF16"])
def test_there_is_no_context_for_what_is_no_precision(precision):
    with pytest.raises(ValueError, match=f"precision: got '{precision}', expected one of fp32, bf16"):
        devices.autocast(precision, torch.device("cpu"))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_context_computes_nets_in_the_precision(precision, dtype):
    with devices.autocast(precision, torch.device("cpu")):
        assert nn.Linear(3, 2)(torch.zeros(1, 3)).dtype == dtype
    assert nn.Linear(3, 2)(torch.zeros(1, 3)).dtype == torch.float32


IMAGES = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3)))
NO_IMAGES = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("net", "device", "precision", "last"),
    [
        (IMAGES, "cpu", "fp32", True),
        (IMAGES, "cpu", "bf16", True),
        (IMAGES, "cuda", "bf16", True),
        (IMAGES, "cuda", "fp32", False),
        (NO_IMAGES, "cpu", "bf16", False),
        (NO_IMAGES, "cuda", "bf16", False),
    ],
)
def test_nets_of_images_run_with_channels_last_where_that_is_faster(net, device, precision, last):
    found = devices.prefers_channels_last(net, precision=precision, device=torch.device(device))
    assert found is last


def test_a_program_can_ask_for_float32_where_torch_would_round_to_tf32():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        devices.full_fp32()
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_a_device_in_words_says_kind_model_and_threads():
    words = devices.describe(torch.device("cpu"))
    assert words.startswith("cpu: ")
    assert words.endswith(f", {torch.get_num_threads()} threads")
    assert devices.describe(torch.device("mps")) == "mps"


def test_a_gpu_in_words_is_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T4")
    assert devices.describe(torch.device("cuda")) == "cuda: NVIDIA T4"


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
@pytest.mark.parametrize("keep", [False, True])
def test_memory_that_is_freed_stays_with_the_process_only_if_asked(keep):
    lines = (
        "import torch",
        "from kdrepro import devices",
        "held = lambda: int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20",
        f"kept = devices.keep_freed_memory() if {keep} else None",
        "block = torch.ones(2**25)",
        "before = held()",
        "del block",
        "print(kept, before - held())",
    )
    done = subprocess.run(
        [sys.executable, "-c", "import os\n" + "\n".join(lines)], capture_output=True, text=True, check=True
    )
    said, given_back = done.stdout.split()
    if keep and said == "False":
        pytest.skip("not GNU's allocator")
    assert float(given_back) < 1 if keep else float(given_back) > 100


@pytest.mark.parametrize("device", ["cuda:1", torch.device("cuda", 1)])
def test_one_of_several_gpus_can_be_asked_for(device, clean_state, monkeypatch):
    machine(monkeypatch, cuda=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.place(device) == torch.device("cuda", 1)
    assert devices.place("cuda") == torch.device("cuda")
    current = []

    class Current:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            current.append(self.device)

        def __exit__(self, *problem):
            current.append(None)

    monkeypatch.setattr(torch.cuda, "device", Current)
    with devices.accelerator(device) as run:
        assert run.device == torch.device("cuda", 1)
        assert current == [torch.device("cuda", 1)]
    assert current == [torch.device("cuda", 1), None]
    assert PartialState._shared_state == {}
    with devices.accelerator("cpu") as run:
        assert run.device == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:2", torch.device("cuda", 7)])
def test_a_gpu_that_is_not_there_is_refused_with_how_many_are(device, monkeypatch):
    machine(monkeypatch, cuda=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        ValueError,
        match=rf"device: got '{device}', expected one that this machine has: auto, cpu, cuda .of which it has 2",
    ):
        devices.place(device)


@pytest.mark.parametrize("device", ["cuda:x", "cuda:", "auto:1", "tpu", torch.device("meta"), 1, None])
def test_what_names_no_device_is_refused(device):
    with pytest.raises(ValueError, match=r"device: got .*, expected one of auto, cpu, cuda, mps"):
        devices.place(device)


def test_of_several_processes_none_takes_the_gpu_of_another(clean_state, monkeypatch):
    machine(monkeypatch, cuda=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    state = PartialState(cpu=True)
    state.device, state.num_processes = torch.device("cuda", 0), 2
    assert devices.place("cuda") == devices.place("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(ValueError, match="device: got 'cuda:1' in the process of cuda:0, expected 'cuda'"):
        devices.place("cuda:1")
    with (
        pytest.raises(ValueError, match="device: got 'cuda:1' in the process of cuda:0"),
        devices.accelerator("cuda:1"),
    ):
        pass


@pytest.mark.parametrize("device", [torch.device("cpu"), "cpu:0"])
def test_a_device_of_torchs_is_taken_everywhere(device):
    net, inputs = nn.Linear(4, 3), torch.randn(8, 4)
    data = kdrepro.Batches(inputs, torch.zeros(8, dtype=torch.int64), batch_size=4, seed=0)
    cached = kdrepro.cache_teacher(nn.Linear(4, 3), data, device=device, precision="fp32")
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1), "epochs": 1, "precision": "fp32"}
    history = kdrepro.fit(net, kdrepro.BornAgain(), data, teacher=cached, device=device, **options)
    assert history.epochs == 1
    assert torch.equal(
        kdrepro.predict(net, inputs, device=device), kdrepro.predict(net, inputs, device="cpu")
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graphs", [False, True])
def test_the_last_gpu_gives_the_numbers_of_the_first(graphs):
    inputs, found = torch.randn(64, 4), []
    data = kdrepro.Batches(inputs, torch.zeros(64, dtype=torch.int64), batch_size=4, seed=0)
    for device in ("cuda", torch.device("cuda", torch.cuda.device_count() - 1)):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        options = {"optimizer": partial(torch.optim.SGD, lr=0.1), "epochs": 3, "precision": "fp32"}
        history = kdrepro.fit(net, kdrepro.Supervised(), data, device=device, cuda_graphs=graphs, **options)
        found.append((history.curves, kdrepro.predict(net, inputs, device=device).tolist()))
    assert found[0] == found[1]
    assert next(net.parameters()).device == torch.device("cuda", torch.cuda.device_count() - 1)
