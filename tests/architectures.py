"""Tiny models of many architectures of transformers, each with targets among which are its odd mixers."""

from typing import NamedTuple

import torch
import transformers as T
from small_models import SIZES

HEADS = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 32}
MOE = {**HEADS, "num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MAMBA = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
MAMBA2 = MAMBA | {"num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 4}
SPEECH = {
    **SIZES, "conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0,
}  # fmt: skip
PICTURE = {**SIZES, "image_size": 16, "patch_size": 4, "num_labels": 3}


class Case(NamedTuple):
    """``head`` names the model's class, ``options`` are those of its configuration; ``inputs`` is what a forward gets."""

    head: str
    options: dict
    targets: tuple[str, ...]
    inputs: str = "ids"
    ranks: dict | None = None  # of targets whose matrix is too small for the others' rank

    def model(self):
        """The same each time, in evaluation, in float32; of matrices as large as those of a trained one, so that each has a say."""
        torch.manual_seed(0)
        cls = getattr(T, self.head)
        model = cls._from_config(cls.config_class(**self.options), attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.2)
        return model

    def batch(self):
        """A forward's named inputs."""
        return {name: of() for name, of in INPUTS[self.inputs].items()}


def _floats(*shape):
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _ids(first=3, rows=2):
    return lambda: torch.arange(first, first + 7 * rows).reshape(rows, 7) % 50


def _picture_tokens():
    """Of one picture of four tokens a text, where the text says 49."""
    ids = _ids()()
    ids[:, :4] = 49
    return ids


INPUTS = {
    "ids": {"input_ids": _ids()},
    "ids, no cache": {"input_ids": _ids(), "use_cache": lambda: False},  # the cache is written over, past any gradient
    "two texts": {"input_ids": _ids(), "decoder_input_ids": _ids(5)},
    "picture": {"pixel_values": _floats(2, 3, 16, 16)},
    "larger picture": {"pixel_values": _floats(2, 3, 32, 32)},
    "sound": {"input_values": _floats(2, 400)},
    "spectrum": {"input_features": _floats(2, 8, 16), "decoder_input_ids": _ids(5)},
    "text and picture": {"input_ids": _ids(), "pixel_values": _floats(2, 3, 16, 16)},
    "picture in a text": {"input_ids": _picture_tokens, "pixel_values": _floats(2, 3, 8, 8)},
}

CASES = {
    "BERT": Case("BertForSequenceClassification", SIZES, ("query", "value", "word_embeddings")),
    "RoBERTa": Case("RobertaForMaskedLM", SIZES, ("key", "output.dense", "position_embeddings")),
    "DistilBERT": Case(
        "DistilBertForSequenceClassification", {"vocab_size": 50, "dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48},
        ("q_lin", "lin1"),
    ),
    "DeBERTa": Case(
        "DebertaModel", SIZES | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 8},
        ("in_proj", "pos_proj", "pos_q_proj", "rel_embeddings"),
    ),
    "DeBERTa-v2": Case(
        "DebertaV2Model",
        SIZES | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4, "share_att_key": True, "conv_kernel_size": 3},
        ("query_proj", "key_proj", "rel_embeddings", "conv.conv"),
    ),
    "ELECTRA": Case("ElectraForPreTraining", SIZES | {"embedding_size": 16}, ("query", "embeddings_project")),
    "ALBERT": Case(
        "AlbertModel", SIZES | {"num_hidden_layers": 2, "embedding_size": 16}, ("query", "embedding_hidden_mapping_in")
    ),
    "T5": Case(
        "T5ForConditionalGeneration", {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4},
        ("q", "v", "wo", "relative_attention_bias"), "two texts",
    ),
    "BART": Case(
        "BartForConditionalGeneration",
        {"vocab_size": 50, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 32},
        ("q_proj", "fc1", "embed_positions"), "two texts",
    ),
    "Whisper": Case(
        "WhisperForConditionalGeneration",
        {"vocab_size": 50, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 8, "max_source_positions": 8,
         "max_target_positions": 16, "pad_token_id": 0, "decoder_start_token_id": 1},
        ("v_proj", "conv1", "conv2", "encoder.embed_positions", "decoder.embed_positions"), "spectrum",
    ),
    "Wav2Vec2": Case("Wav2Vec2ForCTC", SPEECH, ("v_proj", "conv_layers.1.conv", "feature_projection.projection"), "sound"),
    "HuBERT": Case("HubertModel", SPEECH, ("q_proj", "conv_layers.0.conv"), "sound"),
    "CLIP": Case(
        "CLIPModel",
        {"text_config": {**SIZES, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}, "vision_config": PICTURE,
         "projection_dim": 16},
        ("q_proj", "fc1", "text_projection", "visual_projection", "patch_embedding"), "text and picture",
    ),
    "ViT": Case("ViTForImageClassification", PICTURE, ("q_proj", "projection", "position_embeddings"), "picture"),
    "DINOv2": Case("Dinov2Model", PICTURE, ("v_proj", "projection", "position_embeddings"), "picture"),
    "Swin": Case(
        "SwinForImageClassification", {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        ("q_proj", "reduction", "relative_position_bias_table"), "picture",
    ),
    "ConvNeXt": Case(
        "ConvNextForImageClassification", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32, "layer_scale_init_value": 1.0},
        ("dwconv", "pwconv1", "downsampling_layer.1"), "larger picture",
    ),
    "GPT-2": Case(
        "GPT2LMHeadModel", {"vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}, ("c_attn[0:32]", "c_fc", "wpe")
    ),
    "GPT-NeoX": Case("GPTNeoXForCausalLM", SIZES, ("query_key_value[8:16]", "dense_h_to_4h", "embed_in")),
    "OPT": Case("OPTForCausalLM", SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 16}, ("q_proj", "project_in", "project_out", "embed_positions")),
    "Llama": Case("LlamaForCausalLM", HEADS, ("q_proj", "down_proj", "lm_head")),
    "Mistral": Case("MistralForCausalLM", HEADS | {"sliding_window": 4}, ("v_proj", "gate_proj")),
    "Qwen2": Case("Qwen2ForCausalLM", HEADS, ("k_proj", "up_proj")),
    "Qwen3": Case("Qwen3ForCausalLM", HEADS | {"head_dim": 8}, ("q_proj", "o_proj")),
    "Gemma 3": Case("Gemma3ForCausalLM", HEADS | {"head_dim": 8}, ("q_proj", "down_proj")),
    "Phi-3": Case("Phi3ForCausalLM", HEADS | {"pad_token_id": 0}, ("qkv_proj[0:32]", "gate_up_proj")),
    "Mixtral": Case("MixtralForCausalLM", MOE, ("experts.gate_up_proj", "experts.down_proj", "gate")),
    "Qwen2-MoE": Case(
        "Qwen2MoeForCausalLM", MOE | {"shared_expert_intermediate_size": 16}, ("experts.gate_up_proj", "mlp.gate", "shared_expert_gate"),
        ranks={"shared_expert_gate": 1},
    ),
    "Qwen3-MoE": Case("Qwen3MoeForCausalLM", MOE | {"head_dim": 8}, ("experts.down_proj", "mlp.gate")),
    "gpt-oss": Case("GptOssForCausalLM", MOE | {"head_dim": 8}, ("experts.gate_up_proj", "experts.down_proj[3:9]", "router")),
    "DeepSeek-V3": Case(
        "DeepseekV3ForCausalLM",
        {**MOE, "n_routed_experts": 4, "num_local_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0, "q_lora_rank": 8, "kv_lora_rank": 8,
         "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "num_key_value_heads": 4},
        ("q_b_proj", "kv_a_proj_with_mqa", "experts.down_proj", "mlp.gate"),
    ),
    "Mamba": Case("MambaForCausalLM", MAMBA, ("in_proj", "conv1d", "x_proj", "dt_proj")),
    "FalconMamba": Case("FalconMambaForCausalLM", MAMBA, ("in_proj", "conv1d", "dt_proj")),
    "Mamba-2": Case("Mamba2ForCausalLM", MAMBA2, ("in_proj[0:64]", "conv1d", "out_proj")),
    "Bamba": Case(
        "BambaForCausalLM",
        HEADS | {"num_hidden_layers": 2, "attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 4,
                 "mamba_chunk_size": 4},
        ("in_proj", "conv1d", "q_proj"),
    ),
    "Jamba": Case(
        "JambaForCausalLM",
        MOE | {"num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
               "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
        ("conv1d", "dt_proj", "experts.down_proj", "router"),
    ),
    "Zamba2": Case(
        "Zamba2ForCausalLM",
        HEADS | {"num_hidden_layers": 3, "layers_block_type": ["mamba", "mamba", "hybrid"], "mamba_d_state": 4, "n_mamba_heads": 4,
                 "mamba_headdim": 16, "mamba_ngroups": 1, "chunk_size": 4, "num_mem_blocks": 1, "adapter_rank": 4, "num_key_value_heads": 4,
                 "use_mamba_kernels": False},
        ("in_proj", "conv1d", "q_proj"),
    ),
    "Falcon-H1": Case(
        "FalconH1ForCausalLM",
        HEADS | {"head_dim": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4, "mamba_chunk_size": 4},
        ("in_proj", "conv1d", "v_proj"),
    ),
    "LFM2": Case(
        "Lfm2ForCausalLM", HEADS | {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "block_ff_dim": 48},
        ("in_proj", "conv.conv", "q_proj"),
    ),
    "Qwen3-Next": Case(
        "Qwen3NextForCausalLM",
        MOE | {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"], "head_dim": 8, "linear_num_value_heads": 4,
               "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "shared_expert_intermediate_size": 16},
        ("in_proj_qkvz", "conv1d", "in_proj_ba", "shared_expert_gate", "experts.down_proj"), ranks={"shared_expert_gate": 1},
    ),
    "RecurrentGemma": Case(
        "RecurrentGemmaForCausalLM", HEADS | {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8, "head_dim": 8},
        ("linear_x", "conv_1d", "input_gate_weight"),
    ),
    "XLNet": Case("XLNetLMHeadModel", {"vocab_size": 50, "d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 48}, ("rel_attn.q", "rel_attn.v", "layer_1")),
    "Falcon": Case("FalconForCausalLM", SIZES, ("query_key_value", "dense_4h_to_h")),
    "BLOOM": Case("BloomForCausalLM", {"vocab_size": 50, "hidden_size": 32, "n_layer": 1, "n_head": 4}, ("query_key_value[0:8]", "dense")),
    "RWKV": Case(
        "RwkvForCausalLM", {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "intermediate_size": 48},
        ("key", "receptance", "attention.value"), "ids, no cache",
    ),
    "LLaVA": Case(
        "LlavaForConditionalGeneration",
        {"text_config": T.LlamaConfig(**HEADS), "vision_config": T.CLIPVisionConfig(**PICTURE | {"image_size": 8}), "image_token_index": 49,
         "image_token_id": 49, "vision_feature_layer": -1},
        ("q_proj", "linear_1", "patch_embedding"), "picture in a text",
    ),
}  # fmt: skip
