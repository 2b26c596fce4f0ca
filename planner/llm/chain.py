"""A chain of models: where one cannot be had, the next one is asked.

Rules of the file:
- The next model is asked for what is the fault of a model or of the way to it, and for what was too much for it;
  never for what is wrong with the question.
- What models used before they failed is part of the answer, or of the error: nothing that was paid for is lost.
- A model that keeps failing is left alone for a while, in all chains that it is a link of.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import TypeVar

from planner.core.circuit import Circuit, after, begun, permits
from planner.core.ledger import Rate
from planner.errors import ModelError
from planner.llm.faults import KEY, NO_CREDIT, NO_PACKAGE, TOO_LONG, UNKNOWN
from planner.llm.model import Ask, CallError, Completion, Model, Priced, Profile, T, joined

R = TypeVar("R")
Clock = Callable[[], float]
"""Seconds that never go back."""

ITS_OWN = frozenset(cause.code for cause in (KEY, NO_CREDIT, NO_PACKAGE, UNKNOWN))
"""Faults of one model that do not pass by themselves, and that another model need not have."""


class AbsentError(CallError):
    """A model was not even asked: it could not be reached or started, or it is left alone."""


class Link:
    """A model as a part of chains: reached or started when it is first asked, left alone when it keeps failing."""

    def __init__(
        self,
        name: str,
        profile: Profile,
        reach: Callable[[], Awaitable[Model]],
        *,
        reached: Model | None = None,
    ) -> None:
        self.name = name
        self.profile = profile
        self._reach = reach
        self._reached = reached
        self._circuit = Circuit()

    @classmethod
    def to(cls, model: Model) -> Link:
        """A link to a model that is there."""

        async def reach() -> Model:
            return model

        return cls(model.name, model.profile, reach, reached=model)

    async def model(self) -> Model:
        """The model. Raises `AbsentError` if it cannot be reached or started."""
        try:
            model = self._reached = await self._reach()
        except ModelError as error:
            absent = _copied(error, AbsentError)
        else:
            return model
        raise absent

    @contextmanager
    def attempt(self, clock: Clock) -> Iterator[None]:
        """Counts how asking the model ends. Raises `AbsentError` M-118 while it is left alone."""
        permitted = permits(self._circuit, clock())
        if permitted is not True:
            raise self._left_alone(permitted)
        self._circuit = begun(self._circuit)
        is_fine: bool | None = None
        try:
            yield
            is_fine = True
        except ModelError as error:
            is_fine = not is_its_own(error)
            raise
        finally:
            self._circuit = after(self._circuit, clock(), ok=is_fine)

    async def close(self) -> None:
        """Closes the model if it was reached."""
        if self._reached is not None:
            await self._reached.close()

    def _left_alone(self, rest_s: float) -> AbsentError:
        failures = self._circuit.failures
        return AbsentError(
            "M-118",
            f"model `{self.name}` failed {failures} times in a row, and is left alone for {rest_s:.0f} s more",
            hint="Wait, or name another model.",
            retry_after_s=rest_s,
        )


class Chain:
    """A model made of models: the first that can be had answers.

    `profile` is the most careful of all, for whoever asks cannot know who will answer. Each model tries again what
    may pass, as it does outside of a chain, before the next one is asked.
    """

    def __init__(self, first: Model | Link, *others: Model | Link, clock: Clock = time.monotonic) -> None:
        self._links = tuple(one if isinstance(one, Link) else Link.to(one) for one in (first, *others))
        self._clock = clock
        self.name = self._links[0].name
        self.profile = most_careful([link.profile for link in self._links])

    async def ready(self) -> None:
        """Reaches or starts the first model that can be had. Raises `ModelError` if there is none."""
        failed: list[ModelError] = []
        for link in self._links:
            try:
                await link.model()
            except ModelError as error:
                failed.append(error)
            else:
                return
        raise _nobody(failed)

    async def complete(self, ask: Ask) -> Completion:
        """The first answer that is to be had; its usage names who gave it, and counts what others used too.

        Raises `ModelError`: M-117 if no model could be asked, else why the last one that was asked gave no answer.
        """
        answer, used = await self._asked(lambda model: model.complete(ask))
        for earlier in reversed(used):
            answer = joined(earlier, answer)
        return answer

    async def typed(self, ask: Ask, response_model: type[T]) -> tuple[T, tuple[Completion, ...]]:
        """The first answer that is to be had, and every completion that it took, of whichever model."""
        (answer, tries), used = await self._asked(lambda model: model.typed(ask, response_model))
        return answer, (*used, *tries)

    async def rate(self) -> Rate:
        """The highest price of all models; unknown if one is."""
        return dearest([await rate_of(await link.model()) for link in self._links])

    async def close(self) -> None:
        """Closes the models, also where closing one of them fails."""
        async with AsyncExitStack() as closing:
            for link in self._links:
                closing.push_async_callback(link.close)

    async def _asked(self, work: Callable[[Model], Awaitable[R]]) -> tuple[R, tuple[Completion, ...]]:
        """What the first model gives that can be had, and what the ones before it used."""
        failed: list[ModelError] = []
        used: tuple[Completion, ...] = ()
        unable: ModelError | None = None
        narrow: list[Profile] = []
        for link in self._links:
            if not all(_may_be_wider(link.profile, profile) for profile in narrow):
                continue
            try:
                with link.attempt(self._clock):
                    return await work(await link.model()), used
            except ModelError as error:
                failure = error
            used += failure.completions if isinstance(failure, CallError) else ()
            if is_its_own(failure):
                failed.append(failure)
                continue
            unable = failure
            if failure.error_class != "limit":
                break
            narrow += [link.profile] if failure.code == TOO_LONG.code else []
        # Raised here and not above, so that one model's error does not drag those of others along.
        raise _carrying(unable or _nobody(failed), used)


def is_its_own(error: ModelError) -> bool:
    """Whether the fault is the model's, or the way's to it, so that another one need not have it."""
    return isinstance(error, AbsentError) or error.error_class == "unavailable" or error.code in ITS_OWN


def most_careful(profiles: Sequence[Profile]) -> Profile:
    """What can be asked of each of them."""
    renderings = {profile.rendering for profile in profiles}
    windows = [profile.context_tokens for profile in profiles if profile.context_tokens is not None]
    return Profile(
        rendering=renderings.pop() if len(renderings) == 1 else "plain",
        can_judge=all(profile.can_judge for profile in profiles),
        context_tokens=min(windows, default=None),
        max_output_tokens=min(profile.max_output_tokens for profile in profiles),
    )


async def rate_of(model: Model) -> Rate:
    """What the model costs; unknown if it does not say."""
    return await model.rate() if isinstance(model, Priced) else Rate()


def dearest(rates: Sequence[Rate]) -> Rate:
    """The highest of each price; unknown if one is."""

    def highest(prices: Iterable[float | None]) -> float | None:
        known = [price for price in prices if price is not None]
        return max(known) if len(known) == len(rates) else None

    return Rate(
        input_usd=highest(rate.input_usd for rate in rates),
        output_usd=highest(rate.output_usd for rate in rates),
    )


def _may_be_wider(profile: Profile, than: Profile) -> bool:
    """Whether a model may read what was too long for another; a window that nobody knows may be larger."""
    if profile.context_tokens is None or than.context_tokens is None:
        return True
    return profile.context_tokens > than.context_tokens


def _nobody(failed: Sequence[ModelError]) -> ModelError:
    """The error when no model could be had; the only one's own if there is only one."""
    if len(failed) == 1:
        return failed[0]
    passing = [error.retry_after_s for error in failed if error.error_class == "unavailable"]
    known = [seconds for seconds in passing if seconds is not None]
    return CallError(
        "M-117",
        "none of the models could be asked: " + "; ".join(f"[{error.code}] {error.message}" for error in failed),
        hint="Wait until one is back, set right what is wrong with them, or add a model to the chain.",
        error_class="unavailable" if passing else failed[0].error_class,
        retry_after_s=min(known) if known and len(known) == len(passing) else None,
    )


def _carrying(error: ModelError, used: tuple[Completion, ...]) -> ModelError:
    """The error, with what was used by all that were asked."""
    if isinstance(error, CallError):
        error.completions = used
        return error
    return _copied(error, CallError, used) if used else error


def _copied(error: ModelError, kind: type[CallError], used: tuple[Completion, ...] = ()) -> CallError:
    return kind(
        error.code,
        error.message,
        hint=error.hint,
        error_class=error.error_class,
        retry_after_s=error.retry_after_s,
        completions=used,
    )
