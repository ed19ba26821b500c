"""An OPT of true dimensions, or any decoder, with random weights and a small tokenizer: for tests and benchmarks.

    python -m lm_eval_prune.random_opt --size opt-125m --output_path DIR

The folder loads with `from_pretrained` like any checkpoint. Its answers mean nothing; its cost and shapes are real.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lm_eval_prune.decoders.known_sizes import SIZES, opt_config, opt_settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

__all__ = ["SIZES", "opt_config", "opt_settings", "save_random_model", "save_random_opt", "small_tokenizer"]

BOS, PAD = "</s>", "<pad>"


def small_tokenizer(texts: Iterable[str] = (), vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that can encode any text and, like OPT's, puts `</s>` (id 2) in front of it.

    Merges are learned from `texts`; without any, every byte is a token. Deterministic.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", PAD, BOS, "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, unk_token=BOS, pad_token=PAD
    )


def save_random_opt(
    output_path: str | Path,
    size: str = "opt-125m",
    *,
    seed: int = 0,
    texts: Iterable[str] = (),
    dtype: str = "float32",
    **changes: Any,
) -> Path:
    """`save_random_model` of a public OPT's dimensions, with `changes` of its configuration on top."""
    return save_random_model(output_path, opt_config(size, **changes), seed=seed, texts=texts, dtype=dtype)


def save_random_model(
    output_path: str | Path,
    config: PreTrainedConfig,
    *,
    seed: int = 0,
    texts: Iterable[str] = (),
    dtype: str = "float32",
    num_tokens: int = 4096,
) -> Path:
    """Write a decoder of any family with seeded random weights, and its tokenizer, to the folder `output_path`.

    Weights are drawn as the family initialises them, except that biases and norms, which start as zeros and ones, get
    noise too: a mistake in their handling then shows in the outputs. The tokenizer has `num_tokens` tokens at most, and
    no more than the model. Returns the folder.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    spread = getattr(config, "init_std", getattr(config, "initializer_range", 0.02))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += spread * torch.randn(parameter.shape, generator=generator)
    model.to(getattr(torch, dtype)).save_pretrained(output_path)
    small_tokenizer(texts, vocab_size=min(num_tokens, config.vocab_size)).save_pretrained(output_path)
    return Path(output_path)


@click.command()
@click.option("--size", type=click.Choice(list(SIZES)), default="opt-125m", show_default=True)
@click.option("--output_path", type=click.Path(file_okay=False, path_type=Path), required=True, help="New folder.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@click.option(
    "--tokenizer_texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Text files to learn the tokenizer's merges from; without any, each byte is a token.",
)
def main(size: str, output_path: Path, seed: int, dtype: str, tokenizer_texts: tuple[Path, ...]) -> None:
    """Write an OPT of true dimensions with random weights, and a small tokenizer."""
    if output_path.is_dir() and any(output_path.iterdir()):
        raise click.UsageError(f"--output_path {output_path}: not empty; give a new folder")
    texts = (path.read_text(encoding="utf-8") for path in tokenizer_texts)
    save_random_opt(output_path, size, seed=seed, dtype=dtype, texts=texts)
    click.echo(f"{size} with random weights: {output_path}")


if __name__ == "__main__":
    main()
