"""One question to an OpenAI-compatible vision endpoint, with a limit on the rate, repeated tries and plain errors."""

from __future__ import annotations

import asyncio
import base64
import random
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from wan_alpha.data.errors import DataError


class EndpointError(DataError):
    """A question got no answer.

    Attributes:
        kind: "down" (nobody there, no answer in time, or the server is in trouble), "refused" (no question will be
            answered: wrong key, unknown model), or "question" (this question was not accepted).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Pace:
    """At most so many requests a minute, evenly spread; none: as fast as they come."""

    def __init__(self, per_minute: float | None) -> None:
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def __call__(self, _: Any = None) -> None:
        """Wait for the next place in the row."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._next)
        self._next = at + self.gap
        await asyncio.sleep(at - now)


class Endpoint:
    """Where the model is asked.

    Connection errors, time-outs, 408, 409, 429 and 5xx are tried again by the client, after 0.5 s, 1 s, 2 s, ... up to
    8 s with jitter, or when the server says (`Retry-After`).

    Args:
        url: base of the API, such as http://127.0.0.1:8000/v1.
        model: name of the model there.
        key: API key; none: the endpoint wants none.  It is in no message and no file.
        timeout: seconds for one try.
        retries: further tries after the first.
        per_minute: limit on requests, repeated ones included.
    """

    def __init__(
        self, url: str, model: str, key: str | None, timeout: float, retries: int, per_minute: float | None
    ) -> None:
        self.url, self.model, self._key = url, model, key
        # The hook runs before every request that goes out, those that the client repeats included.
        http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [Pace(per_minute)]})
        self._client = openai.AsyncOpenAI(
            base_url=url, api_key=key or "none", timeout=timeout, max_retries=retries, http_client=http
        )

    async def ask(self, pictures: list[bytes], prompt: str, max_tokens: int, temperature: float) -> str:
        """The model's answer to a prompt about some PNGs.

        Raises:
            EndpointError: there is no answer.
        """
        # Pictures first: questions about one clip then share a prefix, which servers keep in their cache.
        content: list[Any] = [{"type": "image_url", "image_url": {"url": _data_url(png)}} for png in pictures]
        content.append({"type": "text", "text": prompt})
        try:
            completion = await self._client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": content}], max_tokens=max_tokens,
                temperature=temperature, seed=random.randrange(2**31) if temperature else 0,
            )  # fmt: skip
        except openai.OpenAIError as error:
            raise EndpointError(_kind(error), self._plain(error)) from None
        except (ValueError, TypeError, KeyError, AttributeError, LookupError) as error:
            # A body that is not JSON, or not UTF-8, comes up unwrapped from the client's depths.
            raise EndpointError("question", self._plain(error, "the answer cannot be read")) from None
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise EndpointError("question", f"the answer is no chat completion: {self._scrubbed(str(completion))}")
        choice = completion.choices[0]
        text = choice.message.content if choice.message else None
        if choice.finish_reason == "length":
            raise EndpointError("question", f"the answer was cut off after {max_tokens} tokens: {(text or '')[-60:]!r}")
        return text or ""

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _plain(self, error: Exception, what: str = "") -> str:
        if isinstance(error, openai.APITimeoutError):
            return f"{self.url}: no answer in time; raise timeout=, or lower concurrency="
        if isinstance(error, openai.APIConnectionError):
            reason = error.__cause__ or error
            return f"{self.url}: cannot be reached ({self._scrubbed(str(reason))}); is the server running there?"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return (
                f"{self.url}: the API key was not accepted ({error.status_code}); set the variable api_key_env= names"
            )
        if isinstance(error, openai.NotFoundError):
            return f"{self.url}: no model {self.model!r}, or no API at this path: {self._scrubbed(error.response.text)}"
        said = f"{error} {error.response.text}" if isinstance(error, openai.APIStatusError) else str(error)
        return f"{self.url}: {what or type(error).__name__}: {self._scrubbed(said)}"

    def _scrubbed(self, text: str) -> str:
        """A message of bounded length, without the key, which servers may repeat."""
        text = text.replace(self._key, "[key]") if self._key else text
        return " ".join(text.split())[:300]


def _kind(error: openai.OpenAIError) -> str:
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError):
        return "refused"
    if isinstance(error, openai.APIConnectionError | openai.RateLimitError | openai.InternalServerError):
        return "down"
    return "question"


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
