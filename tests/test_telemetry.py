"""A run's events become one trace and its metrics; content and errors' texts stay at home."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from planner.config import Export
from planner.core.catalog import Callee
from planner.core.check import Certificate
from planner.core.events import (
    Event,
    Fault,
    HumanAnswered,
    HumanAsked,
    PlanAccepted,
    PlannerFailed,
    PlanProposed,
    PlanRejected,
    Recorded,
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
from planner.core.labels import TRUSTED, Label, Labelled
from planner.core.ledger import Budget
from planner.core.plan import Plan, Step
from planner.core.policy import Policy, Principal
from planner.core.setup import Setup
from planner.telemetry import Telemetry, provider_of

BEGAN = datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=UTC)
GOAL = "Mail the secret recipe to Bob"
SETUP = Setup(
    callees=(
        Callee(name="files.read", summary="Read"),
        Callee(name="agent.writer", kind="agent", summary="Write"),
    ),
    policy=Policy(),
    budget=Budget(),
)
PLAN = Plan(
    steps=(
        Step(id="s1", use="files.read", args={"path": "a.txt"}),
        Step(id="s2", use="agent.writer", for_each="$s1"),
        Step(id="s3", let="${1}"),
    )
)
PLANNED = Usage(
    model="openai/gpt-5-mini", input_tokens=100, output_tokens=20, cached_tokens=60, cost_usd=0.5, seconds=2
)
WROTE = Usage(model="local", input_tokens=7, output_tokens=9, seconds=1)
FAULT = Fault(code="T-201", error_class="unavailable", message="the recipe is saffron")
STARTED = RunStarted(goal=GOAL, principal=Principal(), setup=SETUP)
ACCEPTED = PlanAccepted(revision=1, plan=PLAN, certificate=Certificate())


def journal(*events: Event, run_id: str = "r1") -> list[Recorded]:
    """The events, three seconds apart."""
    return [
        Recorded(seq=n, run_id=run_id, run_seq=n, at=BEGAN + timedelta(seconds=3 * (n - 1)), event=event)
        for n, event in enumerate(events, start=1)
    ]


RUN = journal(
    STARTED,
    PlanRejected(revision=1, attempt=1, problems=()),
    PlanProposed(revision=1, attempt=2, plan=PLAN, usage=PLANNED, prompt_hash="ab"),
    ACCEPTED,
    StepResolved(path="s1", arguments=Labelled(value={"path": "a.txt"})),
    StepStarted(path="s1", attempt=1, key="k1"),
    StepFailed(path="s1", attempt=1, fault=FAULT),
    StepStarted(path="s1", attempt=2, key="k1"),
    StepSucceeded(path="s1", value=Labelled(value=["saffron"])),
    StepStarted(path="s2[0]", attempt=1, key="k2"),
    StepSucceeded(path="s2[0]", value=Labelled(value="Dear Bob"), usage=(WROTE, WROTE)),
    StepSucceeded(path="s3", value=Labelled(value=1)),
    ReviewInconclusive(criteria=("c1",), usage=(WROTE,)),
    RunFinished(status="unverified", result=Labelled(value="Dear Bob")),
)


class Exported:
    """What the SDK's own in-memory exporters received."""

    def __init__(self, records: Sequence[Recorded], *, content: bool = False) -> None:
        spans, metrics = InMemorySpanExporter(), InMemoryMetricReader()
        telemetry = Telemetry(spans, metrics, name="desk", content=content)
        for recorded in records:
            telemetry.observe(recorded)
        data = metrics.get_metrics_data()
        telemetry.close()
        self.spans = spans.get_finished_spans()
        self.metrics: dict[str, list[Any]] = {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def span(self, name: str) -> ReadableSpan:
        (found,) = self.named(name)
        return found

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def tree(self) -> set[tuple[str, str | None]]:
        names = {span.context.span_id: span.name for span in self.spans}
        return {(s.name, names[s.parent.span_id] if s.parent else None) for s in self.spans}


def said(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def seconds(span: ReadableSpan) -> tuple[float, float]:
    """Start and end, from the beginning of the run."""
    zero = int(BEGAN.timestamp()) * 10**9 + 250_000
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.start_time - zero) / 1e9, (span.end_time - zero) / 1e9


# ---- spans -------------------------------------------------------------------------------------------------


def test_a_run_is_one_trace_with_the_conventions_names() -> None:
    exported = Exported(RUN)
    assert exported.tree() == {
        ("invoke_workflow desk", None),
        ("plan planner", "invoke_workflow desk"),
        ("chat openai/gpt-5-mini", "plan planner"),
        ("execute_tool files.read", "invoke_workflow desk"),
        ("invoke_agent writer", "invoke_workflow desk"),
        ("chat local", "invoke_agent writer"),
        ("chat local", "invoke_workflow desk"),
    }
    assert len({span.context.trace_id for span in exported.spans}) == 1
    assert len({span.context.span_id for span in exported.spans}) == len(exported.spans) == 9
    assert {s.name for s in exported.spans if s.kind is SpanKind.CLIENT} == {
        "chat openai/gpt-5-mini",
        "chat local",
    }


def test_a_span_takes_its_times_from_the_journal() -> None:
    exported = Exported(RUN)
    assert seconds(exported.span("invoke_workflow desk")) == (0, 39)
    assert seconds(exported.span("plan planner")) == (3, 6)
    assert seconds(exported.span("chat openai/gpt-5-mini")) == (4, 6)
    assert [seconds(span) for span in exported.named("execute_tool files.read")] == [(15, 18), (21, 24)]
    assert seconds(exported.span("invoke_agent writer")) == (27, 30)
    assert [seconds(span) for span in exported.named("chat local")] == [(27, 28), (28, 29), (35, 36)]


def test_every_operation_says_what_it_was() -> None:
    exported = Exported(RUN)
    chat = said(exported.span("chat openai/gpt-5-mini"))
    assert chat["gen_ai.operation.name"] == "chat"
    assert chat["gen_ai.provider.name"] == "openai"
    assert chat["gen_ai.request.model"] == "openai/gpt-5-mini"
    assert (chat["gen_ai.usage.input_tokens"], chat["gen_ai.usage.output_tokens"]) == (100, 20)
    assert chat["gen_ai.usage.cache_read.input_tokens"] == 60
    assert chat["planner.cost.usd"] == chat["llm.cost.total"] == 0.5
    plan = said(exported.span("plan planner"))
    assert (plan["planner.plan.revision"], plan["planner.plan.attempt"]) == (1, 2)
    assert plan["planner.prompt.hash"] == "ab"
    agent = said(exported.span("invoke_agent writer"))
    assert (agent["gen_ai.agent.name"], agent["planner.step.path"]) == ("writer", "s2[0]")
    tool = said(exported.named("execute_tool files.read")[1])
    assert (tool["gen_ai.tool.name"], tool["gen_ai.tool.call.id"]) == ("files.read", "k1")
    assert "error.type" not in tool
    run = said(exported.span("invoke_workflow desk"))
    assert (run["gen_ai.workflow.name"], run["planner.run.status"]) == ("desk", "unverified")
    assert (run["planner.cost.usd"], run["planner.cost.unknown_calls"]) == (0.5, 3)
    assert "error.type" not in run
    assert {said(span)["openinference.span.kind"] for span in exported.spans} == {
        "AGENT",
        "CHAIN",
        "LLM",
        "TOOL",
    }


def test_an_error_is_told_by_its_class_and_never_by_its_text() -> None:
    exported = Exported(RUN)
    failed = exported.named("execute_tool files.read")[0]
    assert said(failed)["error.type"] == "unavailable"
    assert said(failed)["planner.error.code"] == "T-201"
    assert not failed.status.is_ok
    assert "saffron" not in "".join(span.to_json() for span in exported.spans)


@pytest.mark.parametrize(
    ("finished", "error"),
    [
        (RunFinished(status="completed"), None),
        (RunFinished(status="cancelled"), None),
        (RunFinished(status="denied"), "denied"),
        (RunFinished(status="failed", fault=FAULT), "unavailable"),
    ],
)
def test_a_run_that_did_not_reach_its_goal_is_an_error(finished: RunFinished, error: str | None) -> None:
    span = Exported(journal(STARTED, finished)).span("invoke_workflow desk")
    assert said(span).get("error.type") == error
    assert span.status.is_ok is (error is None)


def test_a_planner_that_fails_is_told() -> None:
    records = journal(
        STARTED,
        PlannerFailed(revision=1, attempt=1, fault=FAULT),
        PlanProposed(revision=1, attempt=2, plan=None, usage=PLANNED),
    )
    plans = Exported(records).named("plan planner")
    assert [said(span)["error.type"] for span in plans] == ["unavailable", "invalid"]


def test_a_call_in_doubt_is_told() -> None:
    started = StepStarted(path="s1", attempt=1, key="k")
    exported = Exported(journal(STARTED, ACCEPTED, started, StepInDoubt(path="s1", reason="saffron")))
    assert said(exported.span("execute_tool files.read"))["error.type"] == "in_doubt"


def test_what_was_asked_and_refused_stands_on_the_runs_span() -> None:
    denied = Fault(code="A-101", error_class="denied")
    records = journal(
        STARTED,
        HumanAsked(path="s1", question="approve", reason="saffron"),
        HumanAnswered(path="s1", answer="no", by="ann"),
        StepFailed(path="s1", fault=denied),
        RunFinished(status="denied"),
    )
    exported = Exported(records)
    marks = exported.span("invoke_workflow desk").events
    assert [mark.name for mark in marks] == ["HumanAsked", "HumanAnswered", "StepFailed"]
    assert dict(marks[2].attributes or {}) == {
        "planner.step.path": "s1",
        "error.type": "denied",
        "planner.error.code": "A-101",
    }
    assert "saffron" not in "".join(span.to_json() for span in exported.spans)


def test_a_run_that_makes_endless_noise_has_a_bounded_span() -> None:
    asked = HumanAsked(path="s1", question="approve", reason="")
    exported = Exported(journal(STARTED, *[asked] * 1000, RunFinished(status="denied")))
    assert len(exported.span("invoke_workflow desk").events) == 128


def test_exporting_a_run_again_gives_the_same_ids_and_another_run_gives_others() -> None:
    def ids(records: Sequence[Recorded]) -> list[tuple[int, int]]:
        return [(span.context.trace_id, span.context.span_id) for span in Exported(records).spans]

    assert ids(RUN) == ids(RUN)
    other = [recorded.model_copy(update={"run_id": "r2"}) for recorded in RUN]
    assert not set(ids(RUN)) & set(ids(other))


def test_runs_at_the_same_time_do_not_mix() -> None:
    other = [recorded.model_copy(update={"run_id": "r2"}) for recorded in RUN]
    mixed = [recorded for pair in zip(RUN, other, strict=True) for recorded in pair]
    alone = {span.to_json() for records in (RUN, other) for span in Exported(records).spans}
    assert {span.to_json() for span in Exported(mixed).spans} == alone


def test_a_run_whose_beginning_was_not_seen_is_left_alone() -> None:
    assert Exported(RUN[1:]).spans == ()


def test_a_long_old_run_loses_no_span() -> None:
    steps: list[Event] = []
    for n in range(3000):
        steps += [
            StepStarted(path=f"s1[{n}]", attempt=1, key=str(n)),
            StepSucceeded(path=f"s1[{n}]", value=Labelled()),
        ]
    exported = Exported(journal(STARTED, ACCEPTED, *steps, RunFinished(status="completed")))
    assert len(exported.spans) == 3001


# ---- content -----------------------------------------------------------------------------------------------


def test_no_content_leaves_unless_asked_for() -> None:
    everything = "".join(span.to_json() for span in Exported(RUN).spans)
    for word in ("recipe", "a.txt", "Dear Bob", "saffron"):
        assert word not in everything


def test_content_leaves_when_asked_for() -> None:
    exported = Exported(RUN, content=True)
    run = said(exported.span("invoke_workflow desk"))
    assert (run["planner.goal"], run["planner.result"]) == (GOAL, "Dear Bob")
    for tool in exported.named("execute_tool files.read"):
        assert json.loads(said(tool)["gen_ai.tool.call.arguments"]) == {"path": "a.txt"}
    assert json.loads(said(tool)["gen_ai.tool.call.result"]) == ["saffron"]
    assert GOAL not in run["gen_ai.workflow.name"]


def test_what_only_some_may_read_is_withheld_even_then() -> None:
    secret = Labelled(value={"a": "saffron"}, leaves=((("a",), Label(readers=frozenset({"ann"}))),))
    assert secret.label == TRUSTED
    exported = Exported(journal(STARTED, RunFinished(status="completed", result=secret)), content=True)
    run = said(exported.span("invoke_workflow desk"))
    assert "planner.result" not in run
    assert run["planner.result.withheld"] == "not everybody may read it"


def test_long_content_is_cut() -> None:
    finished = RunFinished(status="completed", result=Labelled(value="x" * 100_000))
    exported = Exported(journal(STARTED, finished), content=True)
    assert len(said(exported.span("invoke_workflow desk"))["planner.result"]) == 8192


# ---- metrics -----------------------------------------------------------------------------------------------


def test_durations_and_tokens_are_counted() -> None:
    metrics = Exported(RUN).metrics
    assert metrics.keys() == {
        "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage",
        "gen_ai.execute_tool.duration",
        "gen_ai.invoke_agent.duration",
        "gen_ai.workflow.duration",
    }
    tokens = {
        (p.attributes["gen_ai.request.model"], p.attributes["gen_ai.token.type"]): p.sum
        for p in metrics["gen_ai.client.token.usage"]
    }
    assert tokens == {
        ("openai/gpt-5-mini", "input"): 100,
        ("openai/gpt-5-mini", "output"): 20,
        ("local", "input"): 21,
        ("local", "output"): 27,
    }
    calls = {p.attributes.get("error.type"): p.sum for p in metrics["gen_ai.execute_tool.duration"]}
    assert calls == {None: 3, "unavailable": 3}
    assert [p.sum for p in metrics["gen_ai.workflow.duration"]] == [39]


def test_a_metric_has_few_dimensions() -> None:
    for points in Exported(RUN).metrics.values():
        for point in points:
            assert not {"planner.run.id", "planner.step.path", "gen_ai.tool.call.id"} & point.attributes.keys()


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("anthropic/claude-opus-5", "anthropic"),
        ("gemini/gemini-3-pro", "gcp.gemini"),
        ("gpt-5", "openai"),
        ("local", "_OTHER"),
    ],
)
def test_a_provider_has_the_conventions_name(model: str, provider: str) -> None:
    assert provider_of(model) == provider


# ---- a real receiver ---------------------------------------------------------------------------------------


class Receiver(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps it."""

    def __init__(self) -> None:
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    receiver.traces.append(ExportTraceServiceRequest.FromString(body))
                elif self.path == "/v1/metrics":
                    receiver.metrics.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_otlp_receiver_gets_the_run(receiver: Receiver) -> None:
    export = Export(endpoint=f"http://127.0.0.1:{receiver.server_port}/")
    telemetry = Telemetry.open(export, name="desk")
    assert telemetry is not None
    for recorded in RUN:
        telemetry.observe(recorded)
    telemetry.close()
    resources = [resource for request in receiver.traces for resource in request.resource_spans]
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert len(spans) == 9
    assert {a.value.string_value for r in resources for a in r.resource.attributes if a.key == "service.name"} == {
        "planner"
    }
    (root,) = (span for span in spans if span.name == "invoke_workflow desk")
    assert root.start_time_unix_nano == int(BEGAN.timestamp()) * 10**9 + 250_000
    names = {m.name for q in receiver.metrics for r in q.resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert "gen_ai.client.token.usage" in names


def test_closing_is_for_good_and_may_be_done_again() -> None:
    spans = InMemorySpanExporter()
    telemetry = Telemetry(spans, InMemoryMetricReader(), name="desk")
    telemetry.close()
    for recorded in RUN:
        telemetry.observe(recorded)
    telemetry.close()
    assert spans.get_finished_spans() == ()


def test_without_an_endpoint_there_is_no_telemetry() -> None:
    assert Telemetry.open(Export(), name="desk") is None


def test_a_receiver_that_is_down_neither_breaks_a_run_nor_holds_up_its_end() -> None:
    with Receiver() as server:
        port = server.server_port
    least = float("inf")
    for _ in range(5):  # a busy machine only ever adds
        telemetry = Telemetry.open(Export(endpoint=f"http://127.0.0.1:{port}"), name="desk")
        assert telemetry is not None
        began = time.monotonic()
        for recorded in RUN:
            telemetry.observe(recorded)
        telemetry.close(within_s=0.5)
        least = min(least, time.monotonic() - began)
        if least < 3:
            break
    assert least < 3
