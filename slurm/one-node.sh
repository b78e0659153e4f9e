#!/usr/bin/env bash
# A real SLURM on one machine: munge, slurmctld and slurmd, with mariadb and slurmdbd where `sacct` shall work. For the
# tests, and for trying things out without a cluster. Needs root on Debian or Ubuntu; no systemd, no cgroups, no network:
# every socket is bound to loopback or is a private unix socket. Everything lies in one folder (SLURM_NODE_DIR); nothing
# is written elsewhere but the packages (with a policy-rc.d during their installation, where there is none), the database
# (SLURM_NODE_DB), the link /etc/slurm/slurm.conf (only where no file is) and, only where the host name does not resolve
# to 127.*, one marked line in /etc/hosts.
#
#   one-node.sh up       install what is missing, configure, start, wait until the node is idle
#   one-node.sh down     cancel the jobs, stop the daemons
#   one-node.sh purge    down, then delete the folder, the link and the line
#   one-node.sh status   what runs; exit code 0 only if the node can take jobs
#   one-node.sh env      print `export SLURM_CONF=...`, for eval
#   one-node.sh install  only the packages
#
# All of them can be repeated at will. Each `up` applies the settings of its own environment:
#
#   SLURM_NODE_DIR=/var/lib/one-node-slurm  the folder (short: unix sockets lie in it)
#   SLURM_NODE_CPUS=8            CPUs that the node declares, whatever the machine has
#   SLURM_NODE_MEM_MB=262144     memory that the node declares (neither consumed nor enforced)
#   SLURM_NODE_GPUS=4            GPUs that the node declares: real /dev/nvidia[0-9]* as far as they exist, else made up
#   SLURM_NODE_ACCT=1            1: accounting, so that sacct works; 0: none
#   SLURM_NODE_PORT=6817         slurmctld on this port, slurmd and slurmdbd on the next two
#   SLURM_NODE_CRED_EXPIRE=5     seconds before a requeued job starts again (SLURM's default is 120; it refuses less than
#                                5 and takes 120 then)
#   SLURM_NODE_KILL_WAIT=5       seconds between SIGTERM and SIGKILL at the time limit
#   SLURM_NODE_GRACE=20          seconds that a preempted job of the partition "low" has left
#   SLURM_NODE_MIN_JOB_AGE=3600  seconds for which slurmctld remembers a finished job
#   SLURM_NODE_KILL_INVALID_DEPEND=1  1: a job whose dependency can never hold is cancelled
#   SLURM_NODE_DB=...            the database's folder; by default below /dev/shm where 300 MB are free there (a first
#                                start takes 3 s instead of 9), else in SLURM_NODE_DIR
#   SLURM_NODE_TIMEOUT=60        seconds that `up` waits for each thing
#   SLURM_NODE_APT=1             0: never call apt-get
set -euo pipefail
umask 022

DIR=${SLURM_NODE_DIR:-/var/lib/one-node-slurm}
CPUS=${SLURM_NODE_CPUS:-8}
MEM_MB=${SLURM_NODE_MEM_MB:-262144}
GPUS=${SLURM_NODE_GPUS:-4}
ACCT=${SLURM_NODE_ACCT:-1}
PORT=${SLURM_NODE_PORT:-6817}
CRED_EXPIRE=${SLURM_NODE_CRED_EXPIRE:-5}
[ "$CRED_EXPIRE" -ge 5 ] || CRED_EXPIRE=5
KILL_WAIT=${SLURM_NODE_KILL_WAIT:-5}
GRACE=${SLURM_NODE_GRACE:-20}
MIN_JOB_AGE=${SLURM_NODE_MIN_JOB_AGE:-3600}
KILL_INVALID=${SLURM_NODE_KILL_INVALID_DEPEND:-1}
TIMEOUT=${SLURM_NODE_TIMEOUT:-60}
APT=${SLURM_NODE_APT:-1}


# database_folder: the one that is there, else one in memory where there is room
database_folder() {
  local in_memory=/dev/shm/slurm_node${DIR//\//_} free
  free=$(df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
  if [ -n "${SLURM_NODE_DB:-}" ]; then echo "$SLURM_NODE_DB"
  elif [ -e "$DIR/db/.ready" ]; then echo "$DIR/db"
  elif [ -e "$in_memory/.ready" ] || [ "${free:-0}" -ge 300 ]; then echo "$in_memory"
  else echo "$DIR/db"; fi
}

DB=$(database_folder)
CONF=$DIR/etc/slurm.conf
NODE=$(hostname -s 2>/dev/null || cat /proc/sys/kernel/hostname)
CLUSTER=slurmnode
HOSTS_MARK='# one-node.sh'
CONF_MARK='# written by one-node.sh: edits are overwritten by the next "up"'
export PATH=$PATH:/usr/sbin:/sbin
export SLURM_CONF=$CONF
export SLURM_NODE_TAG=$DIR            # seen in /proc/PID/environ: tells our daemons from anybody else's

say() { echo "one-node: $*" >&2; }
die() { say "ERROR: $*"; exit 1; }
now() { date +%s%N; }

# fail_with MESSAGE LOG...: the ends of the logs, then the message
fail_with() {
  local message=$1 log; shift
  for log in "$@"; do tail -n 20 "$DIR/log/$log" >&2 2>/dev/null || true; done
  die "$message"
}

# wait_for SECONDS WHAT CMD...   polls every 0.1 s
wait_for() {
  local end=$(( $(now) + $1 * 1000000000 )) what=$2; shift 2
  until "$@" >/dev/null 2>&1 </dev/null; do
    [ "$(now)" -lt $end ] || { say "gave up waiting for $what"; return 1; }
    sleep 0.1
  done
}

# our_pid NAME PIDFILE: prints the pid if that pid lives, is that program, and is ours
our_pid() {
  local p
  [ -r "$2" ] || return 1
  p=$(tr -dc 0-9 < "$2") || return 1
  [ -n "$p" ] && [ -r "/proc/$p/comm" ] || return 1
  case $(cat "/proc/$p/comm" 2>/dev/null) in "$1"*) ;; *) return 1 ;; esac
  grep -qzFx "SLURM_NODE_TAG=$DIR" "/proc/$p/environ" 2>/dev/null || return 1
  echo "$p"
}

# start_in NAME CMD...: starts CMD detached, with a clean environment, its output in log/NAME.out; CMD returns once it
# has gone to the background
start_in() {
  local name=$1; shift
  env -i PATH="$PATH" LANG=C.UTF-8 HOME=/ SLURM_CONF="$CONF" SLURM_NODE_TAG="$DIR" \
      MYSQL_UNIX_PORT="$DIR/run/db/mysql.sock" \
    setsid "$@" </dev/null >"$DIR/log/$name.out" 2>&1
}

# stop_pid NAME PIDFILE SECONDS: TERM, wait, then KILL
stop_pid() {
  local p; p=$(our_pid "$1" "$2") || { rm -f "$2"; return 0; }
  kill -TERM "$p" 2>/dev/null || true
  gone() { ! our_pid "$1" "$2"; }
  wait_for "$3" "$1 to end" gone "$1" "$2" || { kill -KILL "$p" 2>/dev/null || true; sleep 0.2; }
  rm -f "$2"
}

# ---------------------------------------------------------------- install
missing_packages() {
  local want=(munge slurm-client slurmctld slurmd) p
  [ "$ACCT" = 1 ] && want+=(slurmdbd mariadb-server-core mariadb-client-core)
  for p in "${want[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
  done
}

do_install() {
  local miss made=0 rc=0
  miss=$(missing_packages | tr '\n' ' ')
  [ -n "${miss// }" ] || return 0
  [ "$APT" = 1 ] || die "packages missing and SLURM_NODE_APT=0: $miss"
  say "installing: $miss"
  mkdir -p "$DIR/log"
  # keep the packages' own init scripts from starting daemons we do not want
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; made=1
  fi
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3
             -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef)
  # shellcheck disable=SC2086
  "${apt[@]}" install --no-install-recommends $miss >"$DIR/log/apt.log" 2>&1 ||
    { "${apt[@]}" update >>"$DIR/log/apt.log" 2>&1 || true
      "${apt[@]}" install --no-install-recommends $miss >>"$DIR/log/apt.log" 2>&1; } || rc=$?
  [ $made = 0 ] || rm -f /usr/sbin/policy-rc.d
  [ $rc = 0 ] || fail_with "apt-get failed ($rc), see $DIR/log/apt.log" apt.log
  hash -r
}

# ---------------------------------------------------------------- configure
# "slurm-wlm 22.05.8"; not `sinfo --version`: with SLURM_CONF naming no file yet it retries for 60 s
version() { slurmd -V 2>/dev/null; }

put() {   # put FILE MODE: stdin into FILE; rc 0 if it changed
  local tmp; tmp=$(mktemp "$1.XXXXXX"); cat > "$tmp"; chmod "$2" "$tmp"
  if cmp -s "$tmp" "$1" 2>/dev/null; then rm -f "$tmp"; return 1; fi
  mv -f "$tmp" "$1"
}

# the daemons bind to what the host name resolves to (NoInAddrAny): that has to be loopback
resolve_host() {
  resolves_to_loopback && return 0
  say "host name '$NODE' does not resolve to 127.*: adding a line to /etc/hosts"
  { printf '127.0.0.1 %s %s\n' "$NODE" "$HOSTS_MARK"; cat /etc/hosts; } > "$DIR/hosts.new"
  cat "$DIR/hosts.new" > /etc/hosts        # in place: often a bind mount
  resolves_to_loopback || die "cannot make '$NODE' resolve to loopback"
}

resolves_to_loopback() {
  case $(getent ahostsv4 "$NODE" | awk 'NR == 1 { print $1 }') in 127.*) return 0 ;; *) return 1 ;; esac
}

make_folders() {
  mkdir -p "$DIR"/{etc,log,run,run/munge,run/db,spool/ctld,spool/d,dev}
  chmod 755 "$DIR" "$DIR/run" "$DIR/run/munge" "$DIR/etc" "$DIR/log"
  chmod 700 "$DIR/run/db"
  if [ ! -s "$DIR/etc/munge.key" ]; then
    ( umask 077; dd if=/dev/urandom of="$DIR/etc/munge.key" bs=128 count=1 status=none )
  fi
  chmod 400 "$DIR/etc/munge.key"; chown 0:0 "$DIR/etc/munge.key"
}

# Each GPU needs its own File: a count alone makes the node INVAL, a plain file leaves CUDA_VISIBLE_DEVICES unset, the
# same name twice is fatal. It has to end at a character device.
gres_conf() {
  local i dev
  for ((i = 0; i < GPUS; i++)); do
    dev=/dev/nvidia$i
    if [ ! -c "$dev" ]; then
      dev=$DIR/dev/gpu$i
      [ -c "$dev" ] || ln -sf /dev/null "$dev"
    fi
    echo "Name=gpu File=$dev"
  done
}

# 23.11 and later load a cgroup plugin even where nothing uses it (22.05 does not know the word "disabled")
cgroup_conf() {
  local found; found=$(version | grep -oE '[0-9]+\.[0-9]+' | head -n 1); found=${found/./}
  if [ "${found:-2205}" -ge 2311 ]; then echo "CgroupPlugin=disabled"; else echo "# no cgroups used"; fi
}

slurm_conf() {
  local gres="" depend=""
  [ "$GPUS" -gt 0 ] && gres="Gres=gpu:$GPUS"
  # (in SchedulerParameters, where the web often puts it, it would be ignored without a word)
  [ "$KILL_INVALID" = 1 ] && depend="DependencyParameters=kill_invalid_depend"
  cat <<CONF
$CONF_MARK
ClusterName=$CLUSTER
SlurmctldHost=$NODE(127.0.0.1)
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also the time a requeued job has to wait (BeginTime); SLURM's default is 120
AuthInfo=socket=$DIR/run/munge/munge.socket.2,cred_expire=$CRED_EXPIRE
# bind to what the host name resolves to (127.0.0.1), not to every interface
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$DIR/spool/ctld
SlurmdSpoolDir=$DIR/spool/d
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.log
SlurmctldDebug=info
SlurmdDebug=info
# no cgroups, no binding
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
PropagateResourceLimits=NONE
# declared, not real, resources; memory is checked against the declaration but not consumed
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
# jobs
JobRequeue=1
MaxArraySize=10001
MaxJobCount=50000
MinJobAge=$MIN_JOB_AGE
InactiveLimit=0
KillWait=$KILL_WAIT
OverTimeLimit=0
UnkillableStepTimeout=60
# a short scheduling cycle
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000,bf_interval=2
$depend
PriorityType=priority/basic
# partition "low" can be preempted by "high": --signal is sent at once, requeue after GraceTime
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
# accounting
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=30
JobCompType=jobcomp/none
CONF
  accounting_conf
  cat <<CONF
NodeName=$NODE NodeAddr=127.0.0.1 CPUS=$CPUS RealMemory=$MEM_MB TmpDisk=0 $gres State=UNKNOWN
PartitionName=DEFAULT Nodes=$NODE MaxTime=INFINITE DefaultTime=60 State=UP
PartitionName=main Default=YES PriorityTier=5 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE
PartitionName=high PriorityTier=9 PreemptMode=OFF
CONF
}

accounting_conf() {
  [ "$ACCT" = 1 ] || { echo "AccountingStorageType=accounting_storage/none"; return 0; }
  cat <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 2))
# towards slurmdbd AuthInfo is not looked at: the munge socket has to be named here as well
AccountingStoragePass=$DIR/run/munge/munge.socket.2
AccountingStorageTRES=gres/gpu
CONF
}

slurmdbd_conf() {
  cat <<CONF
AuthType=auth/munge
AuthInfo=socket=$DIR/run/munge/munge.socket.2
DbdHost=$NODE
DbdAddr=127.0.0.1
DbdPort=$((PORT + 2))
SlurmUser=root
CommunicationParameters=NoInAddrAny
DebugLevel=info
LogFile=$DIR/log/slurmdbd.log
PidFile=$DIR/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
CONF
}

# so that sbatch and sacct work without SLURM_CONF, where nobody else's configuration is there
link_conf() {
  mkdir -p /etc/slurm
  if [ -L /etc/slurm/slurm.conf ] && [ ! -e /etc/slurm/slurm.conf ]; then rm -f /etc/slurm/slurm.conf; fi
  [ -e /etc/slurm/slurm.conf ] || ln -s "$CONF" /etc/slurm/slurm.conf
}

write_config() {        # sets CHANGED=1 when something differs from what was there
  CHANGED=0
  mkdir -p "$DIR"
  resolve_host
  make_folders
  gres_conf | put "$DIR/etc/gres.conf" 644 && CHANGED=1
  cgroup_conf | put "$DIR/etc/cgroup.conf" 644 && CHANGED=1
  slurm_conf | put "$CONF" 644 && CHANGED=1
  if [ "$ACCT" = 1 ]; then
    slurmdbd_conf | put "$DIR/etc/slurmdbd.conf" 600 && CHANGED=1
    chown 0:0 "$DIR/etc/slurmdbd.conf"
  fi
  link_conf
}

# ---------------------------------------------------------------- start
start_munge() {
  our_pid munged "$DIR/run/munge/munged.pid" >/dev/null && return 0
  rm -f "$DIR/run/munge/"*
  start_in munged munged --key-file="$DIR/etc/munge.key" --socket="$DIR/run/munge/munge.socket.2" \
    --pid-file="$DIR/run/munge/munged.pid" --log-file="$DIR/log/munged.log" \
    --seed-file="$DIR/spool/munged.seed" --num-threads=2 --force ||
    fail_with "munged does not start" munged.out
  wait_for "$TIMEOUT" munge munge_works || fail_with "munge does not work" munged.log
}

munge_works() { munge -S "$DIR/run/munge/munge.socket.2" -n | unmunge -S "$DIR/run/munge/munge.socket.2"; }

sql() { mariadb --no-defaults -S "$DIR/run/db/mysql.sock" -u root -BN -e "$1"; }

start_db() {
  our_pid mariadbd "$DIR/run/db/mariadbd.pid" >/dev/null && return 0
  rm -f "$DIR/run/db/"*
  if [ ! -e "$DB/.ready" ]; then
    rm -rf "$DB"; mkdir -p "$DB"; chmod 700 "$DB"
    rm -rf "$DIR/spool/ctld"; mkdir -p "$DIR/spool/ctld"      # its state refers to rows of the old database
    mariadb-install-db --no-defaults --user=root --datadir="$DB" --auth-root-authentication-method=normal \
      --skip-test-db --innodb-log-file-size=16M >"$DIR/log/install-db.out" 2>&1 ||
      fail_with "mariadb-install-db failed" install-db.out
    touch "$DB/.ready"
  fi
  start_in mariadbd setsid --fork mariadbd --no-defaults --user=root --datadir="$DB" --socket="$DIR/run/db/mysql.sock" \
    --pid-file="$DIR/run/db/mariadbd.pid" --log-error="$DIR/log/mariadbd.log" \
    --skip-networking --skip-name-resolve --skip-log-bin --performance-schema=OFF \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 \
    --innodb-flush-log-at-trx-commit=0 --sync-binlog=0 --max-allowed-packet=16M --max-connections=64
  wait_for "$TIMEOUT" mariadb sql 'select 1' || fail_with "mariadbd does not start" mariadbd.log
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

start_dbd() {
  our_pid slurmdbd "$DIR/run/slurmdbd.pid" >/dev/null && return 0
  rm -f "$DIR/run/slurmdbd.pid"
  port_open $((PORT + 2)) && die "port $((PORT + 2)) is taken"
  start_in slurmdbd slurmdbd || fail_with "slurmdbd does not start" slurmdbd.out slurmdbd.log
  wait_for "$TIMEOUT" slurmdbd timeout 5 sacctmgr -n list cluster || fail_with "slurmdbd does not answer" slurmdbd.log
  [ -n "$(sacctmgr -nP list cluster format=Cluster)" ] || sacctmgr -i add cluster "$CLUSTER" >/dev/null ||
    die "sacctmgr add cluster failed"
}

start_ctld() {
  our_pid slurmctld "$DIR/run/slurmctld.pid" >/dev/null && return 0
  rm -f "$DIR/run/slurmctld.pid"
  port_open "$PORT" && die "port $PORT is taken"
  start_in slurmctld slurmctld || fail_with "slurmctld does not start" slurmctld.out slurmctld.log
  wait_for "$TIMEOUT" slurmctld timeout 5 sh -c 'scontrol ping | grep -qw UP' ||
    fail_with "slurmctld does not answer" slurmctld.log
}

start_slurmd() {
  our_pid slurmd "$DIR/run/slurmd.pid" >/dev/null && return 0
  rm -f "$DIR/run/slurmd.pid"
  port_open $((PORT + 1)) && die "port $((PORT + 1)) is taken"
  start_in slurmd slurmd || fail_with "slurmd does not start" slurmd.out slurmd.log
}

usable() {
  case $(sinfo -h -N -p main -o %T 2>/dev/null | head -1) in
    idle|mixed|allocated|completing) return 0 ;;
    down*|drain*) scontrol update NodeName="$NODE" State=RESUME >/dev/null 2>&1 || true ;;
  esac
  return 1
}

do_up() {
  [ "$(id -u)" = 0 ] || die "needs root"
  [ ${#DIR} -le 70 ] || die "SLURM_NODE_DIR is too long for unix sockets: $DIR"
  local t0 t1 t2; t0=$(now)
  mkdir -p "$DIR"/{log,run}
  exec 9>"$DIR/run/lock"; flock 9              # one "up" or "down" at a time
  do_install; t1=$(now)
  write_config
  if [ $CHANGED = 1 ]; then stop_slurm 9>&-; fi      # a changed configuration needs a restart
  { start_munge
    if [ "$ACCT" = 1 ]; then start_db; start_dbd; else stop_pid mariadbd "$DIR/run/db/mariadbd.pid" 20; fi
    start_ctld; start_slurmd
  } 9>&-
  wait_for "$TIMEOUT" "the node to be idle" usable ||
    { sinfo -N -l >&2 || true; fail_with "the node does not come up" slurmctld.log slurmd.log; }
  t2=$(now)
  say "up: $(sinfo -h -N -p main -o '%N %T %c cpus %m MB %G')" \
    "(install $(( (t1 - t0) / 1000000 )) ms, start $(( (t2 - t1) / 1000000 )) ms)"
  say "use it with: export SLURM_CONF=$CONF"
}

# ---------------------------------------------------------------- stop
our_stepds() {       # slurmstepd processes of our slurmd
  local p
  for p in /proc/[0-9]*; do
    [ "$(cat "$p/comm" 2>/dev/null)" = slurmstepd ] || continue
    if grep -qzFx -e "SLURM_NODE_TAG=$DIR" -e "SLURM_CONF=$CONF" "$p/environ" 2>/dev/null ||
       readlink "$p"/cwd "$p"/fd/* 2>/dev/null | grep -qF "$DIR/"; then
      echo "${p#/proc/}"
    fi
  done
}

our_job_processes() {   # what a job started: SLURM gives it SLURM_JOB_ID and SLURM_CONF (not ourselves or a parent)
  local p mine=" $$ " q=$PPID
  while [ "${q:-0}" -gt 1 ]; do mine+="$q "; q=$(awk '/^PPid:/{print $2}' "/proc/$q/status" 2>/dev/null); done
  grep -lzFx "SLURM_CONF=$CONF" /proc/[0-9]*/environ 2>/dev/null | while read -r p; do
    grep -qz '^SLURM_JOB_ID=' "$p" 2>/dev/null || continue
    p=${p#/proc/}; p=${p%/environ}
    case $mine in *" $p "*) ;; *) echo "$p" ;; esac
  done || true      # nothing found is no failure
}

no_jobs() { [ -z "$(squeue -h -t R,CG,S,ST,SO -o %i 2>/dev/null)" ] && [ -z "$(our_stepds)" ]; }

stop_slurm() {
  stop_pid slurmd    "$DIR/run/slurmd.pid" 10
  stop_pid slurmctld "$DIR/run/slurmctld.pid" 15
  stop_pid slurmdbd  "$DIR/run/slurmdbd.pid" 15
}

do_down() {
  [ -d "$DIR" ] || { say "nothing there"; return 0; }
  mkdir -p "$DIR/run"
  exec 9>"$DIR/run/lock"; flock 9
  if our_pid slurmctld "$DIR/run/slurmctld.pid" >/dev/null; then
    # %F: the array's own id, which also takes the pending tasks first (a task's raw id, %A, is refused)
    local ids; ids=$(squeue -h -o %F 2>/dev/null | sort -u)
    # shellcheck disable=SC2086
    [ -z "$ids" ] || scancel $ids 2>/dev/null || true
    wait_for $((KILL_WAIT + 10)) "the jobs to end" no_jobs || true
  fi
  local p; for p in $(our_stepds) $(our_job_processes); do
    say "killing what is left of a job: $p $(tr '\0' ' ' < "/proc/$p/cmdline" 2>/dev/null | cut -c1-80)"
    kill -KILL "$p" 2>/dev/null || true
  done
  stop_slurm
  stop_pid mariadbd "$DIR/run/db/mariadbd.pid" 20
  stop_pid munged   "$DIR/run/munge/munged.pid" 5
  say "down"
}

do_purge() {
  do_down
  if [ "$(readlink /etc/slurm/slurm.conf 2>/dev/null)" = "$CONF" ]; then rm -f /etc/slurm/slurm.conf; fi
  if grep -qF "$HOSTS_MARK" /etc/hosts; then
    grep -vF "$HOSTS_MARK" /etc/hosts > "$DIR/hosts.new"; cat "$DIR/hosts.new" > /etc/hosts
  fi
  if [ -e "$DB/.ready" ]; then rm -rf "${DB:?}"; fi
  # only a folder that is known to be ours is deleted
  if grep -qF "$CONF_MARK" "$CONF" 2>/dev/null; then rm -rf "${DIR:?}"; fi
  say "purged"
}

do_status() {
  local n f p rc=0
  for n in munged:run/munge/munged.pid mariadbd:run/db/mariadbd.pid slurmdbd:run/slurmdbd.pid \
           slurmctld:run/slurmctld.pid slurmd:run/slurmd.pid; do
    f=$DIR/${n#*:}; n=${n%%:*}
    p=$(our_pid "$n" "$f") && echo "$n pid $p" || echo "$n -"
  done
  usable || rc=1
  sinfo -N -o '%N %P %T %c %m %G' 2>/dev/null || rc=1
  return $rc
}

case ${1:-} in
  up) do_up ;;
  down) do_down ;;
  purge) do_purge ;;
  status) do_status ;;
  install) do_install ;;
  env) echo "export SLURM_CONF=$CONF" ;;
  *) sed -n '2,/^set -euo/{s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
