"""Attention masks."""

from __future__ import annotations

import torch
from torch import Tensor


def narrowed(mask: Tensor, position_ids: Tensor, keys: Tensor, window: int) -> Tensor:
    """[batch, 1, seq, keys]: the mask without what lies `window` tokens back or further."""
    back = position_ids[:, :, None] - keys[:, None]  # [batch, seq, keys]
    return mask.masked_fill((back >= window)[:, None], torch.finfo(mask.dtype).min)
