"""TRL: a language model learns four sentences by SFTTrainer; its checkpoint becomes an adapter's file by one command."""

import datasets
import transformers as T
import trl
from tokenizers import Tokenizer, models, pre_tokenizers

from backends.torch import attach, load_adapter

WORDS = ["<pad>", "<end>", "the", "a", "cat", "dog", "sun", "car", "is", "was", "good", "bad", "warm", "cold"]
TEXTS = ["the cat is good", "a dog was bad", "the sun is warm", "a car was cold"] * 8


def base() -> T.LlamaForCausalLM:
    """A small random Llama, the same each time; yours comes by from_pretrained."""
    T.set_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = T.LlamaConfig(
        vocab_size=len(WORDS), pad_token_id=0, bos_token_id=1, eos_token_id=1, initializer_range=0.2, **sizes
    )
    return T.LlamaForCausalLM(config)


words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = T.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<pad>")

model = attach(base(), rank=4, d=100, seed=0, targets=("q_proj", "v_proj"))
arguments = trl.SFTConfig(
    output_dir="run", max_steps=20, save_steps=20, logging_steps=1, per_device_train_batch_size=8, learning_rate=0.2, report_to="none",
    use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, lr_scheduler_type="constant",
)  # fmt: skip
rows = datasets.Dataset.from_dict({"text": TEXTS})
trainer = trl.SFTTrainer(model, arguments, processing_class=tokenizer, train_dataset=rows)
trainer.remove_callback(T.PrinterCallback)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"loss {losses[0]:.2f} at the first step, {losses[-1]:.2f} at the last")

# A folder of a trainer's is read as it is; `unilora adapter --checkpoint run/checkpoint-20 -o lm.safetensors` makes a file of it.
asked = tokenizer("the cat is", return_tensors="pt")["input_ids"]
answer = load_adapter(base(), "run/checkpoint-20").eval()(asked).logits[0, -1].argmax()
print("the cat is", tokenizer.decode([int(answer)]))
