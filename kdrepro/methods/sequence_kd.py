"""Sequence-level distillation: Kim & Rush (2016), section 3.

Word-level distillation is an objective. Sequence-level distillation is not: it is what the student is trained on, the
teacher's own translations (Seq-KD), or of its beam the one that is nearest to the reference (Seq-Inter).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdrepro import checks, digests, tensor_checks, translation_files
from kdrepro.decode import Hypothesis, beam_search, check_arguments
from kdrepro.losses.logits import forward_kl, hard_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.text_metrics import sentence_bleu
from kdrepro.types import Batch, Outputs

# So many sentences are translated between two writes to the file. Which ones is fixed, so that a search that was killed
# and started again puts the same sentences into the same batches.
_CHUNK = 512


class WordLevelKD(nn.Module):
    """Match the teacher's next word at each position of the reference, beside the reference's (section 3.1).

    (1 − soft_weight) · NLL + soft_weight · KL(teacher ‖ student), each averaged over the words that `batch.mask` counts

    `soft_weight` is α, 0.5 in the paper; no temperature. The divergence is less than the paper's cross-entropy by the
    teacher's entropy, which has no gradient. Shapes: logits (B, L, V), targets (B, L). Padding gets no gradient, the
    first word does. Returns `{"soft": (), "hard": ()}`, already weighted, without the terms of weight 0.
    Raises `ValueError` for a weight outside [0, 1], no teacher, vocabularies that differ in size, or targets that are
    not one per logit vector.
    """

    # At which an ensemble is averaged.
    temperature = 1.0

    def __init__(self, *, soft_weight: float = 0.5) -> None:
        super().__init__()
        self.soft_weight = checks.fraction("soft_weight", soft_weight)

    def extra_repr(self) -> str:
        return f"soft_weight={self.soft_weight}"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        student, teacher = batch.counted(student), batch.counted_teacher(teacher)
        terms: dict[str, Tensor] = {}
        if self.soft_weight > 0:
            soft = forward_kl(student.logits, teacher.logits)
            tensor_checks.targets_agree(batch.targets, student.logits)
            terms["soft"] = self.soft_weight * masked_mean(soft, batch.mask)
        if self.soft_weight < 1:
            hard = hard_target_loss(student.logits, batch.counted_targets)
            terms["hard"] = (1 - self.soft_weight) * masked_mean(hard, batch.mask)
        return terms


@dataclass(frozen=True)
class Translations:
    """What a teacher's beam gave for each source sentence, the likeliest first, and the checksum of all of it."""

    hypotheses: list[list[Hypothesis]]
    checksum: str


def teacher_translations(
    teacher: nn.Module,
    sources: Sequence[Sequence[int]],
    *,
    width: int,
    max_length: int,
    n_best: int = 1,
    file: Path | str | None = None,
    teacher_id: str = "",
    batch_size: int = 128,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Translations:
    """Translate a training set with a teacher's beam, for a student to learn from (sections 3.2 and 3.3).

    `teacher` is a module with `encode`, `step` and `source_words`, whose words are numbered as
    `kdrepro.decode.Translator` says, and `sources` are the numbers of the words of each sentence. With `file`, what is
    done is written there piece by piece, and a search that was killed goes on behind the last piece and ends with the
    same file, byte for byte; a finished file is read. `teacher_id` names the teacher (default: the digest of its
    weights): a file of another teacher, other sources or another search is refused, and so is going on on another kind
    of device or in another precision than a file was begun with. `progress` is called with how many sentences are done,
    and of how many. Raises `ValueError` naming the file when it belongs to another search, or an argument that is out
    of range, and `RuntimeError` when another process writes the same file.
    """
    n_best = checks.whole("n_best", n_best, least=1)
    width = checks.whole("width", width, least=n_best)
    max_length = checks.whole("max_length", max_length, least=1)
    batch_size = checks.whole("batch_size", batch_size, least=1)
    check_arguments(teacher, sources, device)
    where = Path(file) if file is not None else None
    search = {
        "teacher": teacher_id or (digests.of_modules(teacher) if where is not None else ""),
        "sources": hashlib.sha256(json.dumps([list(each) for each in sources]).encode()).hexdigest(),
        "sentences": len(sources),
        "width": width,
        "n_best": n_best,
        "max_length": max_length,
        "batch_size": batch_size,
        # A search that goes on in another precision would end with a text that is neither's.
        "arithmetic": _arithmetic(teacher, device),
    }
    with translation_files.alone_with(where):
        pieces = translation_files.begun(where, search, length=_CHUNK) if where is not None else []
        done = sum(len(piece) for piece in pieces)
        while done < len(sources):
            some = sources[done : done + _CHUNK]
            found = beam_search(
                teacher,
                some,
                width=width,
                n_best=n_best,
                max_length=max_length,
                batch_size=batch_size,
                device=device,
            )
            pieces.append([[asdict(each) for each in hypotheses] for hypotheses in found])
            done += len(some)
            if where is not None:
                translation_files.append(where, search, pieces[-1])
            if progress is not None:
                progress(done, len(sources))
    written = "".join(json.dumps(piece) + "\n" for piece in pieces)
    hypotheses = [[Hypothesis(**each) for each in several] for piece in pieces for several in piece]
    return Translations(hypotheses, hashlib.sha256(written.encode()).hexdigest())


def _arithmetic(teacher: nn.Module, device: str | None) -> str:
    """Name the kind of device and the precision that a search runs in."""
    where = torch.device(device) if device is not None else next(teacher.parameters(), torch.empty(0)).device
    on = torch.is_autocast_enabled(where.type)
    own = (each.dtype for each in teacher.parameters() if each.is_floating_point())
    dtype = torch.get_autocast_dtype(where.type) if on else next(own, torch.get_default_dtype())
    return f"{where.type} {str(dtype).removeprefix('torch.')}"


def closest_to_reference(hypotheses: Sequence[str], reference: str) -> int:
    """Say which of a beam's hypotheses has the highest smoothed sentence BLEU with the reference (section 3.3).

    Of equally near ones the first, which is the likelier. Raises `ValueError` for no hypothesis.

    >>> closest_to_reference(["the dog is running .", "a dog runs ."], "the dog runs .")
    1
    """
    if not hypotheses:
        raise ValueError("hypotheses: got none, expected at least one")
    scores = [sentence_bleu(hypothesis, reference) for hypothesis in hypotheses]
    return scores.index(max(scores))
