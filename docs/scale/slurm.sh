#!/bin/bash
# Labels a data set on Slurm's nodes: SOURCE=... NAMES=... OUTPUT=... BUNDLE=... sbatch slurm.sh
#
# All four are on a file system that the nodes share, as is the environment with glip-export[ray]. A job that ran out of
# time goes on where it was when it is submitted again; three in a row, one after the other:
#   for _ in 1 2 3; do sbatch --dependency=singleton slurm.sh; done
#SBATCH --job-name=glip-label
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# For GPUs, and ARGUMENTS="--backend onnxruntime:cuda --gpus-per-worker 1":
##SBATCH --gpus-per-node=4
set -euo pipefail

: "${SOURCE:?}" "${NAMES:?}" "${OUTPUT:?}" "${BUNDLE:?}"
read -ra arguments <<<"${ARGUMENTS:---backend openvino --threads-per-worker 2}"
# source /shared/venv/bin/activate

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 10000)) # one of its own a job: two may share a head
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') # nobody else on the nodes may give this Ray work
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

# Starts Ray on every node, the command on the first one, and ends all of your Ray on them after it: so --exclusive.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats -- \
  glip-export label "$SOURCE" --names "$NAMES" --output "$OUTPUT" --bundle "$BUNDLE" --ray auto "${arguments[@]}"
