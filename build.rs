//! Tells the linker where the addon and the test binaries find MLX at run time.

fn main() {
    #[cfg(feature = "node")]
    napi_build::setup();

    let dist = std::env::var("DEP_MLXC_DIST").expect("mlx-sys exports its library folder");
    let relative = std::env::var("DEP_MLXC_RPATH").expect("mlx-sys exports its relative library folder");
    // Beside the addon first, so that a moved or published folder works; then where this build put it.
    if !relative.is_empty() {
        let origin = if cfg!(target_os = "macos") { "@loader_path" } else { "$ORIGIN" };
        println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,{origin}/{relative}");
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,{dist}");
    // A CUDA build links on machines without a driver; its libraries are looked for when the addon is loaded.
    if std::env::var("DEP_MLXC_FLAVOUR").is_ok_and(|flavour| flavour.starts_with("cuda")) {
        println!("cargo:rustc-link-arg=-Wl,--allow-shlib-undefined");
    }
}
