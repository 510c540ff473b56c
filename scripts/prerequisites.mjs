// What must be on the machine before anything is built. Each check throws a SetupError that names the one command to run.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { SetupError } from './task.mjs';

/** Compares dotted versions by number. */
export function atLeast(found, needed) {
  const [a, b] = [found, needed].map((version) => version.split('.').map((part) => Number.parseInt(part, 10) || 0));
  for (let index = 0; index < Math.max(a.length, b.length); index++) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
}

/** Output of a command, or undefined where it cannot run or fails. */
function capture(command, args, options = {}) {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'], ...options });
  } catch {
    return undefined;
  }
}

/** The command that installs a system package here. */
function install(packages) {
  if (process.platform === 'darwin') return `brew install ${packages.brew}`;
  const root = process.getuid?.() === 0 ? '' : 'sudo ';
  for (const [tool, command, name] of [
    ['apt-get', 'apt-get update && %apt-get install -y', packages.apt],
    ['dnf', 'dnf install -y', packages.dnf],
    ['pacman', 'pacman -S --needed', packages.pacman],
  ]) {
    if (capture(tool, ['--version']) !== undefined) return `${root}${command.replace('%', root)} ${name}`;
  }
  return `install ${packages.apt} with the package manager of your system`;
}

export function checkNode(needed) {
  const found = process.versions.node;
  if (!atLeast(found, needed)) {
    throw new SetupError(
      `Node.js ${needed} or newer is needed; this is ${found} (${process.execPath}).`,
      'install a current Node.js from https://nodejs.org, or: npx -y node@22 scripts/setup.mjs',
    );
  }
}

/** The platforms that MLX publishes binaries for. */
export function checkPlatform() {
  const { platform, arch } = process;
  const known = ['linux-x64', 'linux-arm64', 'darwin-arm64'];
  if (!known.includes(`${platform}-${arch}`)) {
    throw new SetupError(
      `MLX has no binaries for ${platform} on ${arch}; it runs on Linux (x64, arm64) and on macOS with Apple silicon.`,
      platform === 'win32'
        ? 'use WSL 2: wsl --install, then clone and build inside it'
        : 'build on one of those machines, or set MLX_DIR to an MLX that you built yourself',
    );
  }
  const glibc = process.report?.getReport?.().header?.glibcVersionRuntime;
  if (platform === 'linux' && glibc === undefined) {
    throw new SetupError(
      'This Linux has no glibc (Alpine?); the MLX binaries need glibc 2.35 or newer.',
      'use a glibc image, for example: docker run -it node:22-bookworm',
    );
  }
  if (platform === 'linux' && !atLeast(glibc, '2.35')) {
    throw new SetupError(
      `The MLX binaries need glibc 2.35 or newer; this system has ${glibc}.`,
      'use Debian 12, Ubuntu 22.04, or anything newer',
    );
  }
}

export function checkNpm() {
  if (capture('npm', ['--version']) === undefined) {
    throw new SetupError(
      'npm is not on the PATH; it installs the TypeScript tools.',
      install({ apt: 'npm', dnf: 'npm', pacman: 'npm', brew: 'node' }),
    );
  }
}

/** Puts cargo on the PATH where rustup has installed it but the shell does not know yet. */
export function checkCargo(needed) {
  let version = capture('cargo', ['--version']);
  if (version === undefined) {
    const home = path.join(process.env.CARGO_HOME ?? path.join(os.homedir(), '.cargo'), 'bin');
    if (fs.existsSync(path.join(home, 'cargo'))) {
      process.env.PATH = `${home}${path.delimiter}${process.env.PATH ?? ''}`;
      version = capture('cargo', ['--version']);
    }
  }
  if (version === undefined) {
    throw new SetupError(
      'cargo is not on the PATH; the addon is written in Rust.',
      "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y",
    );
  }
  const found = /cargo (\d+\.\d+\.\d+)/.exec(version)?.[1] ?? '0';
  if (!atLeast(found, needed)) {
    throw new SetupError(`Rust ${needed} or newer is needed; cargo says ${found}.`, 'rustup update stable');
  }
}

/** MLX-C is C++20. The probe uses a header that compilers without it lack. */
export function checkCompiler() {
  const compiler = process.env.CXX || 'c++';
  const [command, ...flags] = compiler.split(/\s+/).filter(Boolean);
  const remedy =
    process.platform === 'darwin' ? 'xcode-select --install' : install({ apt: 'g++', dnf: 'gcc-c++', pacman: 'gcc' });
  const version = capture(command, [...flags, '--version'], {});
  if (version === undefined) {
    const why = process.env.CXX ? `CXX names '${compiler}', which does not run` : 'there is no C++ compiler (c++)';
    throw new SetupError(`${why}; MLX-C is compiled with one.`, process.env.CXX ? `unset CXX, or ${remedy}` : remedy);
  }
  const program = '#include <concepts>\n#include <span>\nint main() { return 0; }\n';
  if (capture(command, [...flags, '-std=c++20', '-fsyntax-only', '-x', 'c++', '-'], { input: program }) === undefined) {
    throw new SetupError(
      `A C++20 compiler is needed (g++ 12 or clang 15, or newer); ${compiler} is ${version.split('\n')[0]}.`,
      remedy,
    );
  }
}

/** MLX comes from PyPI, fetched by pip. Not needed where it is already there. */
export function checkPip() {
  const python = process.env.PYTHON || 'python3';
  if (capture(python, ['--version']) === undefined) {
    const why = process.env.PYTHON ? `PYTHON names '${python}', which does not run` : 'python3 is not on the PATH';
    throw new SetupError(
      `${why}; its pip downloads MLX.`,
      `${install({ apt: 'python3 python3-pip', dnf: 'python3 python3-pip', pacman: 'python python-pip', brew: 'python' })}\nor set MLX_DIR to an MLX you already have`,
    );
  }
  if (capture(python, ['-m', 'pip', '--version']) === undefined) {
    throw new SetupError(
      `${python} has no pip; it downloads MLX.`,
      `${install({ apt: 'python3-pip', dnf: 'python3-pip', pacman: 'python-pip', brew: 'python' })}\nor ${python} -m ensurepip\nor set MLX_DIR to an MLX you already have`,
    );
  }
}
