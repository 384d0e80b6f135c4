"""The inputs that an export is compared on: batches of different sizes, as real as the base's files allow."""

import inspect

import torch

from unilora_spec import UniLoraError

SENTENCES = (
    "An unexpectedly moving film, and a funny one.",
    "The plot makes no sense at all, but the actors seem to enjoy every minute of it.",
    "No.",
    "Two hours of my life that I would gladly spend again with the same people in the same cinema.",
    "It was raining when we left, which suited the ending; nobody said a word until we had reached the station.",
    "Good music, weak script.",
    "I had hoped for more.",
)
BATCHES = ((0, 1, 2), (3,), (4, 5, 0, 1, 6))  # the first is traced; sizes and lengths differ


def real_inputs(model, tokenizer=None) -> list[dict[str, torch.Tensor]]:
    """Batches of inputs for a transformers model, by the names that its forward takes: tokenized sentences, or where
    there is no tokenizer random tokens, or random images. The same call gives the same batches.

    Raises ``UniLoraError`` for a model that takes something else.
    """
    config, takes = model.config, inspect.signature(model.forward).parameters
    if model.main_input_name == "pixel_values" and not config.is_encoder_decoder:
        return _images(config, model.dtype)
    if model.main_input_name != "input_ids":
        raise UniLoraError(
            f"{type(model).__name__} takes inputs that this command does not make up; export it from Python with"
            " export.export_onnx, which is given an example"
        )
    longest = min(getattr(config, "max_position_embeddings", None) or 64, 64)
    batches = list(_random_tokens(config, longest) if tokenizer is None else _tokenized(tokenizer, longest))
    if config.is_encoder_decoder:
        batches = [batch | _of_decoder(batch, config) for batch in batches]
    return [{name: value for name, value in batch.items() if name in takes} for batch in batches]


def _tokenized(tokenizer, longest):
    for rows in BATCHES:
        texts = [SENTENCES[i] for i in rows]
        yield dict(tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"))


def _random_tokens(config, longest):
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((3, 9), (1, 5), (5, 12)):
        columns = min(columns, longest)
        ids = torch.randint(0, config.get_text_config().vocab_size, (rows, columns), generator=generator)
        mask = torch.ones_like(ids)
        if rows > 1:
            mask[1, columns // 2 :] = 0
            ids[1, columns // 2 :] = getattr(config, "pad_token_id", None) or 0
        yield {"input_ids": ids, "attention_mask": mask}


def _of_decoder(batch, config):
    """A decoder's start and then two thirds of the encoder's tokens, from the last one on: another text, and shorter."""
    ids, mask = (batch[name].flip(1)[:, : batch[name].shape[1] * 2 // 3] for name in ("input_ids", "attention_mask"))
    ids, mask = ids.clone(), mask.clone()
    ids[:, 0], mask[:, 0] = getattr(config, "decoder_start_token_id", None) or 0, 1
    return {"decoder_input_ids": ids, "decoder_attention_mask": mask}


def _images(config, dtype):
    generator = torch.Generator().manual_seed(0)
    size = getattr(config, "image_size", 224)  # a network of convolutions alone takes any, and names none
    size = size if isinstance(size, (list, tuple)) else (size, size)
    shapes = ((rows, config.num_channels, *size) for rows in (2, 1, 3))
    return [{"pixel_values": torch.randn(shape, generator=generator).to(dtype)} for shape in shapes]


def tensors(arrays) -> dict[str, torch.Tensor]:
    """Arrays of a file, by name, as a model takes them."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
