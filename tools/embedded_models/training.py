"""Training of the embedded models: Adam on the answers, which keep a share of doubt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from tools.embedded_models.lessons import Lesson

BATCH = 32
CHECKED_EVERY = 5
Loss = Callable[[Sequence[Lesson]], Tensor]


def never() -> bool:
    """For a training that takes all its lessons."""
    return False


def train_model(
    model, lessons: Sequence[Lesson], loss: Loss, lr: float, enough: Callable[[], bool] = never
) -> list[float]:
    """Trains the model's trainable weights on the lessons in turn, until `enough`; the loss of every step."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    warmed = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / 5))
    losses: list[float] = []
    for start in range(0, len(lessons) - BATCH + 1, BATCH):
        if losses and len(losses) % CHECKED_EVERY == 0 and enough():
            break
        now = loss(lessons[start : start + BATCH])
        optimiser.zero_grad()
        now.backward()
        optimiser.step()
        warmed.step()
        losses.append(now.item())
    return losses


def answer_loss(model, objects: Tensor, doubt: float) -> Loss:
    """Mean cross entropy of the tokens to learn.

    `objects` [vocab] says which tokens are objects: `doubt` of the answer's weight goes to those of them in the text (a
    fifth of it to all tokens), so that a model that is wrong does not rule the right answer out.
    """

    def loss(lessons: Sequence[Lesson]) -> Tensor:
        tokens, to_learn = right_padded(lessons)
        row, place = to_learn.nonzero(as_tuple=True)
        said = model(input_ids=tokens[:, :-1]).logits[row, place - 1].log_softmax(-1)  # [answer token, vocab]
        before = torch.where(torch.arange(tokens.shape[1]) < place[:, None], tokens[row], 0)
        mentioned = torch.zeros_like(said).scatter_(1, before, objects[before].float())
        mentioned = torch.where(mentioned.any(1, keepdim=True), mentioned, 1.0)
        goal = doubt * (0.8 * mentioned / mentioned.sum(1, keepdim=True) + 0.2 / said.shape[1])
        goal[torch.arange(len(row)), tokens[row, place]] += 1 - doubt
        return -(goal * said).sum(1).mean()

    return loss


def imitation_loss(model, teacher: LlamaForCausalLM) -> Loss:
    """Mean cross entropy of the next token after each prompt, against what the teacher says to the plain prompt."""

    def loss(lessons: Sequence[Lesson]) -> Tensor:
        tokens, to_learn = right_padded(lessons)
        row, place = to_learn.nonzero(as_tuple=True)
        with torch.no_grad():
            plain = torch.tensor([lesson.plain for lesson in lessons])
            goal = teacher(input_ids=plain, logits_to_keep=1).logits[row, -1].softmax(-1)
        said = model(input_ids=tokens[:, :-1]).logits[row, place - 1].log_softmax(-1)
        return -(goal * said).sum(1).mean()

    return loss


def right_padded(lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor]:
    """tokens [batch, seq], and which of them are to be learnt."""
    width = max(len(lesson.tokens) for lesson in lessons)
    tokens = torch.zeros(len(lessons), width, dtype=torch.long)
    to_learn = torch.zeros(len(lessons), width, dtype=torch.bool)
    for row, lesson in enumerate(lessons):
        tokens[row, : len(lesson.tokens)] = torch.tensor(lesson.tokens)
        to_learn[row, lesson.start : len(lesson.tokens)] = True
    return tokens, to_learn


def word_accuracy(model: LlamaForCausalLM, lessons: Sequence[Lesson]) -> float:
    """The share of answer tokens that are the likeliest of all tokens, the ones before them being given."""
    tokens, to_learn = right_padded(lessons)
    row, place = to_learn.nonzero(as_tuple=True)
    with torch.no_grad():
        said = model(input_ids=tokens).logits[row, place - 1].argmax(-1)
    return (said == tokens[row, place]).double().mean().item()
