"""Named errors: each says what was wrong and what to do; the command line prints it and exits with code 2."""

from typing import Literal


class AvbenchError(Exception):
    """Mark an error that a user can mend, so that the command line shows one message and no traceback."""


class BadOption(AvbenchError):
    """An option or argument has a value that cannot be used."""


class UnknownName(AvbenchError):
    """No registered thing has this name."""


class BrokenPlugin(AvbenchError):
    """The file of a registered thing cannot be imported."""


class BadBudget(AvbenchError):
    """A threat model or budget that cannot exist (negative, NaN, larger than the box, unparsable)."""


class BudgetViolation(AvbenchError):
    """An attack returned a clip outside its threat set."""


class CheckpointError(AvbenchError):
    """A model file is missing, truncated, corrupt or of a refused format."""


class UnsafeCheckpoint(CheckpointError):
    """A model file asks to run code on loading; it was not run."""


class ArchitectureMismatch(CheckpointError):
    """The weights do not belong to the named architecture."""


class NonFiniteWeights(CheckpointError):
    """A weight is NaN or infinite."""


class GraphError(CheckpointError):
    """A model cannot be packed as a graph, or a graph.json is not one that can be run safely."""


class NonFiniteOutput(AvbenchError):
    """The model answered NaN or infinity on a sample."""


class BadModel(AvbenchError):
    """A model breaks its contract (wrong output shape, stages that disagree, answers that no seed repeats)."""


class NoGradient(BadModel):
    """No gradient reaches an attacked input that the model says it reads."""


class PretrainedUnavailable(AvbenchError):
    """The ImageNet weights could not be fetched."""


class SubmissionError(AvbenchError):
    """A submission.yaml is missing, malformed or does not match its files."""


class DatasetNotPrepared(AvbenchError):
    """The prepared shards of a split are not on this machine."""


class DataError(AvbenchError):
    """Source data is missing, incomplete or not what its pinned hash says."""


class CorruptShard(DataError):
    """A prepared sample is not the one its lock file pins."""


BrokenReason = Literal[
    "missing", "ambiguous", "not-regular", "unreadable", "empty", "undecodable", "no-audio", "no-video", "truncated",
    "other-length", "other-file", "gap", "too-long", "too-large", "too-many-streams", "crashed", "timeout",
]  # fmt: skip


class BrokenClip(DataError):
    """A clip's file cannot be used; `reason` is one of few words, so that a report can count them."""

    def __init__(self, reason: BrokenReason, what: str) -> None:
        super().__init__(reason, what)  # both, so that it survives the way back from a worker process
        self.reason = reason
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} ({self.reason})"


class RunConflict(AvbenchError):
    """The output folder holds a run that this command would mix with or overwrite."""


class ProtocolMismatch(RunConflict):
    """The output folder was written under another protocol version."""


class IncompleteRun(AvbenchError):
    """A run lacks rows that its scores need."""


class VerificationFailed(AvbenchError):
    """A result is not what its record, its clips or its model say."""


class StaleCounter(DataError):
    """A counter attack was accepted for a run that was changed since."""


class EngineUnavailable(AvbenchError):
    """The engine that was asked for is not installed, cannot be reached or cannot be given the model."""


class OtherNumerics(AvbenchError):
    """A worker would compute other bits than the process that asked it."""


class WorkFailed(AvbenchError):
    """Some parts could not be made, since whatever computed them died each time; all others are kept."""


class DiskFull(AvbenchError):
    """A result could not be written for lack of space."""


class RecipeError(AvbenchError):
    """A training recipe is malformed or cannot be trained."""


class UntrustedCode(AvbenchError):
    """A model is a Python file, and nobody said that it may run."""


class SandboxError(AvbenchError):
    """The worker process of a model broke its walls or its word; it was ended."""


class SandboxUnavailable(SandboxError):
    """There is no sandbox on this machine, so a stranger's model was not run."""


class WorkerDied(SandboxError):
    """The worker process ended by itself, or took more than it may have and was ended."""


class WorkerTimeout(SandboxError):
    """The worker process did not answer in time and was ended."""


class BadReply(SandboxError):
    """The worker process answered what cannot be an answer."""
