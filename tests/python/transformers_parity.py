"""Reads a model folder with `transformers` and compares its validation loss with the one `evaluate` computed.

    python tests/python/transformers_parity.py MODEL_FOLDER TOKEN_FOLDER VAL_LOSS [SEQ_LEN]

Needs `torch`, `transformers` and `numpy`. Exits with an error when the losses differ by more than 1e-4.
"""

import json
import sys

import numpy
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

model_folder, token_folder, expected = sys.argv[1], sys.argv[2], float(sys.argv[3])
model, info = AutoModelForCausalLM.from_pretrained(model_folder, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{model_folder}/tokenizer.json")
meta = json.load(open(f"{token_folder}/meta.json"))
kind = numpy.uint16 if meta["bytes_per_token"] == 2 else numpy.uint32
tokens = torch.from_numpy(numpy.fromfile(f"{token_folder}/validation.bin", dtype=kind).astype(numpy.int64))
text = tokenizer.decode(tokens[:200])
assert tokenizer.encode(text) == tokens[:200].tolist(), "the tokenizer does not give the same tokens back"
seq_len = int(sys.argv[4]) if len(sys.argv) > 4 else model.config.max_position_embeddings
total, start = 0.0, 0
with torch.no_grad():
    while start < len(tokens) - 1:
        window = tokens[start : start + seq_len + 1]
        logits = model(window[None, :-1]).logits[0]
        total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
        start += seq_len
loss = total / (len(tokens) - 1)
print(f"transformers {loss:.7f}, evaluate {expected:.7f}, difference {abs(loss - expected):.1e}")
sys.exit(abs(loss - expected) > 1e-4)
