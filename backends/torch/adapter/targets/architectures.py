"""The default targets of each model type: the projections of queries and values, by the names that the type gives
them."""

from collections.abc import Sequence

from torch import nn

from unilora_spec import LayerMapError

from .candidates import Candidate, Unfit
from .mismatch import ends

# For each list of targets, the model types of transformers that have it. A type whose parts use different names has a
# list with all of them, of which a model has some. Only types of which a test builds a model are here.
_DEFAULTS = {
    ("q_proj", "v_proj"): """
        afmoe aimv2 apertus arcee aria aria_text audio-spectrogram-transformer audioflamingo3 autoformer
        bailing_hybrid bamba bart beam beit biogpt bitnet blenderbot blenderbot-small blt canary clip clip_text_model
        clip_vision_model clipseg clvp cohere cohere2 cohere2_moe cohere_asr colmodernvbert colpali colqwen2 csm cwm
        data2vec-audio deepseek_vl deepseek_vl_hybrid deit dia diffllama dinov2 dinov2_with_registers doge dots1
        embedding_gemma2 embedding_gemma2_text ernie4_5 ernie4_5_moe ernie4_5_vl_moe ernie4_5_vl_moe_text esmc
        eurobert exaone4 exaone4_5 exaone_moe falcon_h1 flex_olmo flint florence2 fsmt fun_asr_nano gemma gemma2
        gemma3 gemma3_text gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text glm glm4 glm46v glm4_moe
        glm4v glm4v_moe glm4v_moe_text glm4v_text glm5_next glm5_next_text glm_image glm_image_text glm_ocr
        glm_ocr_text glmasr glmga got_ocr2 gpt_neo gpt_oss gptj granite granite4_vision_text granite_docling
        granite_docling_text granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared groupvit gte
        helium hrm_text hubert hy_v3 hyperclovax hyperclovax_vision_v2 idefics idefics2 idefics3 ijepa informer
        inkling2 inkling2_text inkling_mm_model inkling_text internlm3 internvl iquestcoder jais2 jamba janus
        jina_embeddings_v3 kimi_k25 kimi_linear kosmos-2 laguna lfm2 lfm2_moe lfm2_vl lfm3 lfm3_vl lighton_ocr llama
        llama4 llama4_text llava llava_next llava_onevision m2m_100 marian mbart mellum metaclip_2 mimo_v2_flash
        minicpm_ocr minicpmv4_6 minicpmv4_7 minimax minimax_m2 minimax_m3_vl minimax_m3_vl_text ministral ministral3
        mistral mistral3 mistral_large4 mixtral mlcd_vision_model mllama modernbert-decoder modernvbert molmo2
        molmo2_text moonshine muse_glimmer muse_glimmer_text muse_spark muse_spark_text musicflamingo mvp nanochat
        nemo_speechlm nemotron nemotron_asr_streaming nemotron_h nemotron_h_omni nllb-moe nomic_bert olmo olmo2 olmo3
        olmo_hybrid olmoe opt ovis2 owlv2 owlvit paddleocr_vl paddleocr_vl_text paligemma patchtst pegasus pegasus_x
        phi phi4_multimodal phimoe pi0 pixio pixtral plbart qianfan_ocr qwen2 qwen2_5_omni_text qwen2_5_vl
        qwen2_5_vl_text qwen2_moe qwen2_vl qwen2_vl_text qwen3 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text
        qwen3_asr qwen3_moe qwen3_next qwen3_omni_moe_text qwen3_vl qwen3_vl_moe qwen3_vl_moe_text qwen3_vl_text radio
        recurrent_gemma sam sam2 sam3 sam_hq seed_oss segformer sew shieldgemma2 siglip siglip2 siglip2_text_model
        siglip2_vision_model siglip_text_model siglip_vision_model smollm3 smolvlm solar_open speech_to_text speecht5
        stablelm starcoder2 step3p5 step3p7 swin t5gemma t5gemma2 time_series_transformer trocr ultrabert ultravbert
        unispeech unispeech-sat unlimited_ocr unlimited_ocr_text vaultgemma vibevoice vibevoice_asr video_llama_3
        video_llava videoprism vipllava vit vit_mae vit_msn vivit voxtral voxtral_realtime wav2vec2 wavlm whisper
        xclip xglm
    """,
    ("query", "value"): """
        albert align bert bert-generation big_bird blip bridgetower bros camembert canine clap clap_audio_model
        clap_text_model convbert data2vec-text data2vec-vision donut-swin dpr electra encoder-decoder ernie esm flava
        glpn layoutlm layoutlmv3 lilt longformer luke lxmert markuplm megatron-bert mobilebert mobilevit mra
        nystromformer perceiver pix2struct pvt pvt_v2 reformer rembert roberta roberta-prelayernorm roc_bert roformer
        splinter squeezebert swin2sr swinv2 tapas tvp videomae vilt visual_bert vitpose vjepa2 xlm-roberta
        xlm-roberta-xl xmod yolos yoso
    """,
    ("q_proj", "v_proj", "query", "value"): """
        altclip bigbird_pegasus blip-2 chinese_clip evolla git granite_speech granite_speech_plus instructblip
        instructblipvideo kosmos-2.5 led speech-encoder-decoder vision-encoder-decoder vision-text-dual-encoder
    """,
    ("q_b_proj", "kv_b_proj"): """
        axk1 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa hy_v4 longcat_flash minicpm3 mistral4
        youtu
    """,
    ("q", "v"): "longt5 mpnet mt5 pop2piano switch_transformers t5 udop umt5 xlstm",
    ("c_attn",): "decision_transformer gpt-sw3 gpt2 gpt_bigcode imagegpt openai-gpt",
    ("query_key_value",): "bloom falcon fuyu gpt_neox gpt_neox_japanese persimmon",
    ("in_proj",): "deberta falcon_mamba mamba mamba2",
    ("qkv",): "hiera timesformer vitdet",
    ("query_proj", "value_proj"): "deberta-v2 prophetnet sew-d",
    ("q_lin", "v_lin"): "distilbert flaubert xlm",
    ("linear_q", "linear_v"): "fastspeech2_conformer wav2vec2-bert wav2vec2-conformer",
    ("qkv_proj",): "codegen phi3",
    ("q_proj.linear", "v_proj.linear"): "kyutai_speech_to_text moshi",
    ("Wqkv",): "modernbert mpt",
    ("att_proj",): "bark",
    ("project_q", "project_v"): "cpmant",
    ("Wq", "Wv"): "ctrl",
    ("projection_query", "projection_value"): "cvt",
    ("q_b_proj", "kv_proj"): "deepseek_v4",
    ("q_proj", "kv_b_proj"): "mistral_large4_text",
    ("q_proj", "v_proj_current"): "zaya",
    ("key", "receptance", "attention.value"): "rwkv",  # output and feed_forward.value are divided in place for an evaluation
}  # fmt: skip
DEFAULTS = {model_type: targets for targets, types in _DEFAULTS.items() for model_type in types.split()}


def default_targets(model: nn.Module, found: Sequence[Candidate | Unfit]) -> list[str]:
    """The default targets by the model type of ``model``, or of the first of its parts that has one.

    Raises ``LayerMapError``, with the ends of names that could be targets, where there is no model type, where the
    table has no targets for it, and where the model has none of these names.
    """
    model_type = next(filter(None, map(_model_type, model.modules())), None)
    names = [each.target for each in found if each.is_linear]
    targets = [end for end in DEFAULTS.get(model_type, ()) if any(f".{name}".endswith(f".{end}") for name in names)]
    if not targets:
        whose = f"the model type {model_type!r}" if model_type else "a model without a model_type in its config"
        raise LayerMapError(
            f"there are no default targets for {whose}; name some: {ends(names) or 'it has no linear map'}"
        )
    return targets


def _model_type(module):
    found = getattr(getattr(module, "config", None), "model_type", None)
    return found if isinstance(found, str) else None
