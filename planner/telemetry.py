"""Journal events become OpenTelemetry spans and metrics; off unless an endpoint is configured.

Rules of the file:
- Everything is derived from events: spans take their times from the journal and their ids from the run, so a
  run can be exported later, or again, and gives the same trace.
- Nothing of OpenTelemetry is imported before a `Telemetry` is made.
- Goals, arguments and results leave only with `content`, and even then only what anybody may read.
- No secret leaves, also not of a run that was recorded before it was known as one.
- Names follow the GenAI semantic conventions (status: development) as of November 2026, with OpenInference's
  beside them for tools that draw them. They stand in the table below and nowhere else.

    invoke_workflow                  a run
    ├── plan                         one answer of the planner
    │   └── chat
    ├── execute_tool                 one attempt of a step
    ├── invoke_agent                 the same, where the callee is an agent
    │   └── chat
    └── chat                         a judgement of the result
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Literal, TypeAlias

from planner.config import Export
from planner.core.catalog import CalleeKind
from planner.core.events import (
    Event,
    Fault,
    PlanAccepted,
    PlannerFailed,
    PlanProposed,
    Recorded,
    ReviewFailed,
    ReviewInconclusive,
    RunFinished,
    RunStarted,
    StepFailed,
    StepInDoubt,
    StepResolved,
    StepStarted,
    StepSucceeded,
    Usage,
)
from planner.core.labels import Labelled
from planner.core.plan import Plan, StepPath, split_path
from planner.core.redaction import NO_SECRETS, Redactor

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

Scalar: TypeAlias = str | int | float
Operation: TypeAlias = Literal["invoke_workflow", "plan", "chat", "execute_tool", "invoke_agent"]

# ---- the names ---------------------------------------------------------------------------------------------

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
WORKFLOW = "gen_ai.workflow.name"  # never the goal's text: few values, and no content
AGENT = "gen_ai.agent.name"
TOOL = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"
CALL_ID = "gen_ai.tool.call.id"
ARGUMENTS = "gen_ai.tool.call.arguments"
RESULT = "gen_ai.tool.call.result"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
DIRECTION = "gen_ai.token.type"
ERROR = "error.type"

TOKENS = "gen_ai.client.token.usage"
DURATIONS: Mapping[Operation, str] = {
    "chat": "gen_ai.client.operation.duration",
    "execute_tool": "gen_ai.execute_tool.duration",
    "invoke_agent": "gen_ai.invoke_agent.duration",
    "invoke_workflow": "gen_ai.workflow.duration",
}
DIMENSIONS = frozenset({OPERATION, PROVIDER, MODEL, WORKFLOW, AGENT, TOOL, ERROR})
"""The attributes of a span that its metrics carry: those with few values."""
SECONDS_BUCKETS = tuple(0.01 * 2**n for n in range(14))  # both as the conventions advise
TOKEN_BUCKETS = tuple(4.0**n for n in range(14))

OPENINFERENCE: Mapping[Operation, str] = {
    "invoke_workflow": "CHAIN",
    "plan": "CHAIN",
    "chat": "LLM",
    "execute_tool": "TOOL",
    "invoke_agent": "AGENT",
}
PROVIDERS: Mapping[str, str] = {  # where the conventions' name is not litellm's
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
FAMILIES: Mapping[str, str] = {"gpt-": "openai", "claude-": "anthropic", "gemini-": "gcp.gemini"}
OTHER = "_OTHER"  # the conventions' word for what has no name

UNHAPPY = frozenset({"rejected", "denied", "failed", "over_budget"})
MARKS = 128  # span events on a run's span, as many as OpenTelemetry's own default allows
CLOSE_S = 5.0  # enough for a receiver that answers; one that does not must not keep a person waiting
CONTENT_CHARS = 8_192  # of one attribute; receivers commonly cut or refuse much longer ones


# ---- events to spans ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mark:
    name: str
    at: datetime
    attributes: Mapping[str, Scalar]


@dataclass(frozen=True)
class _Span:
    """A finished operation; `key` is unique in the run, and the run's own is empty."""

    operation: Operation
    subject: str
    key: str
    parent: str | None
    start: datetime
    end: datetime
    attributes: Mapping[str, Scalar]
    is_remote: bool = False
    marks: Sequence[_Mark] = ()

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()


@dataclass
class _Run:
    """What must be remembered of a run until its spans can be told."""

    id: str
    name: str
    content: bool
    goal: str
    began: datetime
    last: datetime
    kinds: Mapping[str, CalleeKind]
    plan: Plan | None
    arguments: dict[StepPath, Labelled] = field(default_factory=dict)
    calls: dict[StepPath, tuple[StepStarted, datetime]] = field(default_factory=dict)
    usage: list[Usage] = field(default_factory=list)
    marks: list[_Mark] = field(default_factory=list)
    reviews: int = 0

    def spans(self, event: Event, at: datetime) -> Iterator[_Span]:
        """The spans that end with the event."""
        match event:
            case PlanProposed() | PlannerFailed():
                yield from self._planned(event, at)
            case PlanAccepted():
                self.plan = event.plan
            case StepResolved():
                if self.content:
                    self.arguments[event.path] = event.arguments
            case StepStarted():
                self.calls[event.path] = (event, at)
            case StepSucceeded() | StepFailed() | StepInDoubt() if event.path in self.calls:
                yield from self._called(event, at)
            case StepSucceeded():
                pass  # computed, not called
            case ReviewFailed() | ReviewInconclusive():
                self._mark(event, at)
                self.reviews += 1
                yield from self._chats(event.usage, "", f"review/{self.reviews}", at - _together(event.usage))
            case RunFinished():
                yield self._finished(event, at)
            case _:
                self._mark(event, at)
        self.last = at

    def _planned(self, event: PlanProposed | PlannerFailed, at: datetime) -> Iterator[_Span]:
        key = f"plan/{event.revision}/{event.attempt}"
        attributes: dict[str, Scalar] = {
            AGENT: "planner",
            "planner.plan.revision": event.revision,
            "planner.plan.attempt": event.attempt,
        }
        if isinstance(event, PlannerFailed):
            attributes |= _error(event.fault)
            used = event.usage
        else:
            attributes |= {"planner.prompt.hash": event.prompt_hash}
            if event.plan is None:
                attributes[ERROR] = "invalid"
            used = (event.usage,) if event.usage.model else ()
        yield from self._chats(used, key, key, at - _together(used))
        yield _Span("plan", "planner", key, "", self.last, at, attributes)

    def _called(self, event: StepSucceeded | StepFailed | StepInDoubt, at: datetime) -> Iterator[_Span]:
        started, began = self.calls.pop(event.path)
        key = f"{event.path}#{started.attempt}"
        callee = self._callee(event.path)
        kind = self.kinds.get(callee, "tool")
        attributes: dict[str, Scalar] = {
            "planner.step.path": event.path,
            "planner.step.attempt": started.attempt,
            "graph.node.id": event.path,
        }
        match event:
            case StepSucceeded():
                attributes |= self._content(RESULT, event.value)
            case StepFailed():
                attributes |= _error(event.fault)
            case StepInDoubt():
                attributes |= {ERROR: "in_doubt"}
        used = () if isinstance(event, StepInDoubt) else event.usage
        if kind == "agent":
            provider = provider_of(used[0].model) if used else OTHER
            attributes |= {AGENT: callee.removeprefix("agent."), PROVIDER: provider}
        else:
            attributes |= {TOOL: callee, TOOL_TYPE: "function", CALL_ID: started.key, "tool.name": callee}
        if event.path in self.arguments:
            attributes |= self._content(ARGUMENTS, self.arguments[event.path])
        yield from self._chats(used, key, key, began)
        operation: Operation = "invoke_agent" if kind == "agent" else "execute_tool"
        subject = str(attributes[AGENT if kind == "agent" else TOOL])
        yield _Span(operation, subject, key, "", began, at, attributes, is_remote=kind == "remote")

    def _callee(self, path: StepPath) -> str:
        step = self.plan.step(split_path(path)[0]) if self.plan else None
        return step.use if step and step.use else OTHER

    def _chats(self, used: Iterable[Usage], parent: str, key: str, began: datetime) -> Iterator[_Span]:
        """One span per model call, laid one after the other: the journal keeps how long each took."""
        for number, usage in enumerate(used):
            self.usage.append(usage)
            ended = began + timedelta(seconds=usage.seconds)
            attributes: dict[str, Scalar] = {
                PROVIDER: provider_of(usage.model),
                MODEL: usage.model,
                INPUT_TOKENS: usage.input_tokens,
                OUTPUT_TOKENS: usage.output_tokens,
                CACHED_TOKENS: usage.cached_tokens,
                "llm.model_name": usage.model,
                "llm.token_count.prompt": usage.input_tokens,
                "llm.token_count.completion": usage.output_tokens,
            }
            yield _Span("chat", usage.model, f"{key}/{number}", parent, began, ended, attributes | _cost([usage]))
            began = ended

    def _finished(self, event: RunFinished, at: datetime) -> _Span:
        attributes: dict[str, Scalar] = {
            WORKFLOW: self.name,
            "planner.run.id": self.id,
            "planner.run.status": event.status,
            "planner.run.degraded": len(event.degraded),
        }
        attributes |= _cost(self.usage)
        attributes |= self._content("planner.goal", Labelled(value=self.goal))
        attributes |= self._content("planner.result", event.result)
        if event.fault is not None:
            attributes |= _error(event.fault)
        elif event.status in UNHAPPY:
            attributes |= {ERROR: event.status}
        return _Span("invoke_workflow", self.name, "", None, self.began, at, attributes, marks=self.marks)

    def _mark(self, event: Event, at: datetime) -> None:
        if len(self.marks) < MARKS:
            path: StepPath | None = getattr(event, "path", None)
            attributes: dict[str, Scalar] = {"planner.step.path": path} if path else {}
            if isinstance(event, StepFailed):  # refused, so there was no call to tell of
                attributes |= _error(event.fault)
            self.marks.append(_Mark(event.type, at, attributes))

    def _content(self, name: str, value: Labelled) -> dict[str, Scalar]:
        """The value as an attribute, if content is wanted and anybody may read it: a receiver is a reader."""
        if not self.content:
            return {}
        if value.overall().readers is not None:
            return {f"{name}.withheld": "not everybody may read it"}
        text = value.value if isinstance(value.value, str) else json.dumps(value.value, ensure_ascii=False)
        return {name: text[:CONTENT_CHARS]}


def _together(used: Iterable[Usage]) -> timedelta:
    return timedelta(seconds=sum(usage.seconds for usage in used))


def _error(fault: Fault) -> dict[str, Scalar]:
    """The fault without its message, which may quote what only some may read."""
    return {ERROR: fault.error_class, "planner.error.code": fault.code}


def _cost(used: Sequence[Usage]) -> dict[str, Scalar]:
    """What is known of the cost; calls without a known price are counted, never taken for free."""
    known = [usage.cost_usd for usage in used if usage.cost_usd is not None]
    unknown = len(used) - len(known)
    cost: dict[str, Scalar] = {"planner.cost.usd": sum(known), "llm.cost.total": sum(known)} if known else {}
    return cost | ({"planner.cost.unknown_calls": unknown} if unknown else {})


def provider_of(model: str) -> str:
    """The conventions' name of a model's provider, from the model's name alone."""
    head, slash, _ = model.partition("/")
    if slash:
        return PROVIDERS.get(head, head)
    return next((name for family, name in FAMILIES.items() if model.startswith(family)), OTHER)


# ---- spans to OpenTelemetry --------------------------------------------------------------------------------


class Telemetry:
    """Reads events, exports what they say, and holds the exporters until `close`.

    Metrics cannot be backdated: they count what this process observes, when it does.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        reader: MetricReader,
        *,
        name: str,
        content: bool = False,
        redactor: Redactor = NO_SECRETS,
    ) -> None:
        """`name` is the assistant's: what its runs are called."""
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._name, self._content, self._is_closed = name, content, False
        self._redactor = redactor
        self._runs: dict[str, _Run] = {}
        resource = Resource.create()
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "planner"}))
        self._resource = resource
        # Exporting an old run brings thousands of spans at once; a full queue would drop some.
        self._spans: SpanProcessor = BatchSpanProcessor(exporter, max_queue_size=65_536)
        self._meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        meter = self._meters.get_meter("planner")
        self._durations = {
            operation: meter.create_histogram(metric, unit="s", explicit_bucket_boundaries_advisory=SECONDS_BUCKETS)
            for operation, metric in DURATIONS.items()
        }
        self._tokens = meter.create_histogram(
            TOKENS, unit="{token}", explicit_bucket_boundaries_advisory=TOKEN_BUCKETS
        )

    @classmethod
    def open(cls, export: Export, *, name: str, redactor: Redactor = NO_SECRETS) -> Telemetry | None:
        """An exporter to the configured OTLP/HTTP endpoint; None if there is none."""
        if export.endpoint is None:
            return None
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        base = export.endpoint.rstrip("/")
        exporter = OTLPSpanExporter(f"{base}/v1/traces")
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{base}/v1/metrics"))
        return cls(exporter, reader, name=name, content=export.content, redactor=redactor)

    def observe(self, recorded: Recorded) -> None:
        """Takes in one event; a run whose first event was not seen is left alone, and after `close` all are."""
        if self._is_closed:
            return
        event, at = self._redactor.clean(recorded.event), recorded.at
        if isinstance(event, RunStarted):
            self._runs[recorded.run_id] = _Run(
                id=recorded.run_id,
                name=self._name,
                content=self._content,
                goal=event.goal,
                began=at,
                last=at,
                kinds={callee.name: callee.kind for callee in event.setup.callees},
                plan=event.plan,
            )
            return
        run = self._runs.get(recorded.run_id)
        if run is None:
            return
        for span in run.spans(event, at):
            self._spans.on_end(_readable(span, run.id, self._resource))
            self._measure(span)
        if isinstance(event, RunFinished):
            del self._runs[recorded.run_id]

    def _measure(self, span: _Span) -> None:
        said = {OPERATION: span.operation, **span.attributes}
        dimensions = {name: value for name, value in said.items() if name in DIMENSIONS}
        if span.operation in self._durations:
            self._durations[span.operation].record(span.seconds, dimensions)
        if span.operation == "chat":
            for kind, name in (("input", INPUT_TOKENS), ("output", OUTPUT_TOKENS)):
                self._tokens.record(int(span.attributes[name]), {**dimensions, DIRECTION: kind})

    def close(self, *, within_s: float = CLOSE_S) -> None:
        """Sends what is left, or gives up on it. A run under way is told by whoever sees it finish."""
        if self._is_closed:
            return
        self._is_closed = True
        closing = [Thread(target=part.shutdown, daemon=True) for part in (self._spans, self._meters)]
        for thread in closing:
            thread.start()
        deadline = monotonic() + within_s
        for thread in closing:
            thread.join(max(0.0, deadline - monotonic()))


def _readable(span: _Span, run_id: str, resource: Resource) -> ReadableSpan:
    """The span as the SDK's exporters want it, with ids made from the run's."""
    from opentelemetry.sdk.trace import Event as SpanEvent
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(key: str) -> SpanContext:
        trace, place = _id(run_id, size=16), _id(f"{run_id} {key}", size=8)
        return SpanContext(trace, place, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    kind = OPENINFERENCE[span.operation]
    failed = ERROR in span.attributes
    return ReadableSpan(
        name=f"{span.operation} {span.subject}",
        context=context(span.key),
        parent=None if span.parent is None else context(span.parent),
        resource=resource,
        attributes={OPERATION: span.operation, "openinference.span.kind": kind, **span.attributes},
        events=[SpanEvent(mark.name, mark.attributes, _nanoseconds(mark.at)) for mark in span.marks],
        kind=SpanKind.CLIENT if span.operation == "chat" or span.is_remote else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
        start_time=_nanoseconds(span.start),
        end_time=_nanoseconds(span.end),
        instrumentation_scope=InstrumentationScope("planner"),
    )


def _id(text: str, *, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big")


def _nanoseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
