"""Small transformers models, each built from its configuration, and segments on them: what the exports are proven on."""

import torch
import transformers as T

from unilora_spec import Segment

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}


def _segments(*names, rank=4):
    return [Segment(name, 32, 32, rank) for name in names]


def _convolutions(model, *names):
    shapes = {name: value.shape for name, value in model.named_parameters()}
    return [Segment(name, shapes[name][0], shapes[name][1:].numel(), 2) for name in names]


def bert(head="BertForSequenceClassification", **options):
    config = T.BertConfig(**SIZES, max_position_embeddings=32, initializer_range=0.2, **options)
    where = "" if head == "BertModel" else "bert."
    names = [f"{where}encoder.layer.0.attention.self.{part}.weight" for part in ("query", "value")]
    return getattr(T, head)(config), _segments(*names)


def bert_alone():
    return bert("BertModel")


def tokens():
    return bert("BertForTokenClassification", num_labels=3)


def answers():
    return bert("BertForQuestionAnswering")


def gpt2():
    """Fused rows, transposed, and an embedding that is looked up and multiplied."""
    config = T.GPT2Config(
        n_layer=1,
        n_embd=32,
        n_head=4,
        vocab_size=50,
        n_positions=32,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=0,
    )
    fused = "transformer.h.0.attn.c_attn.weight"  # q, k, v side by side, stored (in, out); q and v are adapted
    segments = [Segment(fused, 32, 32, 4, transposed=True, row=row) for row in (64, 0)]
    segments.append(Segment("transformer.wte.weight", 50, 32, 2))
    return T.GPT2LMHeadModel(config), segments


def llama():
    config = T.LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.2)
    layer = "model.layers.0.self_attn"
    return T.LlamaForCausalLM(config), [
        Segment(f"{layer}.v_proj.weight", 16, 32, 4),
        *_segments(f"{layer}.q_proj.weight"),
    ]


def mistral():
    """Its window of seven positions is shorter than the longest text, and longer than what any of these is padded by."""
    config = T.MistralConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=32, sliding_window=7)
    return T.MistralForCausalLM(config), _segments("model.layers.0.self_attn.q_proj.weight")


def t5():
    """``shared`` is looked up by encoder and decoder, and multiplied at the end."""
    config = T.T5Config(
        vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0, tie_word_embeddings=True
    )  # fmt: skip
    names = "encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.0.SelfAttention.v"
    across = "decoder.block.0.layer.1.EncDecAttention.k"
    segments = _segments(*(f"{name}.weight" for name in (*names, across)))
    return T.T5ForConditionalGeneration(config), [*segments, Segment("shared.weight", 50, 32, 2)]


def bart():
    config = T.BartConfig(
        vocab_size=50, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=32, init_std=0.2,
    )  # fmt: skip
    names = (
        "encoder.layers.0.self_attn.q_proj",
        "decoder.layers.0.encoder_attn.v_proj",
        "decoder.layers.0.self_attn.v_proj",
    )
    return T.BartForConditionalGeneration(config), _segments(*(f"model.{name}.weight" for name in names))


def vit():
    options = {**SIZES, "image_size": 16, "patch_size": 4, "num_labels": 3, "initializer_range": 0.2}
    model = T.ViTForImageClassification(T.ViTConfig(**options))
    attention = [f"vit.layers.0.attention.{part}_proj.weight" for part in "qv"]
    return model, _segments(*attention) + _convolutions(model, "vit.embeddings.patch_embeddings.projection.weight")


def convnext():
    """A depthwise convolution among others."""
    config = T.ConvNextConfig(
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_stages=2,
        image_size=32,
        initializer_range=0.2,
        layer_scale_init_value=1.0,
    )
    model = T.ConvNextForImageClassification(config)
    layer = "convnext.encoder.stages.0.layers.0"
    names = "convnext.embeddings.patch_embeddings.weight", f"{layer}.dwconv.weight"
    return model, [*_convolutions(model, *names), Segment(f"{layer}.pwconv1.weight", 32, 8, 2)]


def resnet():
    model = T.ResNetForImageClassification(T.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    return model, _convolutions(model, "resnet.embedder.embedder.convolution.weight")


def swin():
    """In its windows (batch · windows, tokens, features) come in."""
    config = T.SwinConfig(
        image_size=16, patch_size=2, embed_dim=16, depths=[2], num_heads=[2], window_size=4, initializer_range=0.2
    )
    model = T.SwinForImageClassification(config)
    names = [name for name, _ in model.named_parameters() if name.endswith(("query.weight", "q_proj.weight"))]
    return model, [Segment(name, 16, 16, 2) for name in names]


def built(build):
    """The same model each time."""
    torch.manual_seed(0)
    model, segments = build()
    return model.eval(), segments
