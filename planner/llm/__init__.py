"""The only place that talks to models: what to ask, which model to ask, and asking it."""

from planner.llm.chain import Chain
from planner.llm.choose import Choice, choose
from planner.llm.gateway import LiteLLMModel, Retry
from planner.llm.model import (
    FREE,
    AnswerError,
    Ask,
    CassetteMiss,
    Completion,
    Message,
    Model,
    Profile,
    ScriptedModel,
    profile_of,
)

__all__ = [
    "FREE",
    "AnswerError",
    "Ask",
    "CassetteMiss",
    "Chain",
    "Choice",
    "Completion",
    "LiteLLMModel",
    "Message",
    "Model",
    "Profile",
    "Retry",
    "ScriptedModel",
    "choose",
    "profile_of",
]
