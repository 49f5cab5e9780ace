"""Rows, timesteps, classes and dropout: functions of where an image stands in the run."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.pictures import Pictures
from ddpm_cars.networks.layers import SeededDropout, seed_dropout
from ddpm_cars.training.batches import BatchMaker, BatchOrder, MemorySource, rows_of_process

T = 40


def pictures(num_images: int = 20, labels: bool = False) -> Pictures:
    rng = np.random.default_rng(0)
    return Pictures(
        images=rng.integers(0, 256, (num_images, 4, 4, 3), np.uint8),
        labels=np.arange(num_images) % 3 if labels else None,
        class_names=("a", "b", "c") if labels else (),
        digests=np.arange(num_images, dtype=np.uint64),
        sha256="",
        report={},
    )


def maker(rows: list[range], B: int = 12, source: Pictures | None = None, **changes: object) -> BatchMaker:
    config = TrainingConfig(train_data_dir="x", num_train_timesteps=T, **changes)
    source = source or pictures()
    order = BatchOrder(len(source.images), B, config.seed)
    num_classes = len(source.class_names) or None
    return BatchMaker(
        config,
        MemorySource(source, order, rows),
        rows,
        B,
        num_classes,
        torch.device("cpu"),
        torch.contiguous_format,
    )


@pytest.mark.parametrize(
    ("processes", "batch_size", "times"), [(1, 12, 1), (2, 6, 1), (1, 3, 4), (3, 2, 2), (2, 3, 2)]
)
def test_rows_of_all_processes_and_micro_steps_are_the_global_batch(processes: int, batch_size: int, times: int):
    rows = [rows_of_process(p, processes, batch_size, times) for p in range(processes)]
    assert all(len(mine) == times for mine in rows)
    seen = [row for micro_step in range(times) for mine in rows for row in mine[micro_step]]
    assert seen == list(range(12))


@pytest.mark.parametrize(("processes", "batch_size", "times"), [(2, 6, 1), (1, 3, 4), (3, 2, 2)])
def test_the_split_changes_nothing_about_a_batch(processes: int, batch_size: int, times: int):
    settings = {"source": pictures(labels=True), "class_conditional": True, "timestep_sampling": "stratified"}
    whole = maker([range(12)], **settings)
    [expected] = [whole(7, 0)]
    seeds = whole.row_seeds(7, 0)
    assert len(set(seeds)) == 12
    parts = [maker(rows_of_process(p, processes, batch_size, times), **settings) for p in range(processes)]
    for i, tensor in enumerate(expected):
        actual = torch.cat([part(7, micro_step)[i] for micro_step in range(times) for part in parts])
        assert torch.equal(actual, tensor)
    assert [s for m in range(times) for part in parts for s in part.row_seeds(7, m)] == seeds


@pytest.mark.parametrize("B", [1, 7, T, 2 * T])
def test_stratified_timesteps_take_one_of_each_part(B: int):
    make = maker([range(B)], B, timestep_sampling="stratified")
    seen = []
    for step in range(60):
        t = make(step, 0).t
        assert t.dtype == torch.int64
        # Part k is [k T / B, (k + 1) T / B); its first and last timestep may be shared with a neighbour.
        lowest = torch.arange(B, dtype=torch.float64) * T / B
        assert bool((t.sort().values >= lowest.floor().long()).all())
        assert bool((t.sort().values <= (lowest + T / B).ceil().long()).all())
        seen.append(t)
    assert set(torch.cat(seen).tolist()) <= set(range(T))
    if B > 1:
        assert any(not torch.equal(t, t.sort().values) for t in seen)
    counts = torch.bincount(torch.cat(seen), minlength=T).double() / len(seen) / B * T
    # 60 B draws over 40 timesteps: uniform to well within five standard deviations.
    assert (counts - 1).abs().max() < 5 * (T / (60 * B)) ** 0.5


def test_uniform_timesteps_are_not_stratified():
    make = maker([range(T)], T)
    assert any(len(set(make(step, 0).t.tolist())) < T * 0.8 for step in range(5))


def test_an_offset_is_noise_of_a_whole_channel_and_changes_nothing_else():
    settings = {"source": pictures(labels=True), "class_conditional": True}
    plain, offset = maker([range(12)], **settings)(3, 0), maker([range(12)], noise_offset=0.5, **settings)(3, 0)
    for i in (0, 2, 3):
        assert torch.equal(plain[i], offset[i])
    added = offset.eps - plain.eps
    # One number for all pixels of a channel, another for every channel and image.
    assert len(torch.unique(added[:, :, 0, 0])) == 36
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added), rtol=0, atol=1e-6)
    make = maker([range(400)], 400, noise_offset=0.5)
    means = torch.cat([make(step, 0).eps.mean((2, 3)) for step in range(20)])
    # The mean of 16 pixels has the variance 1 / 16, and the offset adds its square.
    assert float(means.var()) == pytest.approx(1 / 16 + 0.25, rel=0.05)
    parts = [maker(rows_of_process(p, 2, 6, 1), noise_offset=0.5, **settings)(3, 0).eps for p in range(2)]
    assert torch.equal(torch.cat(parts), offset.eps)


def test_classes_go_with_their_pictures_and_some_are_hidden():
    source = pictures(labels=True)
    make = maker([range(12)], source=source, class_conditional=True, class_dropout_prob=0.25, random_flip=False)
    hidden = 0
    for step in range(100):
        batch = make(step, 0)
        order = make.source.order(step)
        assert batch.class_labels is not None
        for label, index in zip(batch.class_labels.tolist(), order, strict=True):
            assert label in (source.labels[index], 3)
            hidden += label == 3
    # 1,200 draws at 0.25 have a standard deviation of 15.
    assert abs(hidden - 300) < 75
    never = maker([range(12)], source=source, class_conditional=True, class_dropout_prob=0.0)
    assert not any(bool((never(step, 0).class_labels == 3).any()) for step in range(30))


def test_without_classes_there_are_no_labels():
    assert maker([range(12)])(0, 0).class_labels is None


def test_dropout_keeps_the_mean_and_the_share():
    net = torch.nn.Sequential(torch.nn.Identity(), SeededDropout(0.3, 0, seeds := seed_dropout(torch.nn.Identity())))
    seeds.values = [5]
    x = torch.ones(1, 100, 100)
    y = net(x)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((y == 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert net.eval()(x) is x


def test_masks_follow_the_picture_and_differ_by_layer_and_seed():
    seeds = seed_dropout(torch.nn.Identity())
    first, second = SeededDropout(0.5, 0, seeds), SeededDropout(0.5, 1, seeds)
    x = torch.ones(3, 8, 8)
    seeds.values = [1, 2, 3]
    masks = first(x)
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks, second(x))
    torch.manual_seed(123)
    seeds.values = [3, 1]
    assert torch.equal(first(x[:2]), masks[[2, 0]])
    assert first(x[:2].bfloat16()).dtype == torch.bfloat16


def test_all_dropout_of_a_network_is_seeded_and_its_weights_keep_their_names(tiny_unet_config: dict):
    def build(dropout: float) -> UNet2DModel:
        torch.manual_seed(0)
        return UNet2DModel(sample_size=8, dropout=dropout, **tiny_unet_config)

    plain, seeded = build(0.2), build(0.2)
    seeds = seed_dropout(seeded)
    assert plain.state_dict().keys() == seeded.state_dict().keys()
    layers = [m for m in seeded.modules() if isinstance(m, SeededDropout)]
    assert seeds.num_layers == len(layers)
    assert len(layers) == sum(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in plain.modules()) > 3
    assert [layer.layer for layer in layers] == list(range(len(layers)))
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 9])
    seeds.values = [7, 8]
    dropped = seeded.train()(x, t).sample
    assert torch.equal(seeded(x, t).sample, dropped)
    assert torch.equal(seeded.eval()(x, t).sample, plain.eval()(x, t).sample)
    assert not torch.allclose(plain(x, t).sample, dropped)
    assert not any(isinstance(m, SeededDropout) for m in _seeded(build(0.0)).modules())


def _seeded(unet: UNet2DModel) -> UNet2DModel:
    seed_dropout(unet)
    return unet


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_with_dropout_do_not_depend_on_the_split_or_on_checkpointing(
    tiny_unet_config: dict, checkpointing: bool
):
    def gradients(parts: list[slice], configure: Callable[[UNet2DModel], None]) -> torch.Tensor:
        torch.manual_seed(0)
        unet = UNet2DModel(sample_size=8, dropout=0.3, **tiny_unet_config).train()
        seeds = seed_dropout(unet)
        configure(unet)
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        for part in parts:
            seeds.values = [11, 12, 13, 14][part]
            unet(x[part], torch.arange(4)[part]).sample.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in unet.parameters()])

    whole = gradients([slice(0, 4)], lambda unet: None)
    configure = UNet2DModel.enable_gradient_checkpointing if checkpointing else lambda unet: None
    split = gradients([slice(0, 1), slice(1, 4)], configure)
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
