# Shared by deploy/quickstart and tests/run: what a bare Debian 12 needs before anything can be built.
# Sourced, not run. Every failure is one line that says what is missing and what to do.
# shellcheck shell=bash

readonly DISK_MIB_MIN=8192

say() { printf '%s\n' "$*"; }
die() {
  printf 'picket: %s\n' "$*" >&2
  exit 2
}

need_root() {
  [ "$(id -u)" -eq 0 ] || die "this needs root: run it as 'sudo $1'"
}

need_debian() {
  local id='' version=''
  # shellcheck source=/dev/null
  if [ -r /etc/os-release ]; then
    id=$(. /etc/os-release && printf '%s' "${ID:-}")
    version=$(. /etc/os-release && printf '%s' "${VERSION_ID:-}")
  fi
  [ "$id" = debian ] && [ "$version" = 12 ] ||
    die "this is ${id:-an unknown distribution} ${version}, and it sets up Debian 12 only: use a Debian 12 host or container"
}

# need_disk PATH: there is room below PATH for a build.
need_disk() {
  local free
  free=$(df --output=avail -m "$1" | tail -n 1 | tr -d ' ')
  [ "$free" -ge "$DISK_MIB_MIN" ] || die "$1 has $free MiB free and a build needs $DISK_MIB_MIN: free some disk or move the checkout"
}

# need_packages PACKAGE…: installs those that are missing, starting none of their services.
need_packages() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ "${#missing[@]}" -eq 0 ] && return 0
  say "installing ${missing[*]}"
  local log result=0
  log=$(mktemp)
  install_quietly "${missing[@]}" >"$log" 2>&1 || result=$?
  if [ "$result" -eq 130 ]; then
    rm -f "$log"
    exit 130
  fi
  if [ "$result" -ne 0 ]; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    die "cannot install ${missing[*]}: check the network and /etc/apt/sources.list"
  fi
  rm -f "$log"
}

readonly POLICY=/usr/sbin/policy-rc.d POLICY_MARK="# Made while Picket's setup installs packages: it starts none of their services."

# install_quietly PACKAGE…: no service of theirs is started. In a shell of its own, so that what forbids it goes away however that ends: what
# stayed would keep every later upgrade of this machine from restarting anything. One that a kill or a power cut left goes the next time.
install_quietly() (
  if [ ! -e "$POLICY" ] || grep -qsF "$POLICY_MARK" "$POLICY"; then
    trap 'rm -f "$POLICY"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" >"$POLICY" && chmod 755 "$POLICY"
  fi
  # A signal to this shell alone counts once apt has ended: dpkg is not left half way.
  apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 -o Acquire::http::Timeout=20 update &&
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
)

# find_cargo: sets BUILDER to the user whose Rust toolchain builds, and CARGO to its cargo. Through sudo that is
# the user who called sudo, so that root neither needs a toolchain nor leaves files of its own in the user's.
find_cargo() {
  local candidate home
  for candidate in ${SUDO_USER:+"$SUDO_USER"} root; do
    home=$(getent passwd "$candidate" | cut -d : -f 6)
    CARGO=$(as_user "$candidate" sh -c 'PATH="$1/.cargo/bin:$PATH" command -v cargo' sh "$home" 2>/dev/null) || continue
    as_user "$candidate" "$CARGO" --version >/dev/null 2>&1 || continue
    BUILDER=$candidate
    export PATH="${CARGO%/*}:$PATH"
    return 0
  done
  die "no cargo found for ${SUDO_USER:-root}: install Rust $(rust_version) or newer with rustup (https://rustup.rs)"
}

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$CHECKOUT/Cargo.toml"; }

# as_user USER COMMAND…: runs it as USER with that user's home.
as_user() {
  local user=$1
  shift
  if [ "$user" = "$(id -un)" ]; then
    "$@"
  else
    runuser -u "$user" -- env HOME="$(getent passwd "$user" | cut -d : -f 6)" PATH="$PATH" "$@"
  fi
}

# choose_target: sets TARGET_DIR to a build directory that BUILDER can write. Not below a path with a space or the
# like: build scripts of C libraries do not bear it.
choose_target() {
  local home
  TARGET_DIR=${CARGO_TARGET_DIR:-$CHECKOUT/target}
  if [[ $TARGET_DIR =~ ^[A-Za-z0-9_./+-]+$ ]] && can_build_in "$TARGET_DIR"; then
    return 0
  fi
  home=$(getent passwd "$BUILDER" | cut -d : -f 6)
  TARGET_DIR=$home/.cache/picket/target-$(printf '%s' "$CHECKOUT" | sha256sum | cut -c 1-12)
  can_build_in "$TARGET_DIR" || die "neither $CHECKOUT/target nor $TARGET_DIR can be written by $BUILDER"
}

# can_build_in DIR: BUILDER can write it, and what earlier builds left in it.
can_build_in() {
  # shellcheck disable=SC2016 # for the inner shell
  as_user "$BUILDER" sh -c '
    mkdir -p "$1" && [ -w "$1" ] || exit 1
    for left in "$1/release" "$1/debug" "$1/fuzz"; do [ ! -e "$left" ] || [ -w "$left" ] || exit 1; done
  ' sh "$1" 2>/dev/null
}

# cargo_as_builder ARGUMENT…: cargo in the checkout, as BUILDER, into TARGET_DIR.
cargo_as_builder() {
  (cd "$CHECKOUT" && as_user "$BUILDER" env CARGO_TARGET_DIR="$TARGET_DIR" "$CARGO" "$@")
}

# fetch_crates: all crates are there, or it says that the network is not.
fetch_crates() {
  cargo_as_builder fetch --locked --quiet 2>/dev/null ||
    cargo_as_builder fetch --locked >&2 || die "cannot fetch the Rust crates: check the network (crates.io) and the cargo configuration"
}
