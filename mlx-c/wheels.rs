//! The official binaries that MLX and SciPy publish on PyPI, pinned by version and sha256, fetched with pip.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

pub const MLX_VERSION: &str = "0.32.2";
/// Written last into an unpacked folder; names its wheels and their hashes.
pub const STAMP: &str = "complete";
const OPENBLAS_VERSION: &str = "0.3.34.0.0";

struct Wheel {
    name: &'static str,
    version: &'static str,
    platform: &'static str,
    sha256: &'static str,
}

const fn mlx(name: &'static str, platform: &'static str, sha256: &'static str) -> Wheel {
    Wheel { name, version: MLX_VERSION, platform, sha256 }
}

const fn openblas(platform: &'static str, sha256: &'static str) -> Wheel {
    Wheel { name: "scipy-openblas32", version: OPENBLAS_VERSION, platform, sha256 }
}

const CPU_X64: Wheel =
    mlx("mlx-cpu", "manylinux_2_35_x86_64", "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878");
const CPU_ARM64: Wheel =
    mlx("mlx-cpu", "manylinux_2_35_aarch64", "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b");
const METAL: Wheel = mlx("mlx-metal", "macosx_14_0_arm64", "3825fff379dbc107dd3413e564a06caeaa24819910ec49c0439e454c06a1b9b8");
const CUDA13: Wheel =
    mlx("mlx-cuda-13", "manylinux_2_35_x86_64", "335094ccd1c0c6dc3e09c8caba207c8180602bacc0c38ba20c1d81e9456ab394");
const CUDA12: Wheel =
    mlx("mlx-cuda-12", "manylinux_2_35_x86_64", "35445ead9724855826f310b9085d57137d0a2c5381cc293cb6d86b03bb4feadf");
const OPENBLAS_X64: Wheel = openblas("manylinux_2_28_x86_64", "5b5df658f32271b3115d845ea91b19bed190591b55d27d9b5399b83071c68ea1");
const OPENBLAS_ARM64: Wheel =
    openblas("manylinux_2_28_aarch64", "b534496a7c5fd69abf7938cbcc3f4fbb8108d9ed99ac9f93db229abd99281b06");

fn wheels(flavour: &str, os: &str, arch: &str) -> Result<Vec<Wheel>, String> {
    match (flavour, os, arch) {
        ("cpu", "linux", "x86_64") => Ok(vec![CPU_X64, OPENBLAS_X64]),
        ("cpu", "linux", "aarch64") => Ok(vec![CPU_ARM64, OPENBLAS_ARM64]),
        ("metal", "macos", "aarch64") => Ok(vec![METAL]),
        ("cuda13", "linux", "x86_64") => Ok(vec![CUDA13, OPENBLAS_X64]),
        ("cuda12", "linux", "x86_64") => Ok(vec![CUDA12, OPENBLAS_X64]),
        _ => Err(format!(
            "there is no MLX binary of flavour '{flavour}' for {os} on {arch}. \
             Known: cpu (linux x86_64, aarch64), metal (macOS arm64), cuda12 and cuda13 (linux x86_64). \
             Set MLX_NODE_FLAVOUR to one of them, or MLX_DIR to an MLX of your own."
        )),
    }
}

/// Makes `dist` hold the unpacked wheels of `flavour`. A folder that is already complete is left alone.
pub fn fetch(flavour: &str, os: &str, arch: &str, dist: &Path) -> Result<(), String> {
    let wheels = wheels(flavour, os, arch)?;
    let stamp: String = wheels.iter().map(|wheel| format!("{} {}\n", wheel.name, wheel.sha256)).collect();
    let complete = || fs::read_to_string(dist.join(STAMP)).is_ok_and(|found| found == stamp);
    if complete() {
        return Ok(());
    }

    let parent = dist.parent().ok_or("the folder for MLX has no parent")?;
    let writable = |error: io::Error| {
        format!(
            "cannot write MLX into {} ({error}). Make that folder writable, or set MLX_DIR to an MLX you already have.",
            parent.display()
        )
    };
    fs::create_dir_all(parent).map_err(writable)?;
    // Builds in other target folders wait here instead of downloading twice. A file system without locks goes on without.
    let lock = File::create(parent.join(format!(".{flavour}.lock"))).map_err(writable)?;
    let _ = lock.lock();
    if complete() {
        return Ok(());
    }

    // Everything lands beside the final folder and is renamed into place, so a build that is killed leaves nothing half there.
    let name = dist.file_name().unwrap_or_default().to_string_lossy();
    let abandoned = format!("{name}.partial-");
    for entry in fs::read_dir(parent).map_err(writable)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&abandoned) {
            remove(&entry.path()).map_err(writable)?;
        }
    }
    let partial = parent.join(format!("{abandoned}{}", std::process::id()));
    let downloads = partial.join("downloads");
    fs::create_dir_all(&downloads).map_err(writable)?;
    let result = wheels.iter().try_for_each(|wheel| unpack(wheel, &downloads, &partial));
    if let Err(message) = result {
        let _ = remove(&partial);
        return Err(message);
    }
    remove(&downloads).map_err(writable)?;
    let file = File::create(partial.join(STAMP)).map_err(writable)?;
    io::Write::write_all(&mut &file, stamp.as_bytes()).map_err(writable)?;
    // Cargo runs a build script again when a watched file is younger than the last run; this one is as old as its contents.
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)).map_err(writable)?;
    remove(dist).map_err(writable)?;
    fs::rename(&partial, dist).map_err(writable)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn unpack(wheel: &Wheel, downloads: &Path, destination: &Path) -> Result<(), String> {
    let python = std::env::var("PYTHON").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "python3".to_string());
    let requirements = downloads.join("requirements.txt");
    let pin = format!("{}=={} --hash=sha256:{}\n", wheel.name, wheel.version, wheel.sha256);
    fs::write(&requirements, pin).map_err(|error| format!("cannot write {}: {error}", requirements.display()))?;

    let folder = downloads.join(wheel.name);
    run(
        Command::new(&python)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"])
            // The wheels hold no Python code that we run, so the Python that fetches them may be older than they ask for.
            .args(["--only-binary=:all:", "--platform", wheel.platform, "--python-version", "3.12", "--dest"])
            .arg(&folder)
            .arg("--requirement")
            .arg(&requirements)
            .env("PIP_REQUIRE_VIRTUALENV", "0"),
        &python,
        wheel,
    )?;
    let file = fs::read_dir(&folder)
        .ok()
        .and_then(|mut entries| entries.next())
        .and_then(|entry| entry.ok())
        .ok_or_else(|| format!("pip downloaded no file for {} {}", wheel.name, wheel.version))?
        .path();
    run(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&file).arg(destination), &python, wheel)
}

fn run(command: &mut Command, python: &str, wheel: &Wheel) -> Result<(), String> {
    let output = command.output().map_err(|error| {
        format!(
            "cannot run {python} ({error}). MLX comes from PyPI, so Python 3 with pip is needed: \
             apt-get install python3-pip (Debian, Ubuntu), brew install python (macOS); \
             or set PYTHON to one, or MLX_DIR to an MLX you already have."
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("could not get {} {} with pip:\n{}\n{}", wheel.name, wheel.version, gist(&stderr), cure(&stderr)))
}

/// The lines of pip's output that say what went wrong.
fn gist(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with("ERROR")).collect();
    let shown = if errors.is_empty() { &lines[lines.len().saturating_sub(5)..] } else { &errors[..] };
    shown.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

fn cure(stderr: &str) -> &'static str {
    let has = |needles: &[&str]| needles.iter().any(|needle| stderr.contains(needle));
    if has(&["No module named pip"]) {
        "This Python has no pip: apt-get install python3-pip (Debian, Ubuntu), or python3 -m ensurepip."
    } else if has(&["DO NOT MATCH THE HASHES"]) {
        "The file that was served is not the pinned one; check the package index that pip is configured to use (pip config list)."
    } else if has(&["No space left"]) {
        "The disk is full; MLX needs 150 MB in mlx-c/dist (Metal: 250 MB, CUDA: 400 MB)."
    } else if has(&["SSL", "CERTIFICATE_VERIFY_FAILED"]) {
        "PyPI's certificate is not trusted here; behind a company proxy, set PIP_CERT to its certificate."
    } else if has(&["NewConnectionError", "ProxyError", "ConnectTimeout", "ReadTimeout", "Connection", "name resolution"]) {
        "PyPI cannot be reached: check the network, HTTPS_PROXY and PIP_INDEX_URL. Without a network, set MLX_DIR to an MLX you already have."
    } else if has(&["No matching distribution"]) {
        "pip finds no such file: an old pip (before 20.3) does not know these platforms (python3 -m pip install --upgrade pip), \
         and an index other than PyPI may lack it (pip config list)."
    } else {
        "Is PyPI reachable (HTTPS_PROXY, PIP_INDEX_URL)? Without a network, set MLX_DIR to an MLX you already have."
    }
}
