"""The only truth of every run: a stream of events in a hash chain, its blobs, and the lease of its owner."""

from planner.journal.chain import Verification
from planner.journal.contract import Journal, Lease, Request, Requestable, RunSummary
from planner.journal.sqlite import SqliteJournal

__all__ = ["Journal", "Lease", "Request", "Requestable", "RunSummary", "SqliteJournal", "Verification"]
