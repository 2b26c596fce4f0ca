"""Settings are read strictly, folders are found in one order, and code is loaded with consent."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import config
from planner.config import Config, Models, Price, find_assistant, load
from planner.core.ledger import Budget
from planner.core.policy import Policy
from planner.core.rules import Rule
from planner.core.setup import Shortage
from planner.errors import UserError

FULL = """\
[assistant]
name = "desk"
version = "2"

[models]
default = "openai/gpt-5-mini"
roles = { writer = "local", extractor = ["groq/a", "local"] }
cheaper = "openai/gpt-5-nano"

[models.prices."openai/gpt-5-mini"]
input_usd = 0.25
output_usd = 2
cached_usd = 0.025

[models.profiles.local]
rendering = "grammar"
can_judge = false

[tools]
builtin = ["files.*", "text.count"]
always = ["files.read"]
shown = 9

[[policy.rules]]
id = "reading"
then = "allow"
effect = "read"
roles = ["clerk", "user"]

[[policy.rules]]
id = "money"
then = "deny"
callee = "payments.*"

[limits]
cost_usd = 1
tokens = 20000
calls = 50
seconds = 90.5
replans = 0
same_call = 3
tenant_day = { cost_usd = 20 }
day = { cost_usd = 100.5, calls = 9000 }
short = { at = 0.7, cheaper = true, items = 5, partial = true }

[limits.agents."agent.writer"]
tokens = 4000

[limits.concurrency]
"web.*" = 4
total = 32

[people]
roles = ["user", "finance"]

[telemetry]
endpoint = "http://127.0.0.1:4318"
content = true

[secrets]
names = ["SHOP_KEY"]
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "planner.toml").write_text(text)
    return folder


def refusal(folder: Path, text: str) -> UserError:
    with pytest.raises(UserError) as caught:
        load(write(folder, text), {})
    return caught.value


# ---- settings ----------------------------------------------------------------------------------------------


def test_every_setting_is_read(tmp_path: Path) -> None:
    read = load(write(tmp_path, FULL), {})
    assert read.assistant.name == "desk"
    roles = [read.models.of(role) for role in ("planner", "writer", "extractor")]
    assert roles == [("openai/gpt-5-mini",), ("local",), ("groq/a", "local")]
    assert read.models.cheaper == "openai/gpt-5-nano"
    assert read.models.prices["openai/gpt-5-mini"] == Price(input_usd=0.25, output_usd=2, cached_usd=0.025)
    assert read.models.profiles["local"].rendering == "grammar"
    assert read.tools.takes("files.write")
    assert not read.tools.takes("text.replace")
    assert [rule.id for rule in read.policy.rules] == ["reading", "money"]
    assert read.policy.rules[0].roles == {"clerk", "user"}
    assert read.limits.budget() == Budget(cost_usd=1, tokens=20000, calls=50, seconds=90.5)
    assert (read.limits.replans, read.limits.same_call) == (0, 3)
    assert read.limits.agents == {"agent.writer": Budget(tokens=4000)}
    assert (read.limits.tenant_day, read.limits.day) == (Budget(cost_usd=20), Budget(cost_usd=100.5, calls=9000))
    assert read.limits.short == Shortage(at=0.7, cheaper=True, items=5, partial=True)
    assert read.limits.concurrency == {"web.*": 4, "total": 32}
    assert read.people.roles == ("user", "finance")
    assert read.telemetry.content


def test_an_empty_file_gives_the_defaults_which_allow_nothing(tmp_path: Path) -> None:
    read = load(write(tmp_path, ""), {})
    assert read == Config()
    assert read.policy.rules == ()
    assert (read.models.of("planner"), read.models.cheaper) == ((), None)
    assert (read.limits.budget(), read.limits.same_call) == (Budget(calls=500), 10)
    assert (read.limits.tenant_day, read.limits.day, read.limits.short) == (Budget(), Budget(), None)
    assert read.people.roles == ("user",)


def test_the_settings_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(write(tmp_path, FULL), {}).limits.calls = 9


def test_the_reference_assistant_reads_alone_and_asks_before_it_is_seen_outside() -> None:
    read = load(config.reference(), {})
    assert {(rule.callee, rule.effect, rule.then) for rule in read.policy.rules} == {
        ("*", "pure", "allow"),
        ("*", "read", "allow"),
        ("files.*", "write", "allow"),
        ("plan.goal", "*", "allow"),
        ("*", "fetch", "ask"),
        ("*", "*", "ask"),
    }
    assert (read.limits.calls, read.limits.replans) == (200, 2)
    assert all(read.tools.takes(f"{area}.x") for area in ["files", "text", "table", "lists", "math", "dates", "web"])


# ---- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[limits]\n\ncall = 3", ":3: `limits.call` is not a setting; did you mean `calls`?"),
        ("[polcy]", ":1: `polcy` is not a setting; did you mean `policy`?"),
        ("[tools]\nxyz = 1", ":2: `tools.xyz` is not a setting; known are always, builtin, shown"),
        ('[limits]\ncalls = "3"', ":2: `limits.calls` is '3': it should be a valid integer"),
        ("[limits]\ncalls = 3.5", ":2: `limits.calls` is 3.5: it should be a valid integer"),
        ("limits = 3", ":1: `limits` is 3: it should be a table"),
        ("[limits]\ncost_usd = nan", ":2: `limits.cost_usd` is nan: it should be"),
        ('[assistant]\nname = ""', ":2: `assistant.name` is '': string should have at least 1 character"),
        ("[tools]\nbuiltin = [\n  'a',\n  # no\n  3,\n]", ":5: `tools.builtin[1]` is 3: it should be"),
        ('[telemetry]\nendpoint = "host:4318"', ":2: `telemetry.endpoint` is 'host:4318': string should"),
        ('[models.prices."a.b"]\ninput_usd = 1', ":1: `models.prices.a.b.output_usd` is missing"),
        ("[models.prices.a]\ninput = 1\noutput_usd=1\ninput_usd=1", ":2: `models.prices.a.input` is not a"),
        ("[models]\nroles = 1979-05-27\n", ":2: `models.roles` is '1979-05-27': it should be"),
        ("[[policy.rules]]\nid='a'\nthen='allow'\n[[policy.rules]]\nid='b'\nthen='alow'", ":6: `policy.ru"),
        ("[[policy.rules]]\nid='a'\nthen='allow'\n[[policy.rules]]\nthen='ask'", ":4: `policy.rules[1].id`"),
        (
            "[policy]\nrules = [\n {id='a', then='ask'},\n {id='a', then='ask'},\n]",
            ":4: `policy.rules` has t",
        ),
        ("[[policy.rules]]\nid='a'\nthen='deny'\neffect='sending'", ":4: `sending` of rule `a` matches no"),
        ("[models]\ndefault = 3", ":2: `models.default` is 3: it should be a name or a list of names"),
        ('[models]\ndefault = ["a", 3]', ":2: `models.default[1]` is 3: it should be a valid string"),
        ('[models.roles]\na = "b"\nwriter = ""', ":3: `models.roles.writer[0]` is '': string should have at"),
        ('[models]\ncheaper = ["a"]', ":2: `models.cheaper` is ['a']: it should be a valid string"),
        ("[limits.day]\ncalls = 3\ntokens = -1", ":3: `limits.day.tokens` is -1: it should be greater than 0"),
        ("[limits]\n\ntenant_day = 3", ":3: `limits.tenant_day` is 3: it should be a table"),
        ("[limits.day]\nsecs = 3", ":2: `limits.day.secs` is not a setting; did you mean `seconds`?"),
        ("[limits.agents.'agent.a']\ntoken = 3", ":2: `limits.agents.agent.a.token` is not a setting; did you"),
        ("[limits.agents]\nwriter = {calls = 3}", ":2: `writer` is no agent; did you mean `agent.writer`?"),
        ("[limits.short]\nat = 2", ":2: `limits.short.at` is 2: it should be less than or equal to 1"),
        ("[limits.short]\nitms = 2", ":2: `limits.short.itms` is not a setting; did you mean `items`?"),
        ("[limits.concurrency]\ntotal = 9\nweb = 4", ":3: `web` matches no callee; did you mean `web.*`?"),
        ("[limits.concurrency]\n'web.*' = 0", ":2: `limits.concurrency.web.*` is 0: it should be greater than 0"),
        ("[limits.concurrency]\nweb.fetch = 4", ":2: `limits.concurrency.web` is {'fetch': 4}: it should be"),
        ("[people]\nroles = ['Head of sales']", ":2: `people.roles[0]` is 'Head of sales': string should match"),
        ("[policy]\nversion = 'x'", ":2: `policy.version` is made from the rules; remove it"),
        ('[x]\ny = """\n[limits]\ncall = 1\n"""\n[limits]\ncall = 1', ":7: `limits.call` is not a setting"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    error = refusal(tmp_path, text)
    assert error.code == "U-103"
    assert f"{tmp_path / 'planner.toml'}{expected}" in error.message


def test_all_wrong_settings_are_told_at_once_from_top_to_bottom(tmp_path: Path) -> None:
    message = refusal(tmp_path, "[telemetry]\ncontents = true\n[assistant]\nnam = 'x'\n").message
    assert [line.split(":")[1] for line in message.splitlines()] == ["2", "4"]


def test_a_secret_put_where_its_name_belongs_is_not_repeated(tmp_path: Path) -> None:
    for text in ('[secrets]\nnames = ["sk live/9"]', '[secrets]\nkey = "sk live/9"', 'secrets = "sk live/9"'):
        assert "sk live/9" not in str(refusal(tmp_path, text))


def test_a_syntax_error_is_told_with_line_and_column(tmp_path: Path) -> None:
    error = refusal(tmp_path, "[limits]\ncalls = = 3")
    assert error.code == "U-102"
    assert "at line 2, column 9" in error.message


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"U-101.*No such file"):
        load(tmp_path, {})
    (tmp_path / "planner.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"U-101.*UTF-8"):
        load(tmp_path, {})
    (tmp_path / "folder" / "planner.toml").mkdir(parents=True)
    with pytest.raises(UserError, match="U-101"):
        load(tmp_path / "folder", {})


@given(st.text(alphabet="[]a.=\n\"'{} ,1#\\é", max_size=60))
def test_no_text_is_answered_with_anything_but_settings_or_a_user_error(text: str) -> None:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    keys = [(key,) for key in table]
    assert all(1 <= line <= text.count("\n") + 1 for line in config.reading._lines(text, keys))


# ---- the environment ---------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file_for_the_endpoint(tmp_path: Path) -> None:
    folder = write(tmp_path, FULL)
    named = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example"}
    assert load(folder, named).telemetry.endpoint == "https://collector.example"
    assert load(folder, named | {"OTEL_SDK_DISABLED": "true"}).telemetry.endpoint is None
    assert load(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}).telemetry.endpoint == "http://127.0.0.1:4318"
    with pytest.raises(UserError, match=r"U-104.*collector:4317"):
        load(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"})


def test_a_secret_is_taken_by_name_and_is_not_shown(tmp_path: Path) -> None:
    secrets = load(write(tmp_path, FULL), {}).secrets
    values = secrets.values({"SHOP_KEY": "hush", "OTHER_KEY": "no"})
    assert list(values) == ["SHOP_KEY"]
    assert values["SHOP_KEY"].get_secret_value() == "hush"
    assert "hush" not in f"{values} {secrets}"
    assert secrets.values({}) == {}


# ---- policy ------------------------------------------------------------------------------------------------


def test_a_policys_version_depends_on_its_rules_alone() -> None:
    rule = Rule(id="a", then="allow", roles=frozenset({"x", "y", "z"}))
    one = Config(policy=Policy(rules=(rule,))).policy.version
    assert one == config.pinned(Policy(rules=(rule,), version="whatever")).version
    assert one != config.pinned(Policy(rules=(rule, rule))).version
    assert Config.model_validate_json(Config(policy=Policy(rules=(rule,))).model_dump_json()).policy.version == one


def test_a_role_without_a_model_of_its_own_takes_the_default() -> None:
    assert Models(default=("a",), roles={"writer": ("b",)}).of("arbiter") == ("a",)


def test_settings_may_be_written_down_and_read_again(tmp_path: Path) -> None:
    for text in (FULL, ""):
        read = load(write(tmp_path, text), {})
        assert Config.model_validate_json(read.model_dump_json()) == read


# ---- folders -----------------------------------------------------------------------------------------------


def test_an_assistant_is_named_or_here_or_the_reference_one(tmp_path: Path) -> None:
    mine, other = write(tmp_path / "mine", ""), write(tmp_path / "other", "")
    (mine / "deeper").mkdir()
    assert find_assistant(other, here=mine).folder == other
    assert not find_assistant(other, here=mine).needs_consent
    assert find_assistant(None, here=mine).folder == mine
    assert find_assistant(None, here=mine).needs_consent
    assert find_assistant(None, here=mine / "deeper").how == "reference"
    assert find_assistant(None, here=config.reference()).how == "reference"
    with pytest.raises(UserError, match=r"U-105.*no planner.toml"):
        find_assistant(tmp_path, here=mine)


def test_the_state_directory_is_named_or_in_the_environment_or_the_users(tmp_path: Path) -> None:
    environ = {"PLANNER_STATE": str(tmp_path / "env")}
    assert config.state_dir(tmp_path / "named", environ) == tmp_path / "named"
    assert config.state_dir(None, environ) == tmp_path / "env"
    assert config.state_dir(None, {}).name == "planner"
    assert config.state_dir(None, {}).is_absolute()


def test_the_workspace_is_named_or_here_and_exists(tmp_path: Path) -> None:
    assert config.workspace_dir(None, here=tmp_path) == tmp_path
    (tmp_path / "work").mkdir()
    assert config.workspace_dir(tmp_path / "work", here=tmp_path) == tmp_path / "work"
    with pytest.raises(UserError, match=r"U-106.*missing is not a folder"):
        config.workspace_dir(tmp_path / "missing", here=tmp_path)


# ---- consent -----------------------------------------------------------------------------------------------


def assistant(folder: Path) -> Path:
    write(folder, "")
    (folder / "tools" / "deep").mkdir(parents=True)
    (folder / "prompts").mkdir()
    (folder / "tools" / "a.py").write_text("one")
    (folder / "tools" / "deep" / "b.py").write_text("two")
    (folder / "prompts" / "planner.md").write_text("three")
    return folder


def test_the_content_hash_is_of_content_not_of_place(tmp_path: Path) -> None:
    assert config.content_hash(assistant(tmp_path / "x")) == config.content_hash(assistant(tmp_path / "y"))


@pytest.mark.parametrize("name", ["planner.toml", "tools/a.py", "tools/deep/b.py", "prompts/planner.md", "tools/n"])
def test_any_change_of_content_changes_the_hash(tmp_path: Path, name: str) -> None:
    before = config.content_hash(assistant(tmp_path))
    (tmp_path / name).write_text("changed")
    assert config.content_hash(tmp_path) != before


def test_a_renamed_file_changes_the_hash_and_what_is_no_content_does_not(tmp_path: Path) -> None:
    before = config.content_hash(assistant(tmp_path))
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "tools" / "__pycache__").mkdir()
    (tmp_path / "tools" / "__pycache__" / "a.pyc").write_text("hello")
    assert config.content_hash(tmp_path) == before
    (tmp_path / "tools" / "a.py").rename(tmp_path / "tools" / "c.py")
    assert config.content_hash(tmp_path) != before


def test_what_is_no_real_file_cannot_be_agreed_to(tmp_path: Path) -> None:
    link = assistant(tmp_path) / "tools" / "link.py"
    link.symlink_to("/etc/hosts")
    with pytest.raises(UserError, match=r"U-107.*link.py"):
        config.content_hash(tmp_path)
    link.unlink()
    os.mkfifo(tmp_path / "prompts" / "pipe.md")
    with pytest.raises(UserError, match=r"U-107.*pipe.md"):
        config.content_hash(tmp_path)


def test_consent_is_remembered_for_one_content_in_a_file_of_ones_own(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    assert not config.has_consent(state, "aa")
    config.give_consent(state, "aa")
    config.give_consent(state, "bb")
    assert config.has_consent(state, "aa")
    assert config.has_consent(state, "bb")
    assert not config.has_consent(state, "a")
    assert (state / "consents").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_list_that_others_could_have_written_counts_for_nothing(tmp_path: Path) -> None:
    config.give_consent(tmp_path, "aa")
    (tmp_path / "consents").chmod(0o666)
    assert not config.has_consent(tmp_path, "aa")
    config.give_consent(tmp_path, "bb")
    assert not config.has_consent(tmp_path, "aa")
    assert config.has_consent(tmp_path, "bb")


def test_a_state_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(UserError, match=r"U-108.*--state"):
        config.give_consent(tmp_path / "state", "aa")
    assert not config.has_consent(tmp_path / "state", "aa")
