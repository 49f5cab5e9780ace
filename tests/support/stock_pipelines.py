"""DDPMPipeline and the kin of Stable Diffusion, with stock DDPMScheduler and the smallest random networks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    LDMSuperResolutionPipeline,
    MarigoldDepthPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

# The noise schedules that the published checkpoints of each family come with.
STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}
V_PREDICTION = {**STABLE_DIFFUSION, "prediction_type": "v_prediction"}
NO_SAFETY_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
NO_TEXT_ENCODER = {"text_encoder": None, "tokenizer": None}
WIDTH = 8  # of embeddings


class StockPipeline(NamedTuple):
    """A pipeline, the keywords of its call, and which of its components are stock DDPM schedulers."""

    pipeline: DiffusionPipeline
    call: dict[str, Any]
    schedulers: tuple[str, ...] = ("scheduler",)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def embeddings(length: int = 3) -> dict[str, torch.Tensor]:
    return {"prompt_embeds": randn(1, length, WIDTH), "negative_prompt_embeds": randn(1, length, WIDTH) + 1}


def picture(size: int = 16, channels: int = 3) -> torch.Tensor:
    return randn(1, channels, size, size).sigmoid()


def make_vae(**config) -> AutoencoderKL:
    defaults = {
        "block_out_channels": (4, 4),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 2,
        "latent_channels": 4,
        "sample_size": 16,
    }
    return AutoencoderKL(**{**defaults, **config})


def make_vq(**config) -> VQModel:
    defaults = {
        "block_out_channels": (4, 4),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 2,
        "latent_channels": 4,
        "num_vq_embeddings": 4,
    }
    return VQModel(**{**defaults, **config})


def make_unet(**config) -> UNet2DConditionModel:
    defaults = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (4, 8),
        "norm_num_groups": 2,
        "attention_head_dim": 2,
        "cross_attention_dim": WIDTH,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DConditionModel(**{**defaults, **config})


def make_image_encoder(image_size: int = 16) -> CLIPVisionModelWithProjection:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, projection_dim=WIDTH, image_size=image_size, patch_size=image_size // 2)
    return CLIPVisionModelWithProjection(config).eval()


def ddpm() -> StockPipeline:
    unet = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(variance_type="fixed_large")
    return StockPipeline(DDPMPipeline(unet, scheduler), {"batch_size": 2, "output_type": "np"})


def latent_diffusion_super_resolution() -> StockPipeline:
    unet = UNet2DModel(
        sample_size=8,
        in_channels=6,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(beta_start=0.0015, beta_end=0.0155, beta_schedule="scaled_linear", clip_sample=False)
    # A VQModel would round the latents to the few codes it has, which hides most of what a scheduler does.
    pipeline = LDMSuperResolutionPipeline(make_vae(latent_channels=3), unet, scheduler)
    return StockPipeline(pipeline, {"image": picture(8), "output_type": "np"})


def stable_diffusion() -> StockPipeline:
    pipeline = StableDiffusionPipeline(
        vae=make_vae(),
        unet=make_unet(),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION),
        **NO_TEXT_ENCODER,
        **NO_SAFETY_CHECKER,
    )
    return StockPipeline(pipeline, {**embeddings(), "output_type": "latent"})


def stable_diffusion_img2img() -> StockPipeline:
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=make_vae(),
        unet=make_unet(),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION),
        **NO_TEXT_ENCODER,
        **NO_SAFETY_CHECKER,
    )
    return StockPipeline(pipeline, {**embeddings(), "image": picture(), "strength": 0.7, "output_type": "np"})


def stable_diffusion_inpaint() -> StockPipeline:
    pipeline = StableDiffusionInpaintPipeline(
        vae=make_vae(),
        unet=make_unet(),
        scheduler=DDPMScheduler(**V_PREDICTION),
        **NO_TEXT_ENCODER,
        **NO_SAFETY_CHECKER,
    )
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :9] = 1
    call = {**embeddings(), "image": picture(), "mask_image": mask, "height": 16, "width": 16, "strength": 0.7}
    return StockPipeline(pipeline, {**call, "output_type": "latent"})


def stable_diffusion_upscale() -> StockPipeline:
    pipeline = StableDiffusionUpscalePipeline(
        vae=make_vae(scaling_factor=0.08333),
        unet=make_unet(in_channels=7, num_class_embeds=1000),
        low_res_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        scheduler=DDPMScheduler(**V_PREDICTION),
        **NO_TEXT_ENCODER,
    )
    call = {**embeddings(), "image": picture(8), "noise_level": 200, "output_type": "latent"}
    return StockPipeline(pipeline, call, ("scheduler", "low_res_scheduler"))


def stable_diffusion_xl() -> StockPipeline:
    time_ids = {"addition_time_embed_dim": 2, "projection_class_embeddings_input_dim": 6 * 2 + WIDTH}
    pipeline = StableDiffusionXLPipeline(
        vae=make_vae(),
        unet=make_unet(addition_embed_type="text_time", **time_ids),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION),
        text_encoder_2=None,
        tokenizer_2=None,
        add_watermarker=False,
        **NO_TEXT_ENCODER,
    )
    pooled = {"pooled_prompt_embeds": randn(1, WIDTH), "negative_pooled_prompt_embeds": randn(1, WIDTH) + 1}
    return StockPipeline(pipeline, {**embeddings(), **pooled, "denoising_end": 0.8, "output_type": "latent"})


def controlnet() -> StockPipeline:
    unet = make_unet()
    pipeline = StableDiffusionControlNetPipeline(
        vae=make_vae(),
        unet=unet,
        controlnet=ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8)),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION, timestep_spacing="trailing"),
        **NO_TEXT_ENCODER,
        **NO_SAFETY_CHECKER,
    )
    return StockPipeline(pipeline, {**embeddings(), "image": picture(), "output_type": "latent"})


def stable_unclip() -> StockPipeline:
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=None,
        image_encoder=make_image_encoder(),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        unet=make_unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH),
        scheduler=DDPMScheduler(**V_PREDICTION),
        vae=make_vae(),
        **NO_TEXT_ENCODER,
    )
    call = {**embeddings(), "image_embeds": randn(1, WIDTH), "noise_level": 300, "output_type": "latent"}
    return StockPipeline(pipeline, call, ("scheduler", "image_noising_scheduler"))


def marigold() -> StockPipeline:
    pipeline = MarigoldDepthPipeline(
        unet=make_unet(in_channels=8),
        vae=make_vae(),
        scheduler=DDPMScheduler(**V_PREDICTION),
        prediction_type="depth",
        **NO_TEXT_ENCODER,
    )
    pipeline.empty_text_embedding = randn(1, 2, WIDTH)
    return StockPipeline(pipeline, {"image": picture(), "processing_resolution": 0, "output_type": "np"})


STABLE_DIFFUSION_PIPELINES: tuple[Callable[[], StockPipeline], ...] = (
    ddpm,
    latent_diffusion_super_resolution,
    stable_diffusion,
    stable_diffusion_img2img,
    stable_diffusion_inpaint,
    stable_diffusion_upscale,
    stable_diffusion_xl,
    controlnet,
    stable_unclip,
    marigold,
)
