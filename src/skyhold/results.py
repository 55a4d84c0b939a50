"""What the methods of Skyhold return: frozen dataclasses, of which `as_json` makes the JSON that `--json` shows."""

from __future__ import annotations

from skyhold.buckets.admission import AdmissionVerdict
from skyhold.buckets.check import BucketReport, Trial
from skyhold.buckets.rules import BucketRules
from skyhold.consensus.recovery import DamagedCheckpoint
from skyhold.json_form import as_json
from skyhold.registry.diff import FileDiff, TensorDiff, ValueDiff, VersionDiff
from skyhold.registry.losses import Loss
from skyhold.registry.object_accounts import Account, Unaccounted
from skyhold.registry.status import BucketStatus, RepositoryStatus, StoreStatus
from skyhold.registry.tensors import TensorSummary, TensorView
from skyhold.registry.upkeep import RepairPlan, RepairReport, Unmended
from skyhold.registry.verification import Lag, VerifyReport
from skyhold.registry.version import Lineage, VersionFile
from skyhold.registry.views import (
    AttachedView,
    EventView,
    LogEntry,
    MoveView,
    PullPlan,
    PullResult,
    PushPlan,
    PushResult,
    RefView,
    RepositoryInfo,
    SearchHit,
    Version,
)
from skyhold.storage.pull_plan import PullSources
from skyhold.storage.survey import Finding
from skyhold.store.engine_status import Decision, EngineStatus, StaleRead, VoterStatus
from skyhold.store.health import BucketHealth, StoreHealth
from skyhold.store.join_plan import JoinPlan
from skyhold.store.reconfiguring import EngineMove
from skyhold.store.recovering import RecoverReport
from skyhold.store.register_recovery import RegisterPlan, RegisterReport, VoterFinding
from skyhold.store.unreadable_repositories import UnreadableRepository
from skyhold.store.watching import ResyncNeeded

__all__ = [
    "Account",
    "AdmissionVerdict",
    "AttachedView",
    "BucketHealth",
    "BucketReport",
    "BucketRules",
    "BucketStatus",
    "DamagedCheckpoint",
    "Decision",
    "EngineMove",
    "EngineStatus",
    "EventView",
    "FileDiff",
    "Finding",
    "JoinPlan",
    "Lag",
    "Lineage",
    "LogEntry",
    "Loss",
    "MoveView",
    "PullPlan",
    "PullResult",
    "PullSources",
    "PushPlan",
    "PushResult",
    "RecoverReport",
    "RefView",
    "RegisterPlan",
    "RegisterReport",
    "RepairPlan",
    "RepairReport",
    "RepositoryInfo",
    "RepositoryStatus",
    "ResyncNeeded",
    "SearchHit",
    "StaleRead",
    "StoreHealth",
    "StoreStatus",
    "TensorDiff",
    "TensorSummary",
    "TensorView",
    "Trial",
    "Unaccounted",
    "Unmended",
    "UnreadableRepository",
    "ValueDiff",
    "VerifyReport",
    "Version",
    "VersionDiff",
    "VersionFile",
    "VoterFinding",
    "VoterStatus",
    "as_json",
]
