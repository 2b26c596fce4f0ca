"""Where a value came from: its labels, the steps that gave it, and the words around it there.

Rules of the file:
- What is shown is data of others: whoever renders it escapes it, and follows no link in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from planner.core.attest import attest
from planner.core.catalog import Callee
from planner.core.labels import Frozen, Json, Label, Labelled, leaves_of
from planner.core.plan import StepPath
from planner.core.run import Run

AROUND = 60
"""Characters shown on each side of a value where it was found: about a line of a terminal in all."""


class Excerpt(Frozen):
    """A piece of what a step gave, in which a value stands: `before`, the `value` itself, `after`.

    Of an attachment `step` is `attachment`, and `callee` its name.
    """

    step: StepPath
    callee: str
    before: str
    value: str
    after: str


class Origin(Frozen):
    """The label of a value, and where it stands in what earlier steps gave."""

    label: Label
    excerpts: tuple[Excerpt, ...] = ()


def labelled(run: Run, path: StepPath, callee: Callee, value: Json) -> Labelled:
    """What the call at `path` gave, with its labels."""
    given = run.step(path).arguments or Labelled(value={})
    return attest(callee, given, value, path=path, principal=run.started.principal.name)


def origins(run: Run, arguments: Labelled) -> Mapping[str, Origin]:
    """Of each argument of a call where it came from."""
    given = arguments.value if isinstance(arguments.value, dict) else {}
    return {name: _origin(run, arguments.at((name,))) for name in given}


def _origin(run: Run, value: Labelled) -> Origin:
    wanted = [leaf for _, leaf, _ in leaves_of(value) if isinstance(leaf, str | int | float) and leaf != ""]
    label = value.overall()
    if label.readers is not None and run.started.principal.name not in label.readers:
        return Origin(label=label)
    found: dict[Excerpt, None] = {}
    for path, callee, texts in _sources(run, label):
        for leaf in wanted:
            for excerpt in _found(path, callee, str(leaf), texts):
                found.setdefault(excerpt)
    return Origin(label=label, excerpts=tuple(found))


def _sources(run: Run, label: Label) -> Iterator[tuple[StepPath, str, list[str]]]:
    """What the sources gave: finished steps, named as `path:callee`, and attachments, as `attachment:name`."""
    attached = {one.name: one.text for one in run.started.attachments}
    for source in sorted(label.sources):
        place, _, name = source.partition(":")
        result = run.step(place).value
        if place == "attachment" and name in attached:
            yield place, name, [attached[name]]
        elif name and result is not None:
            yield place, name, [str(leaf) for _, leaf, _ in leaves_of(result)]


def _found(path: StepPath, callee: str, wanted: str, texts: list[str]) -> Iterator[Excerpt]:
    """The first place where the text stands."""
    for text in texts:
        at = text.find(wanted)
        if at >= 0:
            end = at + len(wanted)
            before, after = text[max(0, at - AROUND) : at], text[end : end + AROUND]
            yield Excerpt(step=path, callee=callee, before=before, value=wanted, after=after)
            return
