"""The micro world's optimizer: torch's Muon, but in float32."""

import torch

from sight_beyond_text.micro.muon import Muon, orthogonalized


def test_singular_values_come_near_one_and_vectors_stay():
    torch.manual_seed(0)
    for shape in ((6, 96, 96), (3, 96, 288), (3, 288, 96)):
        given = torch.randn(shape)
        made = orthogonalized(given)
        values = torch.linalg.svdvals(made)
        # A square matrix at random has values near zero, which five steps don't raise all the way.
        assert ((values > 0.5) & (values < 1.3)).float().mean() > 0.97
        left, _, right = torch.linalg.svd(given, full_matrices=False)
        turned = left.mT @ made @ right.mT
        kept = torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1))
        assert torch.allclose(turned, kept, atol=1e-3)


def test_steps_are_those_of_torch_but_for_its_rounding():
    torch.manual_seed(0)
    start = [torch.randn(16, 16), torch.randn(16, 16), torch.randn(48, 16), torch.randn(16, 48)]
    ours = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    torchs = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    made = Muon(ours, lr=0.02)
    known = torch.optim.Muon(torchs, lr=0.02, weight_decay=0.0)
    for _ in range(4):
        for one, other in zip(ours, torchs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        made.step()
        known.step()
    for one, other, matrix in zip(ours, torchs, start, strict=True):
        moved = (other - matrix).norm()
        assert moved > 0.1
        assert (one - other).norm() < 0.03 * moved
