#!/usr/bin/env bash
# Everything that must hold before a change lands, as one command that a laptop runs too.
#
#   ci/run.sh                 all steps, in order
#   ci/run.sh fmt lints       these steps only, in the order given
#   ci/run.sh --list          the steps, each with its promise
#
# A failed step does not stop the others. The last line says `N passed, N failed`, counted in steps; the exit code is
# 0 only if none failed, and 2 for a step that doesn't exist. Nothing is written outside `target` and `bench/target`,
# except by `setup`, which installs what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# --- What each step promises, in the order of a full run

steps=(setup fmt lints test model determinism scenarios plants campaign os benches fuzz)

declare -A promise=(
  [setup]="the tools that the other steps need are there; installs what is missing"
  [fmt]="all code is formatted"
  [lints]="no lint fires, in code or in docs"
  [test]="the README's test command passes"
  [model]="every interleaving of two threads on the ring and the group commit is right"
  [determinism]="a seed gives one trace hash: in two processes, and in debug and release builds"
  [scenarios]="every stored scenario does what it claims"
  [plants]="the simulator finds a sample of planted bugs"
  [campaign]="without a planted bug, no seed fails"
  [os]="on the real file system a process that is killed loses nothing that it acknowledged"
  [benches]="the benchmarks run; their figures are not judged"
  [fuzz]="the fuzz targets hold on their corpora and on some thousand new inputs each"
)

# --- Sizes, in one place

determinism_seeds=(1 2 3 42 1000 18446744073709551615)
campaign_seeds=1..10001
# Planted bug, the seeds within which it must be found, and the subject if it is not wal.
plant_samples=(
  "aof-ring-full-drops 1..501 aof"
  "aof-everysec-idle-tail 1..501 aof"
  "aof-no-checksums 1..501 aof"
  "rewrite-newincr-old-unsynced 1..501 rewrite"
  "ckpt-reuse-early 1..501 txn"
  "ckpt-load-unsynced 1..201 txn"
  "ckpt-child-unchecked 1..501 txn"
  "txn-ack-own-parts 1..501 txn"
  "wal-seg-no-dirsync 1..501"
  "wal-fsync-retry-ok 1..2001"
  "wal-reuse-torn-tail 1..2001"
  "wal-expose-unsynced 1..2001"
  "wal-dsync-range 1..501"
  "wal-recycled-stale 1..501"
  "wal-midlog-treated-as-tail 1..501"
)
fuzz_runs=20000
fuzz_max_bytes=4096
cargo_fuzz_version=0.13.2

# --- Steps: each runs in a subshell of its own, and fails with its first failing command

step_setup() {
  local packages=()
  command -v g++ >/dev/null || packages+=(g++) # for the fuzz step
  command -v redis-server >/dev/null || packages+=(redis-server) # for the tests of the command log
  if [ "${#packages[@]}" != 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      apt-get update -q
      DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"
    else
      echo "missing: install ${packages[*]}"
      return 1
    fi
  fi
  cargo --version # rustup installs the pinned toolchain here
  if ! has_cargo_fuzz; then
    # --force: another version may be there.
    cargo install cargo-fuzz --locked --force --version "$cargo_fuzz_version"
  fi
}

step_fmt() {
  cargo fmt --all --check
}

step_lints() {
  cargo clippy --workspace --all-targets
  # Once more without the planted bugs, which `sim` switches on for the whole workspace: this is what users build.
  cargo clippy -p engine --all-targets
  cargo doc --no-deps -p engine -p sim
}

step_test() {
  cargo test
}

step_model() {
  cargo test -p engine --release --features loom --lib model
}

step_determinism() {
  cargo build -p sim
  cargo build -p sim --release
  local seed first again debug
  for seed in "${determinism_seeds[@]}"; do
    first=$(trace_hash "$seed" --release)
    again=$(trace_hash "$seed" --release)
    debug=$(trace_hash "$seed")
    echo "seed $seed: release $first, again $again, debug $debug"
    [ "$first" = "$again" ]
    [ "$first" = "$debug" ]
  done
}

step_scenarios() {
  cargo run --release -p sim -- scenarios
}

step_plants() {
  local sample id seeds subject code log missed=0
  log=$(scratch plants)/last.log
  cargo build -p sim --release
  for sample in "${plant_samples[@]}"; do
    read -r id seeds subject <<<"$sample"
    code=0
    cargo run -q --release -p sim -- --subject "${subject:-wal}" --plant "$id" --seeds "$seeds" >"$log" 2>&1 || code=$?
    # 1 means a violation was found; 0 that none was, and anything else that the run itself went wrong.
    if [ "$code" = 1 ]; then
      echo "$id: found within seeds $seeds"
    else
      echo "$id: NOT found within seeds $seeds (exit code $code)"
      tail -n 20 "$log"
      missed=1
    fi
  done
  [ "$missed" = 0 ]
}

step_campaign() {
  local subject
  for subject in wal aof rewrite txn; do
    cargo run --release -p sim -- --subject "$subject" --seeds "$campaign_seeds"
  done
}

step_os() {
  local folder
  folder=$(scratch os)
  cargo run --release -p sim -- --backend os --dir "$folder" --seeds 1..21
  cargo run --release -p sim --example bank -- simulate
  cargo run --release -p sim --example bank -- kill --dir "$folder/bank"
}

step_benches() {
  cargo bench -p engine -- --quick
  cargo bench -p sim -- --quick
  cargo run -p engine --example server
  cargo run --release --manifest-path bench/Cargo.toml -- --quick
}

step_fuzz() {
  cargo test -p fuzz
  local target corpus failed=0
  # cargo-fuzz sets RUSTFLAGS, so that the simulator's cfg must be given again; RUSTC_BOOTSTRAP because the coverage
  # flags it passes are unstable, and the toolchain is pinned to a stable one; no sanitizer, since there is no unsafe.
  export RUSTFLAGS="--cfg madsim" RUSTC_BOOTSTRAP=1
  # Some thousand inputs don't earn a minute of linking per target.
  export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
  for target in $(cargo fuzz list); do
    # The fuzzer adds what it finds to its corpus: give it a copy.
    corpus=$(scratch "fuzz/$target")
    cp "fuzz/corpus/$target"/* "$corpus"
    # A fixed seed: the same commit gives the same answer. The dictionary that the fuzzer recommends is only noise here.
    cargo fuzz run -s none --features libfuzzer "$target" "$corpus" -- \
      -runs="$fuzz_runs" -max_len="$fuzz_max_bytes" -seed=1 -timeout=10 -verbosity=0 -print_final_stats=1 2>&1 |
      { grep -v '# Uses:\|ecommended dictionary\|NEW_FUNC' || true; } || failed=1
  done
  [ "$failed" = 0 ]
}

# --- Helpers of the steps

has_cargo_fuzz() {
  [ "$(cargo fuzz --version 2>/dev/null)" = "cargo-fuzz $cargo_fuzz_version" ]
}

# trace_hash SEED [cargo flags]: the hash that a run of this seed prints; fails unless there is exactly one.
trace_hash() {
  local seed=$1 output hash
  shift
  output=$(cargo run -q -p sim "$@" -- --seed "$seed")
  hash=$(sed -n 's/^trace hash: \([0-9a-f]\{16\}\)$/\1/p' <<<"$output")
  if ! [[ $hash =~ ^[0-9a-f]{16}$ ]]; then
    echo "seed $seed printed no trace hash:" >&2
    echo "$output" >&2
    return 1
  fi
  echo "$hash"
}

# scratch NAME: an empty folder under the target directory.
scratch() {
  local folder="${CARGO_TARGET_DIR:-target}/ci/$1"
  rm -rf "$folder"
  mkdir -p "$folder"
  echo "$folder"
}

# --- Run them

main() {
  case "${1:-}" in
    --list)
      for step in "${steps[@]}"; do printf '%-12s %s\n' "$step" "${promise[$step]}"; done
      exit 0
      ;;
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
  esac

  local chosen=("$@") step
  [ $# -gt 0 ] || chosen=("${steps[@]}")
  for step in "${chosen[@]}"; do
    if [ -z "${promise[$step]:-}" ]; then
      echo "no step is called '$step'; ci/run.sh --list names them" >&2
      exit 2
    fi
  done

  # A service's shell may lack rustup's folder, or even HOME.
  HOME="${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}"
  PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  export HOME
  export PATH
  # Either of these would replace the flags of .cargo/config.toml, without which the simulator doesn't build.
  unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTDOCFLAGS CARGO_ENCODED_RUSTDOCFLAGS
  # What would save a later build its time is a good part of what a debug build takes of the disk.
  export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"
  exec </dev/null

  local passed=0 failed=0 code began
  for step in "${chosen[@]}"; do
    printf '\n=== %s: %s (%d s)\n' "$step" "${promise[$step]}" "$SECONDS"
    began=$SECONDS
    # Not as a condition: bash would ignore `set -e` inside it.
    set +e
    (
      set -euo pipefail
      "step_$step"
    )
    code=$?
    set -e
    if [ "$code" = 0 ]; then
      passed=$((passed + 1))
      printf -- '--- %s passed in %d s\n' "$step" $((SECONDS - began))
    else
      failed=$((failed + 1))
      printf -- '--- %s FAILED with code %d in %d s\n' "$step" "$code" $((SECONDS - began))
    fi
  done

  printf '\n%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" = 0 ]
}

main "$@"
