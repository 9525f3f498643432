"""kdrepro: the knowledge-distillation papers, reproduced with seeds, intervals and cost.

The names below load on first use, so that `import kdrepro.tables` (the book) needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdrepro.caching import CachedTeacher as CachedTeacher
    from kdrepro.caching import cache_teacher as cache_teacher
    from kdrepro.data.batches import Batches as Batches
    from kdrepro.decode import beam_search as beam_search
    from kdrepro.decode import greedy as greedy
    from kdrepro.distiller import Distilled as Distilled
    from kdrepro.distiller import Distiller as Distiller
    from kdrepro.doctor import check as check
    from kdrepro.engine import fit as fit
    from kdrepro.engine import predict as predict
    from kdrepro.layer_pairs import suggest_pairs as suggest_pairs
    from kdrepro.losses.attention import attention_map as attention_map
    from kdrepro.losses.attention import attention_transfer_loss as attention_transfer_loss
    from kdrepro.losses.features import hint_loss as hint_loss
    from kdrepro.losses.logits import forward_kl as forward_kl
    from kdrepro.losses.logits import hard_target_loss as hard_target_loss
    from kdrepro.losses.logits import jensen_shannon as jensen_shannon
    from kdrepro.losses.logits import reverse_kl as reverse_kl
    from kdrepro.losses.logits import soft_target_loss as soft_target_loss
    from kdrepro.losses.reduce import masked_mean as masked_mean
    from kdrepro.losses.reduce import mean as mean
    from kdrepro.methods.attention_transfer import AttentionTransfer as AttentionTransfer
    from kdrepro.methods.attention_transfer import FullActivationTransfer as FullActivationTransfer
    from kdrepro.methods.born_again import BornAgain as BornAgain
    from kdrepro.methods.born_again import ConfidenceWeighted as ConfidenceWeighted
    from kdrepro.methods.born_again import LabelSmoothing as LabelSmoothing
    from kdrepro.methods.born_again import PermutedDarkKnowledge as PermutedDarkKnowledge
    from kdrepro.methods.fitnets import FitNetKD as FitNetKD
    from kdrepro.methods.fitnets import HintStage as HintStage
    from kdrepro.methods.fitnets import JointFitNet as JointFitNet
    from kdrepro.methods.fitnets import regressor as regressor
    from kdrepro.methods.hinton_kd import HintonKD as HintonKD
    from kdrepro.methods.sequence_kd import WordLevelKD as WordLevelKD
    from kdrepro.methods.sequence_kd import closest_to_reference as closest_to_reference
    from kdrepro.methods.sequence_kd import teacher_translations as teacher_translations
    from kdrepro.methods.supervised import Supervised as Supervised
    from kdrepro.taps import Taps as Taps
    from kdrepro.types import Batch as Batch
    from kdrepro.types import Outputs as Outputs

__version__ = "0.1.0"

_HOME = {
    "AttentionTransfer": "methods.attention_transfer",
    "Batch": "types",
    "Batches": "data.batches",
    "BornAgain": "methods.born_again",
    "CachedTeacher": "caching",
    "ConfidenceWeighted": "methods.born_again",
    "Distilled": "distiller",
    "Distiller": "distiller",
    "FitNetKD": "methods.fitnets",
    "FullActivationTransfer": "methods.attention_transfer",
    "HintStage": "methods.fitnets",
    "HintonKD": "methods.hinton_kd",
    "JointFitNet": "methods.fitnets",
    "LabelSmoothing": "methods.born_again",
    "Outputs": "types",
    "PermutedDarkKnowledge": "methods.born_again",
    "Supervised": "methods.supervised",
    "Taps": "taps",
    "WordLevelKD": "methods.sequence_kd",
    "attention_map": "losses.attention",
    "attention_transfer_loss": "losses.attention",
    "beam_search": "decode",
    "cache_teacher": "caching",
    "check": "doctor",
    "closest_to_reference": "methods.sequence_kd",
    "fit": "engine",
    "forward_kl": "losses.logits",
    "greedy": "decode",
    "hard_target_loss": "losses.logits",
    "hint_loss": "losses.features",
    "jensen_shannon": "losses.logits",
    "masked_mean": "losses.reduce",
    "mean": "losses.reduce",
    "predict": "engine",
    "regressor": "methods.fitnets",
    "reverse_kl": "losses.logits",
    "soft_target_loss": "losses.logits",
    "suggest_pairs": "layer_pairs",
    "teacher_translations": "methods.sequence_kd",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"module 'kdrepro' has no attribute {name!r}; its names are {', '.join(sorted(_HOME))}"
        )
    return getattr(import_module(f"kdrepro.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
