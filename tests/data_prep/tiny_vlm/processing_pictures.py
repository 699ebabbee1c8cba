"""Qwen2.5-VL's processor for pictures alone: its video half needs torchvision.  Copied beside the tiny model's weights,
from where the server loads it."""

from typing import Any

from transformers import Qwen2_5_VLProcessor


class PictureProcessor(Qwen2_5_VLProcessor):
    """Tokens and pictures, no videos."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any
    ) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        # Past the parent's constructor, which insists on a video processor.
        super(Qwen2_5_VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)
