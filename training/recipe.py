"""How the bundled model is shaped and trained: every number of the training, in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.vocabulary import BOS, PAD, SPECIAL, VOCABULARY

if TYPE_CHECKING:
    import torch
    from transformers import OPTForCausalLM

__all__ = ["Recipe", "build_model", "turn_look_back"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the training: which sequences, and how long."""

    first_step: int
    shares: Mapping[str, float]
    """Kind of sequence -> how often it is drawn, relative to the others."""
    lengths: tuple[int, ...]
    """Words per sequence, drawn anew at each step; longer sequences come in smaller batches."""
    longest_every: int = 0
    """Each so many steps, sequences of `longest_length` instead; 0 is never."""
    longest_length: int = 768
    head_sparsity: float = 0.0
    """Weight of the sum over heads of the norms of their value and output matrices: heads that are not needed fade."""


_STAGES = (
    # In-context learning begins soonest on short sequences.
    Stage(
        first_step=0,
        shares={
            "repeats": 0.2,
            "recall": 0.2,
            "labels": 0.25,
            "shapes": 0.125,
            "prefix steps": 0.125,
            "facts": 0.1,
        },
        lengths=(48,),
    ),
    # Lengths of few-shot prompts and beyond.
    Stage(
        first_step=1100,
        shares={"repeats": 0.15, "recall": 0.1, "labels": 0.2, "shapes": 0.25, "steps": 0.25, "facts": 0.05},
        lengths=(48, 96, 128),
        longest_every=25,
    ),
    # What was learned, in fewer heads.
    Stage(
        first_step=2300,
        shares={"repeats": 0.25, "recall": 0.2, "labels": 0.25, "pattern": 0.2, "facts": 0.1},
        lengths=(48, 96, 128),
        longest_every=25,
        head_sparsity=2e-4,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    hidden_size: int = 144
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    ffn_dim: int = 288
    max_position_embeddings: int = 1024

    init_std: float = 0.05
    """Standard deviation of the random weights; OPT's own 0.02 is for models ten times as wide."""
    look_back: tuple[int, ...] = (1, 2)
    """Heads 0, 1, ... of the first layer begin by attending so many positions back; all other weights begin at random.
    In-context learning cannot begin before some head looks back, and finding that takes long by itself."""
    turn_step: int = 900
    """Before this step each head of `look_back` is turned to look one position less far back, and learns on from there:
    heads that match words then attend to the word that followed the earlier one, not to the word behind that."""

    learning_rate: float = 2e-3
    """Reached after `warmup_steps`, constant from there until the last `decay_share` of the steps."""
    warmup_steps: int = 200
    decay_share: float = 0.13
    """Share of all steps, the last ones, over which the learning rate falls linearly to a twentieth."""
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0

    stages: tuple[Stage, ...] = _STAGES

    def stage(self, step: int) -> Stage:
        """The last stage that begins at `step` or before."""
        return next(stage for stage in reversed(self.stages) if step >= stage.first_step)

    def length(self, step: int) -> int:
        """Words per sequence, BOS included, at `step` (0 is the first)."""
        stage = self.stage(step)
        if stage.longest_every and step % stage.longest_every == 0:
            return stage.longest_length
        # A fixed scramble of the step, so that the length depends on nothing else.
        return stage.lengths[step * 2654435761 % 2**32 * len(stage.lengths) // 2**32]

    def sequences(self, batch_size: int, length: int) -> int:
        """Sequences of `length` that make about as many words as `batch_size` of the first stage's."""
        return max(1, round(batch_size * self.stages[0].lengths[0] / length))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate at `step` of `steps`."""
        decay_steps = max(1, round(steps * self.decay_share))
        left = (steps - step) / decay_steps
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * min(1.0, max(0.05, left))


def _frequencies(width: int) -> torch.Tensor:
    """(width // 2,): radians per position, from 2.5 down to 0.01 in equal ratios."""
    import torch

    return torch.logspace(math.log10(2.5), -2, width // 2)


def _sinusoids(positions: int, width: int, amplitude: float) -> torch.Tensor:
    """(positions, width): the sines of all frequencies, then their cosines."""
    import torch

    angles = torch.arange(positions)[:, None] * _frequencies(width)[None]
    return amplitude * torch.cat([angles.sin(), angles.cos()], dim=1)


def _look_back(model: OPTForCausalLM, head: int, distance: int) -> None:
    """Let a head of the first layer begin by attending to the position `distance` before, in place.

    Its keys are the sines and cosines of the highest frequencies at their own position, its queries the same at the
    position `distance` before: a rotation by a fixed angle per frequency, so their product is largest there.
    """
    import torch

    attention = model.model.decoder.layers[0].self_attn
    pairs = attention.head_dim // 2
    half = attention.embed_dim // 2
    angles = _frequencies(attention.embed_dim)[:pairs] * distance
    rows = torch.arange(pairs) + head * attention.head_dim
    sines, cosines = torch.arange(pairs), torch.arange(pairs) + half
    for weight, cosine, sine in (
        (attention.k_proj.weight, 2 * torch.ones(pairs), torch.zeros(pairs)),
        (attention.q_proj.weight, 2 * angles.cos(), 2 * angles.sin()),
    ):
        # sin(a - b) = sin a cos b - cos a sin b;  cos(a - b) = cos a cos b + sin a sin b
        weight[rows, sines], weight[rows, cosines] = cosine, -sine
        weight[rows + pairs, sines], weight[rows + pairs, cosines] = sine, cosine


def build_model(recipe: Recipe, seed: int) -> OPTForCausalLM:
    """The untrained model; its weights depend on `recipe` and `seed` only. The global random state is left alone."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=recipe.hidden_size,
        word_embed_proj_dim=recipe.hidden_size,
        num_hidden_layers=recipe.num_hidden_layers,
        num_attention_heads=recipe.num_attention_heads,
        ffn_dim=recipe.ffn_dim,
        max_position_embeddings=recipe.max_position_embeddings,
        do_layer_norm_before=True,
        dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=SPECIAL.index(BOS),
        init_std=recipe.init_std,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OPTForCausalLM(config)
    # Sinusoids make "the word before" the same step everywhere, so that a head that finds it at one position finds it
    # at all; learned positions would each have to be learned, and few sequences are long.
    positions = model.model.decoder.embed_positions.weight.requires_grad_(False)
    positions.copy_(_sinusoids(positions.shape[0], positions.shape[1], amplitude=0.15))
    with torch.no_grad():
        for head, distance in enumerate(recipe.look_back):
            _look_back(model, head, distance)
    return model


def turn_look_back(model: OPTForCausalLM, recipe: Recipe) -> None:
    """Turn the queries of the heads of `recipe.look_back` by one position, in place; see `Recipe.turn_step`."""
    import torch

    attention = model.model.decoder.layers[0].self_attn
    pairs = attention.head_dim // 2
    with torch.no_grad():
        for head in range(len(recipe.look_back)):
            rows = torch.arange(pairs, device=model.device) + head * attention.head_dim
            for parameter in (attention.q_proj.weight, attention.q_proj.bias):
                angles = (
                    _frequencies(attention.embed_dim)[:pairs].to(model.device).reshape(-1, *[1] * (parameter.ndim - 1))
                )
                sines, cosines = parameter[rows].clone(), parameter[rows + pairs].clone()
                parameter[rows] = angles.cos() * sines + angles.sin() * cosines
                parameter[rows + pairs] = angles.cos() * cosines - angles.sin() * sines
