"""A tiny random Qwen2.5-VL, and `transformers serve` to talk to it: a real model behind a real endpoint.

`make_model` builds one with about 100,000 parameters and a vocabulary of its own.  Left random it answers nonsense.
Trained on a handful of questions (a few seconds), it answers just those, with pictures before them.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tiny_vlm.processing_pictures import PictureProcessor

SPECIAL = (
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}"
    "{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PIECES = r" ?[A-Za-z0-9_]+|\s|[^\sA-Za-z0-9_]"  # a word with the space before it, or one other sign


def make_model(folder: Path, answers: Mapping[str, str], train: bool) -> Path:
    """Write a model whose vocabulary covers `answers` (prompt -> answer), trained to give them or left random."""
    torch.manual_seed(0)
    text = "user\nassistant\n" + "".join(f"{prompt}{answer}" for prompt, answer in answers.items())
    words = [*SPECIAL, "<unk>", *dict.fromkeys(re.findall(PIECES, text))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>", unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[1:]), clean_up_tokenization_spaces=False,
    )  # fmt: skip
    PictureProcessor.register_for_auto_class("AutoProcessor")
    pictures = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28)
    processor = PictureProcessor(pictures, fast, chat_template=TEMPLATE)
    model = Qwen2_5_VLForConditionalGeneration(_config(len(words)))
    if train:
        _train(model, processor, answers)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _config(vocabulary: int) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64,
            "fullatt_block_indexes": [0], "window_size": 112,
        },
        vision_start_token_id=3, vision_end_token_id=4, image_token_id=5, video_token_id=6,
    )  # fmt: skip


def _train(model: Qwen2_5_VLForConditionalGeneration, processor: PictureProcessor, answers: Mapping[str, str]) -> None:
    """Learn the answers by heart."""
    grey = Image.new("RGB", (28, 28), (128, 128, 128))
    batches = []
    for prompt, answer in answers.items():
        content = [*({"type": "image", "image": grey} for _ in range(2)), {"type": "text", "text": prompt}]
        asked = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        batch = processor(text=[asked + answer + "<|im_end|>"], images=[grey, grey], return_tensors="pt")
        count = len(processor.tokenizer(answer + "<|im_end|>")["input_ids"])
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, -count:] = batch["input_ids"][:, -count:]
        batches.append({**batch, "labels": labels})
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    model.train()
    for _ in range(120):
        loss = torch.stack([model(**batch).loss for batch in batches]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if float(loss.detach()) < 0.01:
            break
    assert float(loss.detach()) < 0.05, f"the tiny model has not learnt its answers: loss {float(loss.detach()):.3f}"
    model.eval()


@contextmanager
def serve(cache: Path) -> Iterator[str]:
    """`transformers serve` on a free port of this machine, as long as the block lasts; yields the base URL.

    It loads a model when it is first asked for one; a model's name is its folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cache.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--trust-remote-code"]
    with (cache / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (cache / "serve.log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
