//! Finds MLX, compiles MLX-C against it and tells Cargo how to link both. Nothing outside this folder knows how MLX got here.
//!
//! Environment:
//! - `MLX_NODE_FLAVOUR` = cpu | metal | cuda12 | cuda13 (default: metal on macOS, cpu elsewhere)
//! - `MLX_DIR` = folder of an MLX you already have (holds `include/mlx` and `lib/libmlx.*`, as the `mlx` folder of a Python
//!   installation of MLX does); nothing is downloaded then
//! - `PYTHON` = the Python whose pip downloads MLX (default: python3)

mod wheels;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    for name in ["MLX_NODE_FLAVOUR", "MLX_DIR", "PYTHON", "CXX"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for file in ["build.rs", "wheels.rs", "compat/format"] {
        println!("cargo:rerun-if-changed={file}");
    }
    if let Err(message) = build() {
        eprintln!("\nerror: {message}\n");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let crate_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap();
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap();
    let flavour = env::var("MLX_NODE_FLAVOUR")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| if os == "macos" { "metal" } else { "cpu" }.to_string());

    let (prefix, rpath) = match env::var_os("MLX_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => (own_mlx(Path::new(&dir), &os)?, None),
        None => {
            let folder = format!("{flavour}-{}", wheels::MLX_VERSION);
            let dist = crate_dir.join("dist").join(&folder);
            wheels::fetch(&flavour, &os, &arch, &dist)?;
            // So that a deleted folder comes back.
            println!("cargo:rerun-if-changed={}", dist.join(wheels::STAMP).display());
            (dist.join("mlx"), Some(format!("mlx-c/dist/{folder}/mlx/lib")))
        }
    };
    let lib = prefix.join("lib");
    let include = prefix.join("include");

    let source = mlx_c_source()?;
    compile_mlx_c(&source, &include, &os)?;
    println!("cargo:rustc-check-cfg=cfg(kernels)");
    // MLX's GPU builds have fast kernels of their own, and its macOS build uses Accelerate.
    let gnu = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    if flavour == "cpu" && os == "linux" && gnu && matches!(arch.as_str(), "x86_64" | "aarch64") {
        compile_kernels(&source, &include, &arch)?;
        println!("cargo:rustc-cfg=kernels");
    }

    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=mlx");
    if os == "macos" {
        println!("cargo:rustc-link-lib=dylib=c++");
        println!("cargo:rustc-link-lib=framework=Foundation");
        println!("cargo:rustc-link-lib=framework=Metal");
        println!("cargo:rustc-link-lib=framework=Accelerate");
    } else {
        println!("cargo:rustc-link-lib=dylib=stdc++");
        println!("cargo:rustc-link-lib=dylib=dl");
    }
    println!("cargo:rustc-env=MLX_NODE_FLAVOUR={flavour}");
    // Read by the root build.rs as DEP_MLXC_*.
    println!("cargo:dist={}", lib.display());
    println!("cargo:rpath={}", rpath.unwrap_or_default());
    println!("cargo:flavour={flavour}");
    Ok(())
}

/// Checks the MLX that `MLX_DIR` names: its own folder, or the folder that holds it as `mlx`.
fn own_mlx(dir: &Path, os: &str) -> Result<PathBuf, String> {
    let library = if os == "macos" { "lib/libmlx.dylib" } else { "lib/libmlx.so" };
    let dir = std::path::absolute(dir).map_err(|error| format!("MLX_DIR={}: {error}", dir.display()))?;
    let prefix = [dir.clone(), dir.join("mlx")]
        .into_iter()
        .find(|prefix| prefix.join("include/mlx/mlx.h").is_file() && prefix.join(library).is_file())
        .ok_or_else(|| {
            format!(
                "MLX_DIR={} holds no MLX: include/mlx/mlx.h and {library} are looked for there. \
                 Name such a folder, or unset MLX_DIR to have MLX {} downloaded.",
                dir.display(),
                wheels::MLX_VERSION
            )
        })?;
    let header = prefix.join("include/mlx/version.h");
    println!("cargo:rerun-if-changed={}", header.display());
    let header = std::fs::read_to_string(header).unwrap_or_default();
    let number = |name: &str| {
        let value = header.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(name))?;
        value.trim().parse::<u32>().ok()
    };
    let found = format!(
        "{}.{}",
        number("MLX_VERSION_MAJOR").map_or("?".to_string(), |major| major.to_string()),
        number("MLX_VERSION_MINOR").map_or("?".to_string(), |minor| minor.to_string())
    );
    // MLX-C uses functions that came or changed with each minor version.
    if !wheels::MLX_VERSION.starts_with(&format!("{found}.")) {
        return Err(format!(
            "MLX_DIR={} holds MLX {found}; this build needs {}. Install that version, or unset MLX_DIR to have it downloaded.",
            prefix.display(),
            wheels::MLX_VERSION
        ));
    }
    Ok(prefix)
}

fn compile_mlx_c(source: &Path, include: &Path, os: &str) -> Result<(), String> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(source.join("mlx/c"))
        .map_err(|error| format!("cannot read the MLX-C sources in {}: {error}", source.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cpp"))
        .collect();
    files.sort();
    let own = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("src/arrays.cpp");
    println!("cargo:rerun-if-changed={}", own.display());
    files.push(own);

    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).warnings(false).debug(false).include(source).include(include).files(&files);
    if os == "macos" {
        build.flag("-mmacosx-version-min=14.0");
    }
    if !has_std_format(&build) {
        build.flag("-include").flag(Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("compat/format"));
    }
    build.try_compile("mlxc").map_err(|error| {
        format!(
            "the C++ compiler could not build MLX-C: {error}\n\
             A C++20 compiler is needed (g++ 12 or newer, or clang 15 or newer). \
             On Debian or Ubuntu: apt-get install g++. On macOS: xcode-select --install."
        )
    })
}

/// Our own kernels: the loops once per instruction set, and the primitives around them.
fn compile_kernels(source: &Path, include: &Path, arch: &str) -> Result<(), String> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap()).join("src/kernels");
    println!("cargo:rerun-if-changed={}", folder.display());
    let build = |name: &str, files: &[&str], flags: &[&str]| {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++20").opt_level(3).debug(false).warnings(false).include(source).include(include);
        for flag in ["-fno-math-errno", "-ffp-contract=fast"].iter().chain(flags) {
            build.flag(flag);
        }
        build.files(files.iter().map(|file| folder.join(file)));
        build.try_compile(name).map_err(|error| format!("the C++ compiler could not build {}: {error}", folder.display()))
    };
    // Before what they refer to: static libraries are searched in order.
    build("mlxn", &["kernels.cpp", "packed.cpp", "pool.cpp"], &[])?;
    build("mlxn_baseline", &["simd.cpp"], &["-DMLXN_SET=baseline"])?;
    if arch == "x86_64" {
        build("mlxn_avx2", &["simd.cpp"], &["-DMLXN_SET=avx2", "-mavx2", "-mfma"])?;
        let avx512 = ["-DMLXN_SET=avx512", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"];
        build("mlxn_avx512", &["simd.cpp"], &avx512)?;
    }
    Ok(())
}

/// gcc 12 has C++20 but no `<format>`; `compat/format` stands in for the little that MLX-C uses.
fn has_std_format(build: &cc::Build) -> bool {
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    let probe = out.join("has_format.cpp");
    if std::fs::write(&probe, "#include <format>\nint main() { return std::format(\"{}\", 1).size() != 1; }\n").is_err() {
        return true;
    }
    let Ok(compiler) = build.try_get_compiler() else { return true };
    compiler
        .to_command()
        .args(["-fsyntax-only", "-std=c++20"])
        .arg(&probe)
        .stderr(std::process::Stdio::null())
        .status()
        .map(|status| status.success())
        .unwrap_or(true)
}

/// The folder of the C++ sources inside the pinned crates.io package.
fn mlx_c_source() -> Result<PathBuf, String> {
    let output = Command::new(env::var("CARGO").unwrap())
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env::var("CARGO_MANIFEST_DIR").unwrap())
        .output()
        .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "mlx-sys" && !package["source"].is_null())
        .and_then(|package| package["manifest_path"].as_str())
        .and_then(|manifest| Path::new(manifest).parent())
        .map(|folder| folder.join("src/mlx-c"))
        .ok_or_else(|| "Cargo.lock does not name the crate that holds MLX-C; restore it from git.".to_string())
}
