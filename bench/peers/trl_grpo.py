"""GRPO steps of the demo with TRL: 256 completions of sums such as "47+35=". Usage: trl_grpo.py MODEL_FOLDER THREADS"""

import os
import statistics
import sys
import tempfile
import time

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import transformers
import trl
from datasets import Dataset

from common import report

torch.set_num_threads(int(sys.argv[2]))
folder = sys.argv[1]
dataset = Dataset.from_list([{"prompt": f"{a}+{b}=", "answer": f"{a + b}"} for a in range(10, 100) for b in range(10, 100)])


def reward(completions, answer, **_):
    return [float(text.startswith(right)) for text, right in zip(completions, answer)]


class Clock(transformers.TrainerCallback):
    def __init__(self):
        self.ms, self.start = [], None

    def on_train_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        now = time.perf_counter()
        self.ms.append(1000 * (now - self.start))
        self.start = now


clock = Clock()
with tempfile.TemporaryDirectory() as output:
    config = trl.GRPOConfig(
        output_dir=output,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        learning_rate=5e-4,
        beta=0.001,
        num_generations=8,
        per_device_train_batch_size=256,
        max_completion_length=4,
        max_steps=12,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=f"{folder}/tokenizer.json", eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    stdout = os.dup(1)
    os.dup2(2, 1)  # the trainer prints its metrics
    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=reward, args=config, train_dataset=dataset, processing_class=tokenizer, callbacks=[clock]
    )
    trainer.train()
    sys.stdout.flush()
    os.dup2(stdout, 1)
report(f"TRL {trl.__version__} (torch {torch.__version__.split('+')[0]}, {torch.get_num_threads()} threads)", grpo_ms=statistics.median(clock.ms[2:]))
