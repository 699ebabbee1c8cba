"""A small tokenizer for a small base: words that captions use are one token each, all else falls back to bytes.

    python -m data_prep.tokenizer root=datasets/fluent-shards out=assets/tiny-wan/tokenizer

Lower case, byte-level BPE.  The result is a plain transformers tokenizer, loaded by WanPipeline like any other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from data_prep.cli import parse, told
from wan_alpha.data.rewording import TEMPLATE_WORDS
from wan_alpha.data.shards import ShardSource
from wan_alpha.schema import Count

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


@dataclass
class Options:
    """Learn a small tokenizer from the captions of a folder of shards."""

    root: Annotated[Path, "folder of shards"]
    out: Annotated[Path, "where the tokenizer goes"]
    vocabulary: Annotated[Count, "number of tokens at most"] = 2048


def train_tokenizer(captions: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn merges from captions and from the words that caption variation adds."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*captions, *TEMPLATE_WORDS * 3], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, padding_side="right",
        model_max_length=512,
    )  # fmt: skip


def learn(options: Options) -> None:
    """Train and save.

    Raises:
        DataError: the shards cannot be read.
        OSError: the tokenizer cannot be written.
    """
    captions = [clip.caption for split in ("train", "val") for clip in ShardSource(options.root, split).clips]
    tokenizer = train_tokenizer(captions, options.vocabulary)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(options.out)
    # transformers 5 writes a class name that transformers 4 does not know; both know this one.
    file = options.out / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2))
    print(f"{options.out}: {len(tokenizer)} tokens from {len(captions)} captions")


def main(arguments: list[str]) -> None:
    """The command line."""
    options = parse(Options, arguments, "python -m data_prep.tokenizer")
    with told():
        learn(options)


if __name__ == "__main__":
    main(sys.argv[1:])
