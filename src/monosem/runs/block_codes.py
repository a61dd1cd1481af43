"""A text as an autoencoder reads it: in blocks as the run was trained on, with the BOS in front of each."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.sae.autoencoder import Autoencoder
from monosem.sae.codes import Codes
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel


def encode_text(sae: Autoencoder, subject: SubjectModel, ids: Sequence[int], context_length: int) -> Codes:
    """The codes of a text's tokens, one row a token.

    Args:
        ids: of the text alone, at least one.
        context_length: tokens in a block, BOS included.
    """
    assert sae.provenance is not None
    return sae.encode(_activations(subject, sae.provenance.site, ids, context_length))


def _activations(
    subject: SubjectModel, site: Site, ids: Sequence[int], context_length: int
) -> Float[Tensor, "tokens d_model"]:
    """Raw activations of every token of the text, BOS left out."""
    length = context_length - (subject.bos_id is not None)
    blocks = [ids[start : start + length] for start in range(0, len(ids), length)]
    short = [blocks.pop()] if len(ids) % length else []
    read = [_of_blocks(subject, site, torch.tensor(each)) for each in (blocks, short) if each]
    return torch.cat([each.flatten(0, 1) for each in read])


def _of_blocks(
    subject: SubjectModel, site: Site, blocks: Int64[Tensor, "blocks length"]
) -> Float[Tensor, "blocks length d_model"]:
    if subject.bos_id is not None:
        blocks = torch.cat([blocks.new_full((len(blocks), 1), subject.bos_id), blocks], dim=1)
    activations = site.read(subject.capture(blocks, site.inputs))
    return activations[:, int(subject.bos_id is not None) :]
