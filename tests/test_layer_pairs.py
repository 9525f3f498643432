"""The suggested pairs are of one stage or depth, and their regressors bring the student's shape to the teacher's."""

import pytest
import torch
from small_networks import network, snapshot
from torch import Tensor, nn

from kdrepro import Taps, suggest_pairs
from kdrepro.layer_pairs import LayerPair, format_pairs
from kdrepro.methods.fitnets import regressor

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def stage(into: int, out: int, *, stride: int = 2, last: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, stride, 1), nn.ReLU(inplace=True), nn.Conv2d(out, out, 3, 1, 1), last()
    )


class ConvNet(nn.Module):
    """A stem, one module for each of `widths`, each half the size of the one before, pooling and classes."""

    def __init__(self, *widths: int, last: type[nn.Module] = nn.ReLU, stride: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1)
        self.stages = nn.ModuleList(
            stage(into, out, last=last, stride=stride)
            for into, out in zip((widths[0], *widths), widths, strict=False)
        )
        self.pool, self.flat, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for each in self.stages:
            hidden = each(hidden)
        return self.head(self.flat(self.pool(hidden)))


class Tokens(nn.Module):
    """Blocks that keep the size, as a transformer's do."""

    def __init__(self, depth: int, width: int, *, length: int = 4) -> None:
        super().__init__()
        self.length, self.embed = length, nn.Linear(3, width)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth))
        )
        self.head = nn.Linear(width, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.embed(inputs.flatten(2)[:, :, : self.length].mT)
        return self.head(self.blocks(hidden).mean(1))


def paths(pairs: list[LayerPair]) -> list[tuple[str, str]]:
    return [(pair.teacher, pair.student) for pair in pairs]


def assert_regressors_fit(
    teacher: nn.Module, student: nn.Module, inputs: Tensor, pairs: list[LayerPair]
) -> None:
    hints = Taps(teacher, {pair.name: pair.teacher for pair in pairs})(inputs).features
    guided = Taps(student, {pair.name: pair.student for pair in pairs})(inputs).features
    for pair in pairs:
        assert tuple(hints[pair.name].shape[1:]) == pair.teacher_shape
        assert tuple(guided[pair.name].shape[1:]) == pair.student_shape
        assert pair.make_regressor()(guided[pair.name]).shape == hints[pair.name].shape


def test_stages_of_equal_size_are_paired_with_a_convolution_of_kernel_1():
    teacher, student = ConvNet(8, 12, 16), ConvNet(4, 6, 16)
    pairs = suggest_pairs(teacher, student, IMAGES)
    assert paths(pairs) == [(f"stages.{place}", f"stages.{place}") for place in range(3)]
    assert [pair.regressor_code for pair in pairs] == ["nn.Conv2d(4, 8, 1)", "nn.Conv2d(6, 12, 1)", ""]
    assert isinstance(pairs[2].make_regressor(), nn.Identity)
    assert_regressors_fit(teacher, student, IMAGES, pairs)


def test_a_deeper_teacher_lends_the_stages_that_the_student_has():
    pairs = suggest_pairs(ConvNet(8, 8, 8, 8), ConvNet(4, 4), IMAGES)
    assert paths(pairs) == [("stages.0", "stages.0"), ("stages.1", "stages.1")]
    pairs = suggest_pairs(ConvNet(4, 4), ConvNet(8, 8, 8, 8), IMAGES)
    assert paths(pairs) == [("stages.0", "stages.0"), ("stages.1", "stages.1")]


@pytest.mark.parametrize(
    ("student_sides", "teacher_sides"), [((8, 8), (7, 7)), ((9, 6), (6, 6)), ((5, 5), (5, 5))]
)
def test_a_larger_map_needs_the_kernel_of_fitnets(student_sides, teacher_sides):
    class Cut(nn.Module):
        def __init__(self, width: int, sides: tuple[int, int]) -> None:
            super().__init__()
            self.sides, self.body = sides, nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU())
            self.head = nn.Linear(width, 5)

        def forward(self, inputs: Tensor) -> Tensor:
            height, width = self.sides
            return self.head(self.body(inputs[:, :, :height, :width]).mean((2, 3)))

    teacher, student = Cut(6, teacher_sides), Cut(4, student_sides)
    pairs = suggest_pairs(teacher, student, IMAGES)
    assert_regressors_fit(teacher, student, IMAGES, pairs)
    for pair in pairs:
        assert repr(pair.make_regressor()) == repr(regressor(pair.student_shape, pair.teacher_shape)[0])


def test_no_regressor_makes_a_map_larger():
    (pair,) = suggest_pairs(
        nn.Sequential(stage(3, 8), nn.Flatten(), nn.Linear(512, 5)),
        nn.Sequential(stage(3, 8, stride=4), nn.Flatten(), nn.Linear(128, 5)),
        IMAGES,
    )
    assert pair.problem == "the student's map is smaller, (4, 4) against (8, 8)"
    assert pair.regressor_code == ""
    assert "no regressor fits: the student's map is smaller" in format_pairs([pair])
    with pytest.raises(ValueError, match=r"^pair1: no regressor fits, the student's map is smaller"):
        pair.make_regressor()


def sequences(*widths: int, kernel: int = 3) -> nn.Sequential:
    """Convolutions over one dimension, each shorter than the one before."""
    layers = [
        layer
        for into, out in zip((3, *widths), widths, strict=False)
        for layer in (nn.Conv1d(into, out, kernel), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5))


def test_sequences_have_their_channels_first_and_need_convolutions_over_one_dimension():
    inputs = torch.randn(2, 3, 20)
    teacher, student = sequences(8, 12), sequences(4, 6, kernel=2)
    teacher(inputs), student(inputs)
    pairs = suggest_pairs(teacher, student, inputs)
    assert [pair.regressor_code for pair in pairs] == ["nn.Conv1d(4, 8, 2)", "nn.Conv1d(6, 12, 3)"]
    assert all(pair.sequence for pair in pairs)
    assert_regressors_fit(teacher, student, inputs, pairs)
    shorter, longer = sequences(4, 6, kernel=9), sequences(8, 12, kernel=1)
    shorter(inputs), longer(inputs)
    (first, *_) = suggest_pairs(longer, shorter, inputs)
    assert first.problem == "the student's sequence is shorter, 12 against 20"
    (mixed, *_) = suggest_pairs(teacher, Tokens(3, 8, length=18), torch.randn(2, 3, 20))
    assert "channels first" in mixed.problem


def test_networks_that_keep_their_size_are_cut_into_thirds():
    teacher, student = Tokens(6, 8), Tokens(3, 4)
    pairs = suggest_pairs(teacher, student, IMAGES)
    assert paths(pairs) == [("blocks.1", "blocks.0"), ("blocks.3", "blocks.1"), ("blocks.5", "blocks.2")]
    assert {pair.regressor_code for pair in pairs} == {"nn.Linear(4, 8)"}
    assert_regressors_fit(teacher, student, IMAGES, pairs)


def test_vectors_are_taken_behind_their_non_linearity():
    teacher = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 5))
    pairs = suggest_pairs(teacher, network(), torch.randn(6, 4))
    # Of the small network the ReLU and the dropout behind it, which is awake in training only.
    assert [(pair.student, pair.regressor_code) for pair in pairs] == [("3", "nn.Linear(8, 12)")]
    assert pairs[0].teacher in ("1", "3")


@pytest.mark.parametrize(
    ("teacher", "student", "problem"),
    [
        (ConvNet(4, 4), Tokens(3, 4), "the teacher gives a map, the student tokens"),
        (Tokens(3, 4), Tokens(3, 4, length=5), "the teacher gives 4 tokens, the student 5"),
    ],
)
def test_what_has_no_common_positions_does_not_fit(teacher, student, problem):
    pairs = suggest_pairs(teacher, student, IMAGES)
    assert {pair.problem for pair in pairs} == {problem}


@pytest.mark.parametrize(
    ("teacher_shape", "student_shape", "problem", "code"),
    [
        ((7, 7, 96), (7, 7, 48), "", "nn.Linear(48, 96)"),
        ((7, 7, 96), (48, 7, 7), "one map has its channels last, so permute it first", ""),
        ((7, 7, 96), (14, 14, 48), "maps of different size have their channels last, so permute them", ""),
    ],
)
def test_maps_with_their_channels_last(teacher_shape, student_shape, problem, code):
    from kdrepro.layer_pairs import _problem

    found = _problem(teacher_shape, student_shape)
    pair = LayerPair("pair1", "a", "b", teacher_shape, student_shape, True, True, found)
    assert (found, pair.regressor_code) == (problem, code)


def test_a_feature_that_is_never_below_0_needs_a_regressor_to_reach_one_that_is():
    teacher, student = ConvNet(8, 8, last=nn.Identity), ConvNet(8, 8)
    pairs = suggest_pairs(teacher, student, IMAGES)
    assert [(pair.teacher_signed, pair.student_signed) for pair in pairs] == [(True, False)] * 2
    assert [pair.regressor_code for pair in pairs] == ["nn.Conv2d(8, 8, 1)"] * 2
    assert format_pairs(pairs).count("which must not end in a ReLU") == 2
    back = suggest_pairs(student, teacher, IMAGES)
    assert format_pairs(back).count("no regressor needed") == 2


def test_what_runs_twice_or_gives_no_feature_is_passed_over():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line, self.shared, self.head = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 5)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.shared(self.line(self.shared(inputs))))

    (pair,) = suggest_pairs(Twice(), Twice(), torch.randn(6, 4))
    assert (pair.teacher, pair.student) == ("line", "line")


def test_wrappers_are_looked_through():
    torch.compiler.reset()
    teacher, student = ConvNet(8, 12), ConvNet(4, 6)
    expected = suggest_pairs(teacher, student, IMAGES)
    wrapped = nn.DataParallel(torch.compile(teacher, backend="eager"))
    assert suggest_pairs(wrapped, Taps(student, {"x": "stem"}), IMAGES) == expected


def test_it_leaves_no_trace_even_where_a_network_fails():
    teacher, student = ConvNet(8, 12), ConvNet(4, 6)
    student.stages[1].append(nn.BatchNorm2d(6))
    before, state = (snapshot(teacher), snapshot(student)), torch.get_rng_state()
    suggest_pairs(teacher.train(), student.train(), IMAGES)
    with pytest.raises(RuntimeError, match="weight of size"):
        suggest_pairs(teacher, student, IMAGES[:, :2])
    assert (snapshot(teacher), snapshot(student)) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(
        part._forward_hooks or part._forward_pre_hooks for part in [*teacher.modules(), *student.modules()]
    )


def test_no_pairs_as_text():
    assert format_pairs([]) == "No pairs found."


class Half(nn.Module):
    """Calls its only part `module`, as a wrapper does, and gives it half of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 16, 5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs[..., ::2, ::2])


def test_a_network_with_a_part_called_module_is_no_wrapper():
    images = torch.randn(2, 3, 8, 8)
    (pair, *_) = suggest_pairs(Half(), Half(), images)
    assert pair.student == "module.0"
    assert tuple(pair.student_shape) == (4, 4, 4)
    with pytest.raises(RuntimeError):
        suggest_pairs(Half().module, Half(), images)


def test_an_input_that_holds_for_all_examples_does_not_count_them():
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place, self.head = nn.Embedding(9, 4), nn.Embedding(6, 4), nn.Linear(4, 5)

        def forward(self, position_ids: Tensor, input_ids: Tensor) -> Tensor:
            return self.head(self.token(input_ids) + self.place(position_ids))

    ids = {"position_ids": torch.arange(6)[None], "input_ids": torch.randint(9, (3, 6))}
    assert suggest_pairs(Placed(), Placed(), ids)
