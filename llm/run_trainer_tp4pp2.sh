#!/usr/bin/env bash
# Pretrain LLaMA-7B on 8 devices of one machine: tensor parallel 4 x pipeline parallel 2, sharding stage 1 over what is left.
#
#     llm/run_trainer_tp4pp2.sh [--flag value ...]
#
# Flags given here win over those below; these variables change what is most often changed:
#     MODEL, TOKENIZER   name or folder (facebook/llama-7b)     INPUT_DIR    folder with the token files (./data)
#     OUTPUT_DIR         where everything goes                  DEVICE       gpu, or cpu for a trial without GPUs
#     DEVICES            GPUs (0,1,2,3,4,5,6,7)                 NPROC        processes, on a CPU (8)
#     PRECISION          fp16, bf16 or fp32 (fp16)              PYTHON       interpreter (python)
# On several machines also, on each: NNODES, MASTER=host:port of the first, NODE_RANK=0, 1, ..., and HOST, its own address.
#
# Logs: $OUTPUT_DIR_log/workerlog.N of process N.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
task_name=llama_hybrid
OUTPUT_DIR=${OUTPUT_DIR:-output/$task_name}
MODEL=${MODEL:-facebook/llama-7b}
DEVICE=${DEVICE:-gpu}
PRECISION=${PRECISION:-fp16}

launch=(--log_dir "${OUTPUT_DIR}_log" --log_overwrite true)
if [ "$DEVICE" = cpu ]; then
    launch+=(--nproc_per_node "${NPROC:-8}")
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
else
    launch+=(--devices "${DEVICES:-0,1,2,3,4,5,6,7}")
fi
if [ "${NNODES:-1}" -gt 1 ]; then
    launch+=(--nnodes "$NNODES" --master "${MASTER:?host:port of the first machine}")
    launch+=(--rank "${NODE_RANK:?0 on the first machine, 1 on the next, ...}" --host "${HOST:?the address of this machine}")
else # what keeps other programs of this machine out of the connections between the processes
    export PADDLENLP_JOB_KEY=${PADDLENLP_JOB_KEY:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}
fi

precision=()
if [ "$PRECISION" != fp32 ]; then
    precision+=("--$PRECISION" true --fp16_opt_level O2)
fi
if [ "$PRECISION" = fp16 ]; then
    precision+=(--scale_loss 512)
fi

# Further options worth knowing: --recompute true, --no_recompute_layers, --sequence_parallel true, --virtual_pp_degree 2.
exec "${PYTHON:-python}" -u -m paddle.distributed.launch "${launch[@]}" "$here/run_pretrain.py" \
    --model_name_or_path "$MODEL" \
    --tokenizer_name_or_path "${TOKENIZER:-$MODEL}" \
    --input_dir "${INPUT_DIR:-./data}" \
    --output_dir "$OUTPUT_DIR" \
    --split 949,50,1 \
    --max_seq_length 2048 \
    --per_device_train_batch_size 1 \
    --per_device_eval_batch_size 4 \
    --gradient_accumulation_steps 4 \
    --use_flash_attention true \
    --use_fused_rms_norm false \
    ${precision[@]+"${precision[@]}"} \
    --tensor_parallel_degree 4 \
    --pipeline_parallel_degree 2 \
    --virtual_pp_degree 1 \
    --sequence_parallel false \
    --learning_rate 0.00001 \
    --min_learning_rate 0.000001 \
    --max_steps 10000 \
    --save_steps 5000 \
    --weight_decay 0.01 \
    --warmup_ratio 0.01 \
    --max_grad_norm 1.0 \
    --logging_steps 10 \
    --dataloader_num_workers 1 \
    --eval_steps 1000 \
    --report_to visualdl \
    --sharding stage1 \
    --disable_tqdm true \
    --continue_training true \
    --recompute false \
    --recompute_granularity full \
    --do_train true \
    --do_eval true \
    --device "$DEVICE" \
    --distributed_dataloader true \
    "$@"
