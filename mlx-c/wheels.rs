//! The official binaries that MLX and SciPy publish on PyPI, pinned by version and sha256, fetched with pip.

use std::fs;
use std::path::Path;
use std::process::Command;

pub const MLX_VERSION: &str = "0.32.2";
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
    let stamp_file = dist.join("complete");
    if fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(());
    }

    // Everything lands beside the final folder and is renamed into place, so an interrupted build leaves nothing half there.
    let partial = dist.with_extension(format!("partial-{}", std::process::id()));
    let io = |what: &str, error: std::io::Error| format!("{what} {} failed: {error}", partial.display());
    let _ = fs::remove_dir_all(&partial);
    let downloads = partial.join("downloads");
    fs::create_dir_all(&downloads).map_err(|error| io("creating", error))?;
    let result = wheels.iter().try_for_each(|wheel| unpack(wheel, &downloads, &partial));
    if let Err(message) = result {
        let _ = fs::remove_dir_all(&partial);
        return Err(message);
    }
    let _ = fs::remove_dir_all(&downloads);
    fs::write(partial.join("complete"), stamp).map_err(|error| io("writing to", error))?;
    let _ = fs::remove_dir_all(dist);
    fs::rename(&partial, dist).map_err(|error| io("renaming", error))
}

fn unpack(wheel: &Wheel, downloads: &Path, destination: &Path) -> Result<(), String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_string());
    let requirements = downloads.join("requirements.txt");
    let pin = format!("{}=={} --hash=sha256:{}\n", wheel.name, wheel.version, wheel.sha256);
    fs::write(&requirements, pin).map_err(|error| format!("cannot write {}: {error}", requirements.display()))?;

    eprintln!("downloading {} {} ({})", wheel.name, wheel.version, wheel.platform);
    let folder = downloads.join(wheel.name);
    run(
        Command::new(&python)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"])
            .args(["--only-binary=:all:", "--platform", wheel.platform, "--dest"])
            .arg(&folder)
            .arg("--requirement")
            .arg(&requirements),
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
    let cure = if stderr.contains("No module named pip") {
        "This Python has no pip: apt-get install python3-pip (Debian, Ubuntu) or python3 -m ensurepip."
    } else if stderr.contains("HASHES") || stderr.contains("hash") {
        "The file that was served is not the pinned one; check the package index that pip is configured to use."
    } else if stderr.contains("No space left") {
        "The disk is full; MLX needs about 100 MB (CUDA: 600 MB) in mlx-c/dist."
    } else {
        "Is PyPI reachable (proxy, PIP_INDEX_URL)? Without a network, set MLX_DIR to an MLX you already have."
    };
    Err(format!("could not get {} {} with pip: {}\n{cure}", wheel.name, wheel.version, stderr.trim()))
}
