#!/usr/bin/env node
// Brings a fresh clone to the point where it runs: packages, the native addon, the compiled TypeScript. Plain Node without
// packages, because nothing is installed yet when it starts. What is up to date is left alone.
import fs from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { arrayApi } from './array-api.mjs';
import { fingerprint, modulesAreFresh, readJson, writeJson } from './inputs.mjs';
import { checkCargo, checkCompiler, checkNode, checkNpm, checkPip, checkPlatform } from './prerequisites.mjs';
import { guard, run, say, SetupError } from './task.mjs';

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const inRoot = (...parts) => path.join(root, ...parts);
const manifest = readJson(inRoot('package.json'));

const networkTrouble =
  /ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN|Could not resolve host|spurious network error|failed to download|download of .* failed|Connection refused/i;

function tail(text, lines = 30) {
  return text.trimEnd().split('\n').slice(-lines).join('\n');
}

// ---------------------------------------------------------------- npm packages

const npmCi = () => run('npm packages', 'npm', ['ci', '--no-audit', '--no-fund'], { cwd: root });

async function installPackages() {
  const lock = readJson(inRoot('package-lock.json'));
  if (lock === undefined)
    throw new SetupError('package-lock.json is missing or broken.', 'git checkout package-lock.json');
  if (modulesAreFresh(lock, readJson(inRoot('node_modules/.package-lock.json')))) return;
  checkNpm();
  let { code, output } = await npmCi();
  if (code !== 0 && /ENOTEMPTY|EEXIST|ENOENT/.test(output)) {
    // What a killed run left, or its npm that still writes.
    fs.rmSync(inRoot('node_modules'), { recursive: true, force: true, maxRetries: 20, retryDelay: 500 });
    ({ code, output } = await npmCi());
  }
  if (code === 0) return;
  if (networkTrouble.test(output)) {
    throw new SetupError(
      `npm cannot reach its registry:\n${tail(output, 6)}`,
      'check the network, or name a proxy: npm config set proxy http://host:port',
    );
  }
  if (/ENOSPC/.test(output)) throw new SetupError('The disk is full (npm packages need 300 MB).', 'df -h .');
  throw new SetupError(`npm ci failed:\n${tail(output)}`, 'rm -rf node_modules, then run this again');
}

// ---------------------------------------------------------------- native addon

const addonStamp = inRoot('target/setup/addon.json');

function flavour() {
  return process.env.MLX_NODE_FLAVOUR || (process.platform === 'darwin' ? 'metal' : 'cpu');
}

function addonInputs() {
  const settings = ['MLX_DIR', 'CXX', 'CXXFLAGS', 'RUSTFLAGS', 'PYTHON'].map(
    (name) => `${name}=${process.env[name] ?? ''}`,
  );
  return fingerprint(
    root,
    [
      'Cargo.toml',
      'Cargo.lock',
      'build.rs',
      'src',
      'mlx-c/Cargo.toml',
      'mlx-c/build.rs',
      'mlx-c/wheels.rs',
      'mlx-c/compat',
      'mlx-c/src',
    ],
    [flavour(), manifest.version, JSON.stringify(manifest.napi), ...settings],
  );
}

/** The MLX that the addon loads: absent after `mlx-c/dist` was deleted. */
function mlxLibrary() {
  const name = process.platform === 'darwin' ? 'libmlx.dylib' : 'libmlx.so';
  if (process.env.MLX_DIR) return path.join(process.env.MLX_DIR, 'lib', name);
  const dist = inRoot('mlx-c/dist');
  const version = /MLX_VERSION: &str = "([^"]+)"/.exec(fs.readFileSync(inRoot('mlx-c/wheels.rs'), 'utf8'))?.[1];
  return path.join(dist, `${flavour()}-${version}`, 'mlx/lib', name);
}

function addonIsFresh(inputs) {
  const stamp = readJson(addonStamp);
  if (stamp?.inputs !== inputs || !fs.existsSync(mlxLibrary())) return false;
  return stamp.outputs.every(({ file, size, mtimeMs }) => {
    const stat = fs.statSync(inRoot(file), { throwIfNoEntry: false });
    return stat !== undefined && (mtimeMs === undefined || (stat.size === size && stat.mtimeMs === mtimeMs));
  });
}

/** Cargo prints a build script's own words after a mark, indented by two spaces. */
function nativeFailure(output) {
  const own = /--- stderr\n(?:(?: {2}.*)?\n)*? {2}error: ((?:.+\n)(?:(?: {2}.*)?\n)*)/.exec(output)?.[1];
  if (own !== undefined)
    return new SetupError(`The addon could not be built.\n${own.replaceAll(/^ {2}/gm, '').trim()}`);
  if (/linker `?cc`? not found|linking with `cc` failed: .*not found/.test(output)) {
    return new SetupError(
      'Rust finds no linker (cc).',
      'install a C++ compiler: apt-get install g++, or xcode-select --install',
    );
  }
  if (networkTrouble.test(output)) {
    return new SetupError(
      `cargo cannot download its packages:\n${tail(output, 8)}`,
      'check the network, or name a proxy: export HTTPS_PROXY=http://host:port',
    );
  }
  if (/No space left on device/.test(output)) {
    return new SetupError('The disk is full (a build needs 1.5 GB in target/).', 'df -h .');
  }
  return new SetupError(`cargo could not build the addon:\n${tail(output, 60)}`);
}

/** Removes what builds that were killed left in `folder`: their staging folders, named after processes that are no more. */
export function removeAbandoned(folder) {
  if (!fs.existsSync(folder)) return;
  for (const name of fs.readdirSync(folder)) {
    const pid = /^addon-(\d+)$/.exec(name)?.[1];
    if (pid === undefined) continue;
    try {
      process.kill(Number(pid), 0);
    } catch (error) {
      // EPERM: alive, somebody else's.
      if (error.code === 'ESRCH') fs.rmSync(path.join(folder, name), { recursive: true, force: true });
    }
  }
}

async function buildAddon() {
  const inputs = addonInputs();
  if (addonIsFresh(inputs)) return;
  checkCargo(/rust-version = "([^"]+)"/.exec(fs.readFileSync(inRoot('Cargo.toml'), 'utf8'))?.[1] ?? '1.88');
  checkCompiler();
  const download = !process.env.MLX_DIR && !fs.existsSync(mlxLibrary());
  if (download) checkPip();

  // napi writes its files in place; a running process may have the old addon mapped, so build elsewhere and rename.
  const staging = inRoot(`target/setup/addon-${process.pid}`);
  removeAbandoned(path.dirname(staging));
  fs.rmSync(staging, { recursive: true, force: true });
  fs.mkdirSync(staging, { recursive: true });
  try {
    const what = download
      ? `native addon (${flavour()}; the first build downloads MLX)`
      : `native addon (${flavour()})`;
    const args = [
      'build',
      '--platform',
      '--release',
      '--features',
      'node',
      '--js',
      'index.cjs',
      '--dts',
      'index.d.cts',
      '--output-dir',
    ];
    const napi = inRoot('node_modules/.bin/napi');
    const { code, output } = await run(what, napi, [...args, staging], { cwd: root });
    if (code !== 0) throw nativeFailure(output);

    tidyDeclarations(path.join(staging, 'index.d.cts'));
    const outputs = [];
    for (const file of fs.readdirSync(staging)) {
      const from = path.join(staging, file);
      const generated = !file.endsWith('.node');
      // Committed files keep their time when nothing changed in them.
      const same =
        generated && fs.existsSync(inRoot(file)) && fs.readFileSync(from).equals(fs.readFileSync(inRoot(file)));
      if (!same) fs.renameSync(from, inRoot(file));
      const { size, mtimeMs } = fs.statSync(inRoot(file));
      outputs.push(generated ? { file } : { file, size, mtimeMs });
    }
    writeJson(addonStamp, { inputs, outputs });
  } finally {
    fs.rmSync(staging, { recursive: true, force: true });
  }
}

/** napi quotes documentation that went through a Rust macro. */
function tidyDeclarations(file) {
  const text = fs.readFileSync(file, 'utf8').replaceAll(/^(\s*(?:\/\*\*|\*) )r" ?(.*)$/gm, '$1$2');
  fs.writeFileSync(file, text);
}

/** The TypeScript over the array operations, from the declarations. */
function writeArrayApi() {
  const fresh = arrayApi(fs.readFileSync(inRoot('index.d.cts'), 'utf8'));
  fs.mkdirSync(inRoot('lib/generated'), { recursive: true });
  for (const [file, text] of fresh) {
    if (!fs.existsSync(inRoot(file)) || fs.readFileSync(inRoot(file), 'utf8') !== text)
      fs.writeFileSync(inRoot(file), text);
  }
}

// ---------------------------------------------------------------- TypeScript

async function buildTypeScript() {
  const inputs = fingerprint(root, [
    'lib',
    'trainers',
    'examples',
    'tsconfig.json',
    'package.json',
    'package-lock.json',
    'index.d.cts',
  ]);
  const stamp = inRoot('dist/.inputs.json');
  if (!fs.existsSync(inRoot('lib')) || readJson(stamp)?.inputs === inputs) return;
  const fresh = inRoot(`target/setup/dist-${process.pid}`);
  const old = inRoot(`target/setup/dist-old-${process.pid}`);
  try {
    const tsc = inRoot('node_modules/.bin/tsc');
    const { code, output } = await run('TypeScript', tsc, ['--project', 'tsconfig.json', '--outDir', fresh], {
      cwd: root,
    });
    if (code !== 0) throw new SetupError(`TypeScript found errors:\n${tail(output, 40)}`);
    writeJson(path.join(fresh, '.inputs.json'), { inputs });
    if (fs.existsSync(inRoot('dist'))) fs.renameSync(inRoot('dist'), old);
    fs.renameSync(fresh, inRoot('dist'));
  } finally {
    for (const folder of [fresh, old]) fs.rmSync(folder, { recursive: true, force: true });
  }
}

/** Everything, in order; each step leaves alone what is up to date. */
export async function setup() {
  checkNode(manifest.engines.node.replace(/[^\d.]/g, ''));
  checkPlatform();
  await installPackages();
  await buildAddon();
  writeArrayApi();
  await buildTypeScript();
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const started = Date.now();
  await guard(setup);
  if (process.exitCode === 0 && Date.now() - started > 3000) say('  ready');
}
