"""Small networks that show the mistakes of a distillation: BatchNorm, dropout, features, keyword inputs."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from kdrepro.types import Outputs


def network(seed: int = 0, *, inputs: int = 4, classes: int = 5, width: int = 8) -> nn.Sequential:
    """With BatchNorm and dropout, so that a network in the wrong mode shows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = (
            nn.Linear(inputs, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(width, classes),
        )
    return nn.Sequential(*layers)


def batch(count: int = 16, *, inputs: int = 4, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, inputs, generator=random), torch.randint(classes, (count,), generator=random)


class WithFeatures(nn.Module):
    """Gives its hidden layer as a feature."""

    def __init__(self, *, inputs: int = 4, classes: int = 5, width: int = 8) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(inputs, width), nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Outputs:
        hidden = self.body(inputs).relu()
        return Outputs(self.head(hidden), {"hidden": hidden})


class LanguageModel(nn.Module):
    """Takes keyword inputs and gives an object with logits, as Hugging Face's models do."""

    def __init__(self, *, vocabulary: int = 7) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, 6), nn.Linear(6, vocabulary)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        hidden = self.embedding(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask.unsqueeze(-1)
        return SimpleNamespace(logits=self.head(hidden), loss=None)


class Fixed(nn.Module):
    """Gives the same logits whatever comes in; they train, so that it passes for a student."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone(), requires_grad=logits.is_floating_point())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits


def snapshot(module: nn.Module) -> dict[str, object]:
    """All that may not change: weights and buffers as bytes, modes, gradients, what requires one."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "bytes": {name: value.detach().cpu().numpy().tobytes() for name, value in tensors.items()},
        "modes": {name: part.training for name, part in module.named_modules()},
        "gradients": {
            name: None if value.grad is None else value.grad.tolist() for name, value in tensors.items()
        },
        "requires_grad": {name: value.requires_grad for name, value in tensors.items()},
    }
