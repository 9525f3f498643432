"""The public names: what is promised is there, documented, and costs nothing until it is used."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import kdrepro

NAMES = [name for name in kdrepro.__all__ if name != "__version__"]
WITHOUT_TORCH = ("kdrepro", "kdrepro.ledger", "kdrepro.verdicts", "kdrepro.tables", "kdrepro.plots")


def declared_to_type_checkers() -> dict[str, str]:
    """The imports under `if TYPE_CHECKING`, by name: the module each comes from."""
    tree = ast.parse(Path(kdrepro.__file__).read_text(encoding="utf-8"))
    (branch,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    imports = [node for node in branch.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: node.module for node in imports for alias in node.names}


def test_type_checkers_and_python_see_the_same_names_from_the_same_places():
    declared = declared_to_type_checkers()
    assert sorted(declared) == sorted(NAMES)
    for name, module in declared.items():
        assert getattr(import_module(module), name) is getattr(kdrepro, name)


def test_all_is_sorted_and_dir_shows_it():
    assert sorted(NAMES) == NAMES
    assert set(kdrepro.__all__) <= set(dir(kdrepro))


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented(name):
    thing = getattr(kdrepro, name)
    assert thing.__module__.startswith("kdrepro.")
    text = thing.__doc__
    # A dataclass without a docstring gets its signature for one.
    assert text is not None
    assert not text.startswith(f"{name}(")
    first = text.strip().split("\n\n")[0]
    assert first.rstrip().endswith((".", ":")), first
    if inspect.isclass(thing):
        own = [
            value
            for key, value in vars(thing).items()
            if not key.startswith("_") and inspect.isfunction(value)
        ]
        # torch documents forward and extra_repr.
        assert all(method.__doc__ for method in own if method.__name__ not in ("forward", "extra_repr"))


@pytest.mark.parametrize(
    ("name", "positional"),
    [
        ("forward_kl", ["student_logits", "teacher_logits"]),
        ("reverse_kl", ["student_logits", "teacher_logits"]),
        ("jensen_shannon", ["student_logits", "teacher_logits"]),
        ("soft_target_loss", ["student_logits", "teacher_logits"]),
        ("hard_target_loss", ["student_logits", "targets"]),
        ("attention_map", ["feature"]),
        ("attention_transfer_loss", ["student_feature", "teacher_feature"]),
        ("AttentionTransfer", ["pairs"]),
        ("hint_loss", ["student_feature", "teacher_feature"]),
        ("BornAgain", []),
        ("FullActivationTransfer", ["pairs"]),
        ("LabelSmoothing", []),
        ("beam_search", ["model", "sources"]),
        ("closest_to_reference", ["hypotheses", "reference"]),
        ("greedy", ["model", "sources"]),
        ("teacher_translations", ["teacher", "sources"]),
        ("HintonKD", []),
        ("FitNetKD", []),
        ("HintStage", ["regressor"]),
        ("JointFitNet", ["hints", "objective"]),
        ("regressor", ["student_shape", "teacher_shape"]),
        ("Distiller", ["teacher", "student", "objective"]),
        ("Taps", ["module", "taps"]),
        ("check", ["teacher", "student", "batch"]),
        ("suggest_pairs", ["teacher", "student", "inputs"]),
        ("fit", ["student", "objective", "batches"]),
    ],
)
def test_hyper_parameters_are_passed_by_name(name, positional):
    parameters = inspect.signature(getattr(kdrepro, name)).parameters.values()
    assert [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY] == positional


def test_a_wrong_name_lists_the_right_ones():
    with pytest.raises(
        AttributeError, match=r"no attribute 'HintonKd'; its names are .*HintonKD.*soft_target_loss"
    ):
        _ = kdrepro.HintonKd


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_the_book_reads_needs_no_torch(module):
    program = f"import sys, {module}; assert 'torch' not in sys.modules, 'torch'"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr


def test_the_version_is_that_of_the_installed_package():
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("kdrepro")
    except PackageNotFoundError:
        pytest.skip("kdrepro is not installed, only on the path")
    assert kdrepro.__version__ == installed
