"""The external feature memory: ISTA solves the lasso, gradients pass through it, answers are per sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor

from avbench.datasets.cards import read_card
from avbench.models import build
from avbench.models.exfmem import ExFMemNet, ista, largest_eigenvalue

SPEC = read_card("synthav").spec
PENALTY = 1e-3  # embeddings of untrained encoders are small


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def objective(features: Tensor, memory: Tensor, codes: Tensor, penalty: float) -> Tensor:
    return (features - codes @ memory).square().sum(dim=1) / 2 + penalty * codes.abs().sum(dim=1)


def lasso(features: Tensor, memory: Tensor, penalty: float) -> Tensor:
    """scikit-learn divides the squared error by twice the number of rows, here of dimensions."""
    solver = Lasso(alpha=penalty / memory.shape[1], fit_intercept=False, tol=1e-12, max_iter=100_000)
    return torch.from_numpy(np.stack([solver.fit(memory.T.numpy(), f.numpy()).coef_ for f in features]))


def positive(atoms: int, dimension: int) -> Tensor:
    """As embeddings are: not negative, of one mean direction."""
    return torch.rand(atoms, dimension, dtype=torch.float64) * torch.rand(dimension, dtype=torch.float64)


@pytest.mark.parametrize("penalty", [0.1, 0.5])
@pytest.mark.parametrize("normal", [True, False], ids=["centered", "positive"])
def test_ista_ends_where_scikit_learns_lasso_does(penalty: float, normal: bool) -> None:
    memory = torch.randn(12, 40, dtype=torch.float64) if normal else positive(12, 40)
    sparse = torch.randn(5, 12, dtype=torch.float64) * (torch.rand(5, 12) < 0.5)
    features = sparse @ memory + 0.005 * torch.randn(5, 40, dtype=torch.float64)
    codes, best = ista(features, memory, penalty, 20_000), lasso(features, memory, penalty)
    torch.testing.assert_close(codes, best, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(objective(features, memory, codes, penalty), objective(features, memory, best, penalty))
    assert (best == 0).any(), "a lasso with no zero would not test the shrinkage"


def test_after_t_iterations_the_objective_is_within_the_bound_of_theory() -> None:
    memory, features = positive(60, 30), positive(8, 30)
    best = lasso(features, memory, 0.1)
    least = objective(features, memory, best, 0.1)
    largest = torch.linalg.eigvalsh(memory @ memory.T)[-1]
    before = torch.full((8,), torch.inf, dtype=torch.float64)
    for t in (1, 10, 100, 1000):
        reached = objective(features, memory, ista(features, memory, 0.1, t), 0.1)
        assert (reached - least <= largest * best.square().sum(dim=1) / (2 * t) + 1e-9).all()
        assert (reached < before).all()
        before = reached


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (1, 3)])
def test_power_iteration_finds_the_largest_eigenvalue_of_memories(shape: tuple[int, int]) -> None:
    memory = positive(*shape)
    assert largest_eigenvalue(memory).item() == pytest.approx(
        torch.linalg.eigvalsh(memory @ memory.T)[-1].item(), rel=1e-9
    )


def filled() -> ExFMemNet:
    model = build("avnet-exfmem", 8, SPEC, {"width": 4, "atoms": 16, "penalty": PENALTY}).double().eval()
    assert isinstance(model, ExFMemNet)
    for memory, sort in ((model.memory_audio, "audio"), (model.memory_video, "video")):
        with torch.no_grad():
            memory.copy_(model.raw(sort, torch.rand(16, *SPEC.shape(sort), dtype=torch.float64)))  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("modality", ["audio", "video"])
class TestAFilledMemory:
    def test_an_embedding_is_the_mean_of_itself_and_of_its_code_times_the_memory(self, modality: str) -> None:
        model = filled()
        clip = torch.rand(3, *SPEC.shape(modality), dtype=torch.float64)  # type: ignore[arg-type]
        memory, raw = getattr(model, f"memory_{modality}"), model.raw(modality, clip).detach()  # type: ignore[arg-type]
        codes = ista(raw, memory, PENALTY, 200)
        assert (codes != 0).any()
        expected = (raw + codes @ memory) / 2
        torch.testing.assert_close(getattr(model, f"encode_{modality}")(clip), expected)
        assert not torch.allclose(expected, raw, rtol=1e-3)

    def test_gradients_pass_through_the_codes(self, modality: str) -> None:
        model = filled()
        clip = torch.rand(1, *SPEC.shape(modality), dtype=torch.float64, requires_grad=True)  # type: ignore[arg-type]
        encode = getattr(model, f"encode_{modality}")
        way = torch.randn(model.audio.dimension, dtype=torch.float64)
        [gradient] = torch.autograd.grad(encode(clip)[0] @ way, clip)
        step = torch.randn_like(clip)
        ends = [(encode(clip.detach() + h * step)[0] @ way).item() for h in (1e-6, -1e-6)]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx((gradient * step).sum().item(), rel=1e-4)
        [alone] = torch.autograd.grad(model.raw(modality, clip)[0] @ way / 2, clip)  # type: ignore[arg-type]
        assert (gradient - alone).norm() > 0.01 * alone.norm(), "the codes' part is there"

    def test_an_answer_does_not_depend_on_the_batch(self, modality: str) -> None:
        model = filled()
        clip = torch.rand(4, *SPEC.shape(modality), dtype=torch.float64)  # type: ignore[arg-type]
        encode = getattr(model, f"encode_{modality}")
        torch.testing.assert_close(torch.cat([encode(clip[i : i + 1]) for i in range(4)]), encode(clip))


@pytest.mark.parametrize("wrong", [{"atoms": 0}, {"iterations": 0}, {"penalty": -1.0}, {"penalty": float("nan")}])
def test_sizes_that_cannot_be_are_named(wrong: dict[str, float]) -> None:
    from avbench.errors import ArchitectureMismatch

    with pytest.raises(ArchitectureMismatch, match="at least"):
        build("avnet-exfmem", 8, SPEC, {"width": 4, **wrong})
