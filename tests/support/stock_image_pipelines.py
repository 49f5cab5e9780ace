"""diffusers' other image pipelines, with stock DDPMScheduler and the smallest random networks."""

from collections.abc import Callable

import torch
from diffusers import (
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    IFPipeline,
    IFSuperResolutionPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyV22Pipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)

from tests.support.stock_pipelines import (
    NO_SAFETY_CHECKER,
    NO_TEXT_ENCODER,
    V_PREDICTION,
    WIDTH,
    StockPipeline,
    embeddings,
    make_unet,
    make_vae,
    make_vq,
    picture,
    randn,
)

PIXART = {"clip_sample": False}
KANDINSKY = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "variance_type": "learned_range"}
DEEPFLOYD_IF = {
    "beta_schedule": "squaredcos_cap_v2",
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}


def dit() -> StockPipeline:
    transformer = DiTTransformer2DModel(
        sample_size=8,
        patch_size=2,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    # The pipeline cuts the learned variance off before the scheduler sees it.
    pipeline = DiTPipeline(transformer, make_vae(), DDPMScheduler(clip_sample=False))
    return StockPipeline(pipeline, {"class_labels": [1, 7], "output_type": "np"})


def make_pixart(**config) -> PixArtTransformer2DModel:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "cross_attention_dim": 8}
    return PixArtTransformer2DModel(
        **sizes, sample_size=8, out_channels=8, caption_channels=WIDTH, use_additional_conditions=False, **config
    )


def masked_embeddings() -> dict[str, torch.Tensor]:
    mask = torch.ones(1, 3)
    return {**embeddings(), "prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}


def pixart_alpha() -> StockPipeline:
    pipeline = PixArtAlphaPipeline(
        vae=make_vae(), transformer=make_pixart(), scheduler=DDPMScheduler(**PIXART), **NO_TEXT_ENCODER
    )
    call = {**masked_embeddings(), "negative_prompt": None, "use_resolution_binning": False}
    return StockPipeline(pipeline, {**call, "output_type": "latent"})


def pixart_sigma() -> StockPipeline:
    pipeline = PixArtSigmaPipeline(
        vae=make_vae(), transformer=make_pixart(), scheduler=DDPMScheduler(**PIXART), **NO_TEXT_ENCODER
    )
    call = {**masked_embeddings(), "negative_prompt": None, "use_resolution_binning": False}
    return StockPipeline(pipeline, {**call, "timesteps": [999, 700, 10], "output_type": "latent"})


def hunyuan_dit() -> StockPipeline:
    transformer = HunyuanDiT2DModel(
        sample_size=8,
        in_channels=4,
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        hidden_size=16,
        mlp_ratio=1.0,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=4,
        text_len=3,
        text_len_t5=3,
        activation_fn="gelu-approximate",
    )
    pipeline = HunyuanDiTPipeline(
        vae=make_vae(),
        transformer=transformer,
        scheduler=DDPMScheduler(**V_PREDICTION),
        **NO_TEXT_ENCODER,
        **NO_SAFETY_CHECKER,
    )
    first = masked_embeddings()
    second = {f"{name}_2": tensor for name, tensor in first.items()}
    return StockPipeline(pipeline, {**first, **second, "use_resolution_binning": False, "output_type": "latent"})


def kandinsky_2_2() -> StockPipeline:
    unet = make_unet(
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        addition_embed_type="image",
        encoder_hid_dim_type="image_proj",
        encoder_hid_dim=WIDTH,
        resnet_time_scale_shift="scale_shift",
    )
    pipeline = KandinskyV22Pipeline(unet, DDPMScheduler(**KANDINSKY), make_vq())
    call = {"image_embeds": randn(1, WIDTH), "negative_image_embeds": randn(1, WIDTH) + 1, "height": 16, "width": 16}
    return StockPipeline(pipeline, {**call, "output_type": "latent"})


def kandinsky_3() -> StockPipeline:
    unet = Kandinsky3UNet(
        groups=2,
        attention_head_dim=2,
        layers_per_block=2,
        block_out_channels=(8, 8),
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
        time_embedding_dim=8,
    )
    pipeline = Kandinsky3Pipeline(
        unet=unet, movq=make_vq(), scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"), **NO_TEXT_ENCODER
    )
    masks = {"attention_mask": torch.ones(1, 3), "negative_attention_mask": torch.ones(1, 3)}
    return StockPipeline(pipeline, {**embeddings(), **masks, "height": 16, "width": 16, "output_type": "latent"})


def deepfloyd_if() -> StockPipeline:
    pipeline = IFPipeline(
        unet=make_unet(in_channels=3, out_channels=6),
        scheduler=DDPMScheduler(**DEEPFLOYD_IF),
        watermarker=None,
        **NO_TEXT_ENCODER,
        **NO_SAFETY_CHECKER,
    )
    return StockPipeline(pipeline, {**embeddings(), "output_type": "pt"})


def deepfloyd_if_super_resolution() -> StockPipeline:
    pipeline = IFSuperResolutionPipeline(
        unet=make_unet(sample_size=16, in_channels=6, out_channels=6, class_embed_type="timestep"),
        scheduler=DDPMScheduler(**DEEPFLOYD_IF),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        watermarker=None,
        **NO_TEXT_ENCODER,
        **NO_SAFETY_CHECKER,
    )
    call = {**embeddings(), "image": picture(8), "noise_level": 250, "output_type": "pt"}
    return StockPipeline(pipeline, call, ("scheduler", "image_noising_scheduler"))


IMAGE_PIPELINES: tuple[Callable[[], StockPipeline], ...] = (
    dit,
    pixart_alpha,
    pixart_sigma,
    hunyuan_dit,
    kandinsky_2_2,
    kandinsky_3,
    deepfloyd_if,
    deepfloyd_if_super_resolution,
)
