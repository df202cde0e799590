"""What the tests of the trainer share: a tiny model with an adapter, arguments, one update looked at."""

from tests.finetune.tiny_llama import make_model


def adapted_model(vocabulary, seed=0, moved=False, **settings):
    """A tiny model with a fresh adapter; `moved`: the adapter does something."""
    import torch

    from finetune.loading import LoraSettings, add_lora

    made = add_lora(make_model(vocabulary, seed, **settings), LoraSettings(rank=2), seed)
    if moved:
        torch.manual_seed(7)
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.3)
    return made


def arguments(folder, micro, whole, steps=1, lr=1e-2, **settings):
    """Of a few updates on the CPU, each logged."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=micro, gradient_accumulation_steps=whole // micro,
        max_steps=steps, learning_rate=lr, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        logging_steps=1, remove_unused_columns=False, dataloader_pin_memory=False, seed=3, data_seed=3, **settings,
    )  # fmt: skip


def first_update(run, tuned):
    """Trains; (log entry, gradients) of the first update."""
    grads = {}

    def keep(*_):
        grads.update({n: p.grad.clone() for n, p in tuned.named_parameters() if p.grad is not None})

    run.create_optimizer()
    run.optimizer.register_step_pre_hook(keep)
    run.train()
    return run.state.log_history[0], grads
