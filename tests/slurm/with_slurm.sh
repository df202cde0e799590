#!/usr/bin/env bash
# Run a command beside a real Slurm of one node, started from a temporary folder and stopped by its pid files:
#     tests/slurm/with_slurm.sh .venv/bin/python -m pytest tests/slurm
# Needs Debian's slurm-wlm and munge, and root (slurmd starts jobs as their owners). Installs nothing.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"
for tool in munged slurmctld slurmd sbatch squeue; do
    if ! command -v "$tool" >/dev/null; then
        echo "$tool is missing; on Debian or Ubuntu: apt-get install slurm-wlm munge" >&2
        exit 2
    fi
done
if [ "$(id -u)" != 0 ]; then
    echo "a Slurm of one's own needs root (in a container, for example)" >&2
    exit 2
fi

folder=$(mktemp -d)
chmod 755 "$folder"
stop() {
    for daemon in slurmd slurmctld munged; do
        if [ -s "$folder/$daemon.pid" ]; then
            pid=$(cat "$folder/$daemon.pid")
            kill "$pid" 2>/dev/null || true
            tail --pid="$pid" -f /dev/null
        fi
    done
    rm -rf "$folder"
}
trap stop EXIT

mkdir -m 700 "$folder/munge" "$folder/state" "$folder/spool"
mkdir -m 755 "$folder/socket"
head -c 1024 /dev/urandom >"$folder/munge/key"
chmod 400 "$folder/munge/key"
socket="$folder/socket/munge"
munged --socket="$socket" --key-file="$folder/munge/key" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --force 2>/dev/null

host=$(hostname -s)
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmdPort=$((${SLURM_TEST_PORT:-16817} + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket,cred_expire=5
PropagatePrioProcess=1
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=15
MaxArraySize=1001
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=$memory
PartitionName=work Nodes=ALL Default=YES State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10
CONF
export SLURM_CONF="$folder/slurm.conf"
slurmctld
slurmd
if ! timeout 60 srun --partition=urgent true; then
    cat "$folder/slurmctld.log" "$folder/slurmd.log" >&2
    exit 1
fi
SAFETROVE_SLURM=1 "$@"
