"""Recipe keys by the names that TRL, Axolotl and LLaMA-Factory have for them."""

from collections.abc import Collection

from bezoar.train.objectives import OBJECTIVES

_STEP = "it counts the rows of a whole optimizer step, over all micro-batches"
_TOKENS = "a micro-batch is bounded by its tokens, with no effect on the gradient"
_SHARE = "a share of the steps"
_LORA = "a LoRA is a table of its own"
_NEITHER = "remove the key"
# other name -> (our key, what to know about it); where an alias stands for keys of several tables,
# the first one that the table at hand has counts, and one without a key is advice for any table
_ALIASES: dict[str, tuple[tuple[str, str], ...]] = {}


def _add(names: str, *keys: tuple[str, str]) -> None:
    _ALIASES.update(dict.fromkeys(names.split(), keys))


_add("learning_rate lr_rate", ("lr", ""))
_add("num_train_epochs num_epochs n_epochs epoch", ("epochs", ""))
_add("num_ppo_epochs ppo_epochs noptepochs", ("epochs", "passes over the answers of an update"))
_add("per_device_train_batch_size gradient_accumulation_steps", ("batch_size", _STEP))
_add("train_batch_size global_batch_size total_batch_size", ("batch_size", _STEP))
_add("micro_batch_size mini_batch_size", ("tokens_per_batch", _TOKENS))
_add("max_seq_length max_seq_len sequence_len cutoff_len model_max_length", ("max_length", ""))
_add("max_prompt_length", ("max_length", "of prompt and answer together; of PPO's prompts"))
_add("lora_r lora_rank", ("adapter.r", _LORA), ("r", ""))
_add("rank", ("adapter.r", _LORA), ("r", ""))
_add("lora_alpha", ("adapter.alpha", _LORA), ("alpha", ""))
_add("lora_dropout", ("adapter.dropout", _LORA), ("dropout", ""))
_add(
    "lora_target_modules target_modules lora_target lora_target_linear",
    ("adapter.targets", _LORA),
    ("targets", ""),
)
_add("peft_config lora_config finetuning_type use_peft", ("adapter", "null trains all weights"))
_add(
    "base_model model_name_or_path model_name pretrained_model_name_or_path model_id",
    ("path", ""),
    ("model", ""),
    ("models", "a table of names with a `path` each"),
)
_add(
    "load_in_4bit load_in_8bit quantization_bit quantization",
    ("quantize", "nf4 is QLoRA's"),
    ("", "write `quantize: nf4` beside the model's path under `models`"),
)
_add(
    "bf16 fp16 torch_dtype dtype pure_bf16",
    ("dtype", ""),
    ("", "write `dtype` beside the model's path under `models`"),
)
_add("warmup_steps num_warmup_steps warmup", ("warmup_ratio", _SHARE))
_add("lr_scheduler_type lr_scheduler scheduler", ("schedule", "linear, cosine or constant"))
_add("optim", ("optimizer", ""))
_add("max_grad_norm gradient_clipping grad_clip", ("clip", ""))
_add("neftune_noise_alpha noisy_embedding_alpha neftune_alpha", ("neftune", ""))
_add("eval_steps evals_per_epoch eval_strategy", ("eval_every", "steps between evaluations"))
_add("save_steps saves_per_epoch save_strategy", ("checkpoint_every", "steps between checkpoints"))
_add("val_set_size val_size test_size validation_split", ("validation", "a share of the rows"))
_add("early_stopping_patience early_stopping", ("patience", "evaluations without a lower loss"))
_add("gradient_checkpointing", ("recompute", "auto, never or always"))
_add(
    "train_on_inputs train_on_prompt completion_only_loss assistant_only_loss train_on_responses",
    ("objective.loss_on", "answer, last or all"),
    ("loss_on", "answer, last or all"),
)
_add("beta dpo_beta pref_beta rl_beta", ("objective.beta", "of the objective's own table"))
_add(
    "rl loss_type pref_loss trainer trainer_type", ("objective", "a table with a kind, such as dpo")
)
_add("answer completion output", ("response", "the column with the answers"))
_add("dataset datasets dataset_name train_dataset data", ("rows", "the name of a stage"))
_add(
    "rows num_samples n_samples accepted num_accepted",
    ("num_rows", "rows to write, or {accepted: N} for rows behind the filters"),
    ("num_seeds", "seeds to take, or {accepted: N} for rows behind the filters"),
)
_add("dataset_name_or_path data_files data_path dataset_path", ("path", ""), ("rows", "a stage"))
_add("chat_template", ("template", "a table with a kind, such as chatml"))
_add("budget max_budget budget_dollars max_usd", ("budget_usd", "US dollars for the whole run"))
_add("random_state data_seed", ("seed", ""), ("", "the recipe has one `seed` for all its stages"))
_add("seed", ("", "the recipe has one `seed` for all its stages, beside `name`"))
_add("ref_model reference_model", ("reference", ""), ("", f"{_NEITHER}: it is the stack below"))
_add("packing sample_packing pad_to_sequence_len", ("", f"{_NEITHER}: rows are always packed"))
_add("logging_steps", ("", f"{_NEITHER}: every step is logged"))
_add("report_to wandb_project", ("", f"{_NEITHER} and run with --log wandb or tensorboard"))
_add("output_dir", ("name", "the run directory is runs/NAME"), ("", f"{_NEITHER}; see --out"))
_add("num_generations num_return_sequences", ("n", "answers to each prompt"))
_add("max_new_tokens max_completion_length response_length", ("max_tokens", ""))
_add("kl_coef init_kl_coef", ("kl", ""))
_add("cliprange clip_range", ("clip", ""))
_add("cliprange_value clip_range_vf", ("value_clip", ""))
_add("vf_coef", ("value_weight", ""))
_add("num_mini_batches", ("minibatches", ""))
_add("total_episodes num_updates", ("updates", "each draws batch_size answers"))
_add("missing_eos_penalty", ("missing_end", "the score of an answer that was cut"))
_add("reward_model reward_model_path", ("reward", "the name of a stage that trains one"))
_add("api_base base_url openai_api_base endpoint", ("url", ""))
_add("api_key api_key_env openai_api_key", ("key_env", "the name of an environment variable"))


def our_kind(kind: str, kinds: Collection[str]) -> str:
    """What to write for an objective that stands where one of `kinds` must; "" for other names."""
    name = kind.lower().replace("-", "_")
    if name not in OBJECTIVES or "train" not in kinds:
        return ""
    return f"an objective is trained: write `kind: train` and `objective: {{kind: {name}}}`."


def our_key(name: str, keys: Collection[str]) -> str:
    """What to write for a key of another project in a table that has these keys, as the end of a
    sentence; "" if it is not known."""
    for key, note in _ALIASES.get(name.lower().replace("-", "_"), ()):
        if not key:
            return f"{note}."
        if key.partition(".")[0] in keys:
            return f"did you mean {key}?" + (f" ({note})" if note else "")
    return ""
