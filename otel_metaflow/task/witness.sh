# Sourced by the shell of a step in a container, before all else that it runs (launcher/remote.py): bash 3.2 or newer.
#
# It outlives the step's Python and sees how that ended: killed, or never up, in a bootstrap that failed. It appends an
# `exit` record to the attempt's journal, as a launcher does where there is one, and gives the shipper a bounded time to
# deliver. The trap stands in the subshell of the step alone: in the container's own shell it would have PID 1 obey
# SIGTERM and end the container early. Output and exit code of the step stay what they are.

_otel_logs=${MFLOG_STDOUT%/*}
_otel_carried=$PWD/.mf_code/otel-metaflow
_otel_tee=$! # the later of the two processes that copy the step's output to files, since bash 4.4
# The shim makes this file once the step has its journal; its name informs the task who will write the exit record.
export OTEL_METAFLOW_WITNESS=$_otel_logs/otel-witness-$BASHPID

# How often the kernel has killed a process of this container for want of memory: cgroup v2, or v1.
_otel_count_oom_kills() {
  local file name value
  _otel_oom_kills=0
  for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ -r $file ] || continue
    while read -r name value; do
      [ "$name" != oom_kill ] || _otel_oom_kills=$value
    done < $file
  done
}

# $1 as the name of a file or folder of the journal, as journal/layout.py has it: in _otel_name.
_otel_file_name() {
  local LC_ALL=C text=$1 character index
  _otel_name=
  for ((index = 0; index < ${#text}; index++)); do
    character=${text:index:1}
    case $character in
      [A-Za-z0-9_~:=,+' '-]) ;;
      *)
        printf -v character %d "'$character"
        printf -v character '%%%02X' $((character & 255))
        ;;
    esac
    _otel_name+=$character
  done
}

_otel_is_shipping() {
  [ -z "$OTEL_METAFLOW_LAUNCHER_EXPORTS" ] || return 1
  case $(printf %s "$OTEL_SDK_DISABLED" | tr A-Z a-z) in true | 1 | yes | on) return 1 ;; esac
  [ -n "$OTEL_EXPORTER_OTLP_ENDPOINT$OTEL_EXPORTER_OTLP_TRACES_ENDPOINT$OTEL_EXPORTER_OTLP_METRICS_ENDPOINT$OTEL_EXPORTER_OTLP_LOGS_ENDPOINT$OTEL_METAFLOW_LOG_DIR" ]
}

# Whether process $1 runs: one that nobody has waited for does not.
_otel_runs() {
  local stat
  kill -0 "$1" 2> /dev/null || return 1
  if read -r stat 2> /dev/null < "/proc/$1/stat"; then
    case $stat in *') Z '*) return 1 ;; esac
  fi
}

# The step's shell ends with code $1.
_otel_exit() {
  local code=$1 before=$_otel_oom_kills more= flow run step task rest folder journal now shipper= ticks
  trap '' HUP INT TERM
  umask 077
  rm -f "$_otel_logs/otel-journal" # what is stored from now on is the end

  flow=${MF_PATHSPEC%%/*} rest=${MF_PATHSPEC#*/}
  run=${rest%%/*} rest=${rest#*/}
  step=${rest%%/*} task=${rest#*/}
  folder=${OTEL_METAFLOW_HOME:-$_otel_logs/otel}
  case $folder in '~'*) folder=$HOME${folder#'~'} ;; esac
  if [ -n "$OTEL_METAFLOW_ID_NAMESPACE" ]; then
    _otel_file_name "$OTEL_METAFLOW_ID_NAMESPACE"
    folder+=/@$_otel_name
  fi
  _otel_file_name "$flow"
  folder+=/$_otel_name
  _otel_file_name "$run"
  folder+=/$_otel_name
  _otel_file_name "$step"
  journal=$folder/$_otel_name
  _otel_file_name "$task"
  journal+=.$_otel_name.$MF_ATTEMPT.jsonl

  # A step that came up without a journal records nothing: telemetry is off, or its Python too old.
  if [ -e "$OTEL_METAFLOW_WITNESS" ]; then
    rm -f "$OTEL_METAFLOW_WITNESS"
    [ -e "$journal" ] || return 0
    read -r shipper 2> /dev/null < "${journal%.jsonl}.pid"
  else
    _otel_is_shipping && mkdir -p "$folder" || return 0
    # Of a step that fails at once it has not even begun; a process that the step left behind may keep it going.
    ticks=60
    while ((ticks-- > 0)) && _otel_runs "$_otel_tee"; do
      sleep 0.05
    done
  fi

  # A shell has 128 and the number of a signal that killed a process; a launcher, and the journal, minus the number.
  if ((code > 128 && code < 193)); then
    code=$((128 - code))
  elif ((code == 0)); then
    more=',"ok":false' # 0 alone is no success: a SIGTERM to all processes looks like that, too
  fi
  _otel_count_oom_kills
  ((_otel_oom_kills <= before)) || more+=',"outOfMemory":true'
  now=${EPOCHREALTIME//[!0-9]/}
  now=${now:+${now}000}
  printf '{"kind":"exit","timeUnixNano":%s,"step":"%s","task":"%s","attempt":%s,"code":%s%s}\n' \
    "${now:-$(date +%s%N)}" "$step" "$task" "$MF_ATTEMPT" "$code" "$more" >> "$journal"

  # There is none where the step did not get so far, or where it was killed.
  _otel_runs "$shipper" || ! _otel_is_shipping || _otel_ship "$folder" "${journal##*/}"
  ticks=${OTEL_METAFLOW_FLUSH_TIMEOUT:-5}
  case $ticks in *[!0-9.]* | *.*.*) ticks=5 ;; esac
  rest=${ticks#*.}00
  case $ticks in *.*) ;; *) rest=00 ;; esac
  ticks=$((10#0${ticks%%.*} * 20 + 10#${rest:0:2} / 5))
  while [ -n "$shipper" ] && ((ticks-- > 0)) && _otel_runs "$shipper"; do
    sleep 0.05
  done
  # For whoever stores Metaflow's own log files next (task/stored_journals.py).
  printf '%s\n%s\n' "$folder" "${journal##*/}" > "$_otel_logs/otel-over"
}

# Starts a shipper, whose pid is in $shipper then, by the Python of the image.
_otel_ship() {
  cd "$1" || return
  python -c 'import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module("otel_metaflow.shipper", run_name="__main__", alter_sys=True)' \
    "$_otel_carried" "$1" "$2" > shipper.log 2>&1 &
  shipper=$!
}

if [ -n "$BASHPID" ] && [ -n "$MF_PATHSPEC" ] && [ -d "$_otel_logs" ]; then
  _otel_count_oom_kills
  # From then on the output of the step is at its end, for who copies it too: its last line need not have one. What is
  # printed here goes nowhere, and what fails here, under `set -e` too, changes no exit code.
  trap '_otel_code=$?; exec < /dev/null > /dev/null 2>&1; _otel_exit $_otel_code || :' EXIT
else
  unset OTEL_METAFLOW_WITNESS
fi
:
