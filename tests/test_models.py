"""Every architecture keeps the contract of models, on small clips and on those of the papers."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from conftest import random_clips
from safetensors.torch import save_file
from torch import nn

import avbench
from avbench.checkpoint import read_checkpoint
from avbench.datasets.cards import read_card
from avbench.errors import ArchitectureMismatch
from avbench.models import ARCHITECTURES, build
from avbench.models.fusion import FUSIONS
from avbench.models.logmel_avnet import ENCODERS
from avbench.types import MODALITIES, AVInput, InputSpec, TwoStageModel, modalities_of

CARD = read_card("synthav")
SMALL = CARD.spec
FULL = InputSpec(sample_rate=11025, samples=65535, frames=1, fps=8, height=224, width=224)
SPECS = {
    "avmnist": read_card("avmnist").spec,
    "half a second": InputSpec(sample_rate=8000, samples=4000, frames=1, fps=8, height=28, width=28),
    "ten seconds": InputSpec(sample_rate=22050, samples=220500, frames=9, fps=8, height=32, width=44),
}
CHOICES = {"fusion": FUSIONS, "audio": tuple(ENCODERS), "visual": tuple(ENCODERS)}  # of arguments that are words


pytestmark = pytest.mark.usefixtures("seeded")


def variants() -> list[tuple[str, dict[str, str]]]:
    """Each architecture with each choice of each argument, one at a time."""
    found: list[tuple[str, dict[str, str]]] = []
    for name in ARCHITECTURES.names():
        words = [word for word in CHOICES if word in inspect.signature(ARCHITECTURES.get(name)).parameters]
        found += [(name, {word: choice}) for word in words for choice in CHOICES[word]] or [(name, {})]
    return found


def small(name: str, spec: InputSpec = SMALL, **arguments: str) -> nn.Module:
    width = {"width": 4} if "width" in inspect.signature(ARCHITECTURES.get(name)).parameters else {}
    return build(name, len(CARD.classes), spec, {**width, **arguments}).eval()


@pytest.mark.parametrize(("name", "arguments"), variants(), ids=str)
class TestEveryArchitecture:
    def test_its_stages_make_the_whole(self, name: str, arguments: dict[str, str]) -> None:
        model, inputs = small(name, **arguments), random_clips(SMALL)
        assert isinstance(model, TwoStageModel)
        whole = model(*inputs)
        assert whole.shape == (3, len(CARD.classes))
        assert torch.equal(model.fuse(model.encode_audio(inputs.audio), model.encode_video(inputs.video)), whole)

    def test_its_answers_are_the_same_bits_whether_gradients_are_wanted_or_not(
        self, name: str, arguments: dict[str, str]
    ) -> None:
        model, inputs = small(name, **arguments).requires_grad_(False), random_clips(SMALL)
        with torch.no_grad():
            judged = model(*inputs)
        assert torch.equal(model(*(clip.requires_grad_() for clip in inputs)), judged)

    def test_it_reads_what_it_declares_and_nothing_else(self, name: str, arguments: dict[str, str]) -> None:
        model, inputs = small(name, **arguments), random_clips(SMALL)
        for modality in MODALITIES:
            changed = inputs._replace(**{modality: getattr(inputs, modality).flip(0)})
            assert torch.equal(model(*inputs), model(*changed)) != (modality in modalities_of(model))

    def test_its_answers_do_not_depend_on_the_batch(self, name: str, arguments: dict[str, str]) -> None:
        model, inputs = small(name, **arguments), random_clips(SMALL)
        alone = torch.cat([model(*inputs.pick(slice(i, i + 1))) for i in range(3)])
        torch.testing.assert_close(alone, model(*inputs), rtol=1e-4, atol=1e-5)

    def test_its_logits_follow_finite_differences_of_its_inputs(self, name: str, arguments: dict[str, str]) -> None:
        model = small(name, **arguments).double()
        inputs = AVInput(*(x.double() for x in random_clips(SMALL, 1)))
        for modality in modalities_of(model):
            leaf = getattr(inputs, modality).clone().requires_grad_()
            [gradient] = torch.autograd.grad(model(*inputs._replace(**{modality: leaf}))[0, 1], leaf)
            way = torch.randn_like(leaf)
            ends = [model(*inputs._replace(**{modality: leaf.detach() + h * way}))[0, 1] for h in (1e-7, -1e-7)]
            assert ((ends[0] - ends[1]) / 2e-7).item() == pytest.approx(
                (gradient * way).sum().item(), rel=1e-3, abs=1e-6
            )

    def test_it_gives_the_same_bits_again_and_draws_no_random_numbers(
        self, name: str, arguments: dict[str, str]
    ) -> None:
        model, inputs = small(name, **arguments), random_clips(SMALL)
        before = torch.get_rng_state()
        assert torch.equal(model(*inputs), model(*inputs))
        assert torch.equal(before, torch.get_rng_state())

    def test_its_saved_weights_give_the_same_bits(self, name: str, arguments: dict[str, str], tmp_path: Path) -> None:
        model, inputs = small(name, **arguments), random_clips(SMALL)
        for _ in range(2):
            model.train()(*inputs)  # its running statistics move away from where they began
        model.eval()
        torch.save(model.state_dict(), tmp_path / "model.pt")
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        given = {**arguments, "width": 4} if "width" in inspect.signature(ARCHITECTURES.get(name)).parameters else {}
        for path in tmp_path.iterdir():
            again = read_checkpoint(path).candidate(CARD, name, given).module.eval()
            assert torch.equal(again(*inputs), model(*inputs))

    @pytest.mark.parametrize("loud", [True, False], ids=["noise", "silence"])
    def test_its_gradient_is_finite_and_reaches_all_that_it_reads(
        self, name: str, arguments: dict[str, str], loud: bool
    ) -> None:
        model, inputs = small(name, **arguments), random_clips(SMALL)
        leaves = AVInput(*((x if loud else torch.zeros_like(x)).requires_grad_() for x in inputs))
        grads = torch.autograd.grad(model(*leaves)[:, 1].sum(), leaves, allow_unused=True)
        for modality, gradient in zip(MODALITIES, grads, strict=True):
            assert (gradient is not None) == (modality in modalities_of(model))
            if gradient is not None:
                assert gradient.isfinite().all()
                assert not loud or gradient.flatten(1).any(dim=1).all()

    @pytest.mark.parametrize("kind", SPECS)
    def test_it_takes_clips_of_any_size(self, name: str, arguments: dict[str, str], kind: str) -> None:
        found = small(name, SPECS[kind], **arguments)(*random_clips(SPECS[kind], 2))
        assert found.shape == (2, len(CARD.classes))
        assert found.isfinite().all()
        assert not torch.equal(found[0], found[1])


WITH_WIDTH = [
    name for name in ARCHITECTURES.names() if "width" in inspect.signature(ARCHITECTURES.get(name)).parameters
]


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("width", [0, -1, 4.5, "x"])
@pytest.mark.parametrize("name", WITH_WIDTH)
def test_a_width_that_makes_no_network_is_a_named_error(name: str, width: object) -> None:
    with pytest.raises(ArchitectureMismatch, match=f"{name} cannot be built"):
        build(name, 3, SMALL, {"width": width})


@pytest.mark.parametrize("name", ARCHITECTURES.names())
def test_its_full_size_takes_the_clips_of_the_paper(name: str) -> None:
    with torch.no_grad():
        found = build(name, 11, FULL, {}).eval()(*random_clips(FULL, 1))
    assert found.shape == (1, 11)
    assert found.isfinite().all()


@pytest.mark.parametrize("name", ARCHITECTURES.names())
def test_attacks_on_embeddings_take_embeddings_of_any_shape(name: str) -> None:
    model, inputs = small(name), random_clips(SMALL, 2)
    found = avbench.attacks.get("tma:steps=1,copies=1,segments=2")(model, *inputs, torch.tensor([0, 1]))
    for modality in MODALITIES:
        moved = (getattr(found, modality) != getattr(inputs, modality)).flatten(1).any(dim=1)
        assert moved.tolist() == [modality in modalities_of(model)] * 2
