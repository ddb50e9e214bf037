"""Arguments of other tools and other jobs, and what to say when somebody gives one here."""

from __future__ import annotations

from typing import Collection, Dict

from .suggest import did_you_mean, nearest

#: Name elsewhere -> name here.
RENAMED: Dict[str, str] = {
    "tensor_model_parallel_size": "tensor_parallel_degree",
    "pipeline_model_parallel_size": "pipeline_parallel_degree",
    "sharding_parallel_size": "sharding_parallel_degree",
    "context_parallel_size": "context_parallel_degree",
    "sep_parallel_size": "sep_parallel_degree",
    "expert_model_parallel_size": "expert_parallel_degree",
    "min_lr": "min_learning_rate",
    "lr": "learning_rate",
    "eval_strategy": "evaluation_strategy",
    "seq_length": "max_seq_length",
    "max_length": "max_seq_length",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "accumulate_steps": "gradient_accumulation_steps",
    "gradient_checkpointing": "recompute",
    "data_path": "input_dir",
    "use_fast_ln": "use_fast_layer_norm",
}

_PEFT = "parameter-efficient tuning is not part of pretraining; all weights are trained"
_TUNING = "this program pretrains; supervised tuning and preference training are other programs"
_QUANT = "quantised training is not supported"
_FORMATS = "weights in either format load without a flag: the format is read from the files"


def _because(reason: str, names: str) -> Dict[str, str]:
    return dict.fromkeys(names.split(), reason)


#: Name -> why there is no such argument.
OUT_OF_SCOPE: Dict[str, str] = {
    **_because(
        _PEFT,
        "lora lora_rank lora_alpha lora_path lora_plus_scale rslora use_quick_lora pissa vera vera_rank lokr lokr_dim "
        "loraga reft lorapro prefix_tuning prefix_path num_prefix_tokens qlora neftune neftune_noise_alpha",
    ),
    **_because(
        _TUNING,
        "dpo dpo_beta dpo_loss beta kto ppo ref_model_update_steps reference_free src_length zero_padding "
        "chat_template greedy_zero_padding dataset_name_or_path task_name eval_with_do_generation",
    ),
    **_because(
        _QUANT,
        "weight_quantize_algo quant_type do_quant do_ptq do_gptq do_awq do_qat qat_type ptq_step weight_blocksize "
        "use_fp8 fp8 apply_hadamard quantization",
    ),
    **_because(_FORMATS, "convert_from_torch from_hf_hub from_aistudio from_modelscope save_to_hf"),
    **_because("background saving is not available", "enable_zero_cost_checkpoint zcc_update_interval"),
    **_because("only CPUs and CUDA GPUs are supported", "npu xpu use_npu use_xpu nested_export"),
    **_because("it belongs to the launcher, before the program's name", "gpus devices nnodes master nproc_per_node"),
    **_because("use the parallel degrees and sharding of this toolkit", "deepspeed fsdp"),
}


def explain_unknown(name: str, known: Collection[str], on_command_line: bool) -> str:
    """What to say about the unknown argument `name`."""
    dashes = "--" if on_command_line else ""
    shown = f"unknown argument --{name}" if on_command_line else f'unknown key "{name}"'
    if RENAMED.get(name) in known:
        return f'{shown}; here it is called "{dashes}{RENAMED[name]}"'
    if name in OUT_OF_SCOPE:
        return f"{shown}: {OUT_OF_SCOPE[name]}; delete it"
    if name.startswith("no_") and nearest(name[3:], known)[:1] == [name[3:]] and not on_command_line:
        return f'{shown}; write "{name[3:]}": false'
    hint = did_you_mean(name, known)
    if hint and any(other.startswith(name) and len(other) > len(name) + 1 for other in known):
        hint += " (beginnings of names are not accepted)"
    return shown + hint.replace(' "', f' "{dashes}')
