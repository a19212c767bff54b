"""Task-agnostic distillation of an encoder: aligned vocabularies, initial embeddings, features."""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sklearn.decomposition import PCA
from torch import nn
from transformers import AutoModel, BertModel, PreTrainedModel, PreTrainedTokenizerBase

from helpers.tutorial.profile import Architecture
from helpers.training import FROM_FOLDER, bert_config, collect_rows, dropout_rates

_SPECIAL = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")


def load_encoder(folder: Path) -> PreTrainedModel:
    """Load a BERT or MPNet encoder without pooler and head from a local folder, in FP32."""
    return AutoModel.from_pretrained(folder, add_pooling_layer=False, **FROM_FOLDER).eval()


def untrained_encoder(
    architecture: Architecture, *, seed: int, dropout: float | None = None
) -> BertModel:
    """Build a BERT encoder without pooler with weights drawn from `seed`, in FP32."""
    torch.manual_seed(seed)
    config = bert_config(architecture, attn_implementation="eager", **dropout_rates(dropout))
    return BertModel(config, add_pooling_layer=False).eval()


def map_vocabulary(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> torch.Tensor:
    """Return the teacher's id of each of the student's word pieces, int64 of shape (vocabulary,).

    Special tokens map by their role, all others by their text, so that a sentence cut by the
    student's tokenizer can be read by the teacher.

    Raises:
        ValueError: the teacher lacks a piece of the student's.
    """
    theirs = teacher.get_vocab()
    by_role = {getattr(student, role): getattr(teacher, role) for role in _SPECIAL}
    pieces = sorted(student.get_vocab().items(), key=lambda item: item[1])
    names = [by_role.get(piece, piece) for piece, _ in pieces]
    if lacking := [name for name in names if name not in theirs]:
        shown = ", ".join(map(repr, lacking[:5]))
        raise ValueError(f"the teacher lacks {len(lacking)} of the student's word pieces: {shown}")
    return torch.tensor([theirs[name] for name in names])


def principal_components(
    table: torch.Tensor, size: int, *, std: float
) -> tuple[torch.Tensor, float]:
    """Reduce an embedding table (vocabulary, hidden) to its main directions (vocabulary, size).

    Returns the table, scaled to the standard deviation `std`, and the share of the variance that
    it keeps.
    """
    pca = PCA(n_components=size, random_state=0)
    reduced = pca.fit_transform(table.detach().numpy())
    scaled = reduced * (std / reduced.std())
    return torch.tensor(scaled, dtype=torch.float32), float(pca.explained_variance_ratio_.sum())


def mean_pool(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean over the real word pieces: (batch, length, hidden) to (batch, hidden)."""
    weights = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def mask_tokens(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, *, share: float, mask_id: int
) -> torch.Tensor:
    """Put the mask token for a random share of the real word pieces, first and last left out."""
    inner = attention_mask.bool()
    inner = inner & inner.roll(-1, dims=1)  # not the last real one; padding is on the right
    inner[:, 0] = inner[:, -1] = False
    chosen = inner & (torch.rand(input_ids.shape, device=input_ids.device) < share)
    return input_ids.masked_fill(chosen, mask_id)


class MappedStudent(nn.Module):
    """A student with one linear map for each of its layers that is compared with the teacher's.

    Called on `input_ids` and `attention_mask` (batch, length), it returns the mapped hidden states
    of the given layers (1 is the first after the embeddings), each (batch, length, size).
    """

    def __init__(self, student: PreTrainedModel, layers: list[int], size: int):
        super().__init__()
        self.student, self.layers = student, layers
        self.maps = nn.ModuleList(nn.Linear(student.config.hidden_size, size) for _ in layers)

    def forward(self, input_ids, attention_mask):
        """Return the list of mapped states."""
        states = self.student(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        ).hidden_states
        return [map_(states[layer]) for map_, layer in zip(self.maps, self.layers, strict=True)]


def sentence_features(
    encoder: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    description: str,
) -> np.ndarray:
    """Mean-pooled last hidden states (n, hidden) of a tokenised dataset, in its order."""

    def run(batch):
        with torch.inference_mode():
            inputs = {key: torch.as_tensor(rows) for key, rows in batch.items()}
            return mean_pool(encoder(**inputs).last_hidden_state, inputs["attention_mask"]).numpy()

    return collect_rows(run, dataset, tokenizer, description=description)
