"""diffusers' video, audio and planning pipelines, with stock DDPMScheduler and the smallest random networks."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AnimateDiffPipeline,
    AutoencoderKLAllegro,
    AutoencoderKLTemporalDecoder,
    AutoencoderOobleck,
    DDPMScheduler,
    I2VGenXLPipeline,
    I2VGenXLUNet,
    LattePipeline,
    LatteTransformer3DModel,
    MotionAdapter,
    MusicLDMPipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet1DModel,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from diffusers.experimental import ValueGuidedRLPipeline
from PIL import Image
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPImageProcessor,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from tests.support.stock_pipelines import (
    NO_TEXT_ENCODER,
    STABLE_DIFFUSION,
    V_PREDICTION,
    WIDTH,
    StockPipeline,
    embeddings,
    make_image_encoder,
    make_unet,
    make_vae,
    picture,
    randn,
)

BLOCKS_3D = {
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
    "sample_size": 8,
}


class Environment(SimpleNamespace):
    """What a pipeline that plans reads of a gym environment."""


def animatediff() -> StockPipeline:
    motion = MotionAdapter(
        block_out_channels=(4, 8), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=2
    )
    pipeline = AnimateDiffPipeline(
        vae=make_vae(),
        unet=make_unet(),
        motion_adapter=motion,
        scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1),
        **NO_TEXT_ENCODER,
    )
    return StockPipeline(pipeline, {**embeddings(), "num_frames": 3, "output_type": "latent"})


def text_to_video() -> StockPipeline:
    pipeline = TextToVideoSDPipeline(
        vae=make_vae(),
        unet=UNet3DConditionModel(**BLOCKS_3D),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION),
        **NO_TEXT_ENCODER,
    )
    return StockPipeline(pipeline, {**embeddings(), "num_frames": 3, "output_type": "latent"})


def i2vgen_xl() -> StockPipeline:
    pipeline = I2VGenXLPipeline(
        vae=make_vae(),
        unet=I2VGenXLUNet(**BLOCKS_3D, num_attention_heads=2),
        image_encoder=make_image_encoder(),
        feature_extractor=CLIPImageProcessor(size=16, crop_size=16),
        scheduler=DDPMScheduler(**V_PREDICTION),
        **NO_TEXT_ENCODER,
    )
    call = {**embeddings(), "image": picture(), "height": 16, "width": 16, "num_frames": 3}
    return StockPipeline(pipeline, {**call, "output_type": "latent"})


def latte() -> StockPipeline:
    transformer = LatteTransformer3DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=WIDTH,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        video_length=2,
    )
    pipeline = LattePipeline(
        vae=make_vae(),
        transformer=transformer,
        scheduler=DDPMScheduler(clip_sample=False, variance_type="learned_range"),
        **NO_TEXT_ENCODER,
    )
    call = {**embeddings(), "negative_prompt": None, "video_length": 2, "height": 16, "width": 16}
    return StockPipeline(pipeline, {**call, "output_type": "latent"})


def allegro() -> StockPipeline:
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        sample_height=4,
        sample_width=4,
        sample_frames=2,
    )
    vae = AutoencoderKLAllegro(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, layers_per_block=1, latent_channels=4
    )
    pipeline = AllegroPipeline(
        vae=vae,
        transformer=transformer,
        scheduler=DDPMScheduler(clip_sample=False, timestep_spacing="linspace"),
        **NO_TEXT_ENCODER,
    )
    mask = torch.ones(1, 3)
    call = {**embeddings(), "prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    return StockPipeline(pipeline, {**call, "negative_prompt": None, "output_type": "latent"})


def stable_video_diffusion() -> StockPipeline:
    unet = UNetSpatioTemporalConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        num_attention_heads=2,
        cross_attention_dim=WIDTH,
        addition_time_embed_dim=2,
        projection_class_embeddings_input_dim=6,
        num_frames=2,
    )
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
    )
    pipeline = StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=make_image_encoder(224),
        unet=unet,
        scheduler=DDPMScheduler(**{**V_PREDICTION, "timestep_spacing": "trailing"}),
        feature_extractor=CLIPImageProcessor(size=16, crop_size=16),
    )
    image = Image.fromarray((picture()[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    call = {"image": image, "height": 16, "width": 16, "num_frames": 2, "output_type": "latent"}
    return StockPipeline(pipeline, call)


def stable_audio() -> StockPipeline:
    transformer = StableAudioDiTModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=WIDTH,
        time_proj_dim=4,
        global_states_input_dim=2 * WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[1, 2],
        channel_multiples=[1, 2],
        decoder_channels=4,
        decoder_input_channels=4,
        sampling_rate=16,
    )
    pipeline = StableAudioPipeline(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        projection_model=StableAudioProjectionModel(WIDTH, WIDTH, 0, 32),
        transformer=transformer,
        scheduler=DDPMScheduler(**V_PREDICTION),
    )
    return StockPipeline(pipeline, {**embeddings(), "audio_end_in_s": 2.0, "output_type": "pt"})


def music_ldm() -> StockPipeline:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text_config = ClapTextConfig(**sizes, vocab_size=10, projection_dim=WIDTH)
    vocoder_config = SpeechT5HifiGanConfig(
        model_in_dim=4,
        sampling_rate=64,
        upsample_initial_channel=4,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        normalize_before=False,
    )
    pipeline = MusicLDMPipeline(
        vae=make_vae(in_channels=1, out_channels=1),
        text_encoder=ClapTextModelWithProjection(text_config).eval(),
        tokenizer=None,
        feature_extractor=None,
        unet=make_unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            cross_attention_dim=(8, 8),
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=WIDTH,
            class_embeddings_concat=True,
        ),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION),
        vocoder=SpeechT5HifiGan(vocoder_config).eval(),
    )
    call = {"prompt_embeds": randn(1, WIDTH), "negative_prompt_embeds": randn(1, WIDTH) + 1}
    return StockPipeline(pipeline, {**call, "output_type": "latent"})


def value_guided_planning() -> StockPipeline:
    def make_net(**config) -> UNet1DModel:
        return UNet1DModel(
            sample_size=16,
            in_channels=5,
            block_out_channels=(32, 32),
            extra_in_channels=0,
            layers_per_block=1,
            norm_num_groups=8,
            time_embedding_type="positional",
            use_timestep_embedding=True,
            act_fn="mish",
            flip_sin_to_cos=False,
            freq_shift=1,
            **config,
        )

    value_function = make_net(
        out_channels=5,
        down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"),
        up_block_types=(),
        mid_block_type="ValueFunctionMidBlock1D",
        out_block_type="ValueFunction",
    )
    unet = make_net(
        out_channels=5,
        down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"),
        up_block_types=("UpResnetBlock1D",),
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
    )
    data = {"observations": randn(10, 3).numpy(), "actions": randn(10, 2).numpy()}
    env = Environment(
        get_dataset=lambda: data,
        observation_space=SimpleNamespace(shape=(3,)),
        action_space=SimpleNamespace(shape=(2,)),
    )
    scheduler = DDPMScheduler(num_train_timesteps=20, beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    pipeline = ValueGuidedRLPipeline(value_function, unet, scheduler, env)
    return StockPipeline(pipeline, {"obs": data["observations"][0], "batch_size": 3, "planning_horizon": 8})


VIDEO_AND_AUDIO_PIPELINES: tuple[Callable[[], StockPipeline], ...] = (
    animatediff,
    text_to_video,
    i2vgen_xl,
    latte,
    allegro,
    stable_video_diffusion,
    stable_audio,
    music_ldm,
    value_guided_planning,
)
