//! Binds MLX's BLAS and LAPACK calls to OpenBLAS.
//!
//! The Linux binaries of MLX link the reference BLAS, which is 10 to 30 times slower. This library exports the names that
//! libmlx imports; the dynamic linker finds ours first, and each jumps to OpenBLAS (`scipy-openblas32`, whose own names
//! carry the prefix `scipy_`). Where OpenBLAS is not there (an MLX of the user's), the jump goes to the library that MLX links.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

macro_rules! routines {
    ($($index:literal $name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        static mut TARGETS: [*const c_void; NAMES.len()] = [std::ptr::null(); NAMES.len()];

        // A jump leaves registers and stack as the caller set them, so it serves every signature,
        // Fortran's hidden string lengths included.
        $(
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name() {
                #[cfg(target_arch = "x86_64")]
                core::arch::naked_asm!(
                    "jmp qword ptr [rip + {targets} + {offset}]",
                    targets = sym TARGETS,
                    offset = const 8 * $index,
                );
                #[cfg(target_arch = "aarch64")]
                core::arch::naked_asm!(
                    "adrp x16, {targets}",
                    "add x16, x16, :lo12:{targets}",
                    "ldr x16, [x16, #{offset}]",
                    "br x16",
                    targets = sym TARGETS,
                    offset = const 8 * $index,
                );
            }
        )*

        /// Keeps the linker from dropping routines that only libmlx refers to.
        #[used]
        static EXPORTS: ([unsafe extern "C" fn(); NAMES.len()], Sgemm) = ([$($name),*], cblas_sgemm);
    };
}

routines! {
    0 cblas_dgemm 1 cblas_cgemm
    2 sgeev_ 3 dgeev_ 4 cgeev_
    5 sgesdd_ 6 dgesdd_ 7 cgesdd_
    8 ssyevd_ 9 dsyevd_ 10 cheevd_
    11 sgeqrf_ 12 dgeqrf_ 13 sorgqr_ 14 dorgqr_
    15 sgetrf_ 16 dgetrf_ 17 sgetri_ 18 dgetri_
    19 spotrf_ 20 dpotrf_ 21 strtri_ 22 dtrtri_
}

type Sgemm = unsafe extern "C" fn(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
);

/// The float32 product behind `cblas_sgemm`, and OpenBLAS's number of threads.
struct Products {
    sgemm: Sgemm,
    set_threads: Option<extern "C" fn(c_int)>,
    threads: c_int,
}

static PRODUCTS: OnceLock<Products> = OnceLock::new();
/// What OpenBLAS was last told; 0 before the first time.
static THREADS_NOW: AtomicI32 = AtomicI32::new(0);

/// The most threads that a product may use at present.
static THREADS_LIMIT: AtomicI32 = AtomicI32::new(c_int::MAX);

/// Limits the threads of a product and returns the limit before. For kernels that run products on threads of their own.
#[unsafe(no_mangle)]
extern "C" fn mlxn_blas_threads(limit: c_int) -> c_int {
    THREADS_LIMIT.swap(limit, Ordering::Relaxed)
}

/// Multiplications from which a product is worth several threads: about 50 microseconds of one core. OpenBLAS itself starts at
/// 260 thousand, where waiting for a thread that is not running costs many times the product whenever the cores are busy.
const WORTH_THREADS: i64 = 1 << 23;

/// # Safety
/// As CBLAS demands: matrices of the sizes given.
#[allow(clippy::too_many_arguments)]
#[unsafe(no_mangle)]
unsafe extern "C" fn cblas_sgemm(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
) {
    let Some(products) = PRODUCTS.get() else { missing() };
    if let Some(set_threads) = products.set_threads {
        let wanted = if (m as i64) * (n as i64) * (k as i64) < WORTH_THREADS { 1 } else { products.threads };
        let wanted = wanted.min(THREADS_LIMIT.load(Ordering::Relaxed));
        if THREADS_NOW.swap(wanted, Ordering::Relaxed) != wanted {
            set_threads(wanted);
        }
    }
    // SAFETY: the caller's promise, passed on.
    unsafe { (products.sgemm)(order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) }
}

/// Fills the jump table and describes the library behind it, for example `OpenBLAS 0.3.34 SkylakeX, 2 threads`.
pub fn bind() -> &'static str {
    static DESCRIPTION: OnceLock<String> = OnceLock::new();
    DESCRIPTION.get_or_init(|| {
        choose_kernels();
        let openblas = open_openblas();
        for (index, name) in NAMES.iter().enumerate() {
            let target = openblas
                .and_then(|library| symbol(library, &format!("scipy_{name}")))
                // The next definition after ours: the BLAS that libmlx itself links.
                .or_else(|| symbol(libc::RTLD_NEXT, name))
                .unwrap_or(missing as *const c_void);
            // SAFETY: runs once, before any thread can call MLX.
            unsafe { TARGETS[index] = target };
        }
        bind_products(openblas);
        match openblas.and_then(|library| symbol(library, "scipy_openblas_get_config")) {
            Some(config) => {
                // SAFETY: openblas_get_config takes nothing and returns a static C string.
                let config =
                    unsafe { CStr::from_ptr(std::mem::transmute::<*const c_void, extern "C" fn() -> *const c_char>(config)()) };
                config.to_string_lossy().trim().to_string()
            }
            None => "the BLAS that MLX links (slow; scipy-openblas32 was not found)".to_string(),
        }
    })
}

fn bind_products(openblas: Option<*mut c_void>) {
    let own = |name: &str| openblas.and_then(|library| symbol(library, name));
    let Some(sgemm) = own("scipy_cblas_sgemm").or_else(|| symbol(libc::RTLD_NEXT, "cblas_sgemm")) else { return };
    let threads = own("scipy_openblas_get_num_threads");
    // SAFETY: these symbols have these signatures in CBLAS and in OpenBLAS.
    unsafe {
        let threads = threads.map_or(1, |get| std::mem::transmute::<*const c_void, extern "C" fn() -> c_int>(get)());
        let set_threads = own("scipy_openblas_set_num_threads").filter(|_| threads > 1);
        let _ = PRODUCTS.set(Products {
            sgemm: std::mem::transmute::<*const c_void, Sgemm>(sgemm),
            set_threads: set_threads.map(|set| std::mem::transmute::<*const c_void, extern "C" fn(c_int)>(set)),
            threads,
        });
    }
}

/// OpenBLAS takes Haswell kernels on AMD's AVX-512 processors; SkylakeX ones are 1.8 times as fast there.
/// On Intel its own choice is right. A choice of the user's stands.
fn choose_kernels() {
    #[cfg(target_arch = "x86_64")]
    {
        let avx512 = std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512vl");
        if avx512 && vendor_is_amd() && std::env::var_os("OPENBLAS_CORETYPE").is_none() {
            // SAFETY: OpenBLAS reads the variable while it loads, which happens right after this on this same thread.
            unsafe { std::env::set_var("OPENBLAS_CORETYPE", "SKYLAKEX") };
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn vendor_is_amd() -> bool {
    let leaf = core::arch::x86_64::__cpuid(0);
    // "AuthenticAMD", spread over ebx, edx, ecx.
    (leaf.ebx, leaf.edx, leaf.ecx) == (0x6874_7541, 0x6974_6e65, 0x444d_4163)
}

fn open_openblas() -> Option<*mut c_void> {
    let path = openblas_path()?;
    let name = CString::new(path.to_str()?).ok()?;
    // SAFETY: loads a library of ours; RTLD_LOCAL keeps its names out of everybody else's way.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    (!handle.is_null()).then_some(handle)
}

/// `scipy_openblas32` lies beside the `mlx` folder whose `lib/libmlx.so` is loaded.
fn openblas_path() -> Option<PathBuf> {
    // SAFETY: dladdr fills a plain struct of ours; the address is that of a function in libmlx-c or libmlx.
    let libmlx = unsafe {
        let address = symbol(libc::RTLD_DEFAULT, "_ZN3mlx4core7versionEv").unwrap_or(super::mlx_version as *const c_void);
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(address, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        PathBuf::from(CStr::from_ptr(info.dli_fname).to_str().ok()?)
    };
    let root = libmlx.canonicalize().ok()?;
    let root: &Path = root.parent()?.parent()?.parent()?;
    let path = root.join("scipy_openblas32/lib/libscipy_openblas.so");
    path.is_file().then_some(path)
}

fn symbol(library: *mut c_void, name: &str) -> Option<*const c_void> {
    let name = CString::new(name).ok()?;
    // SAFETY: dlsym reads a valid C string and a handle from dlopen or a documented constant.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!address.is_null()).then_some(address.cast_const())
}

extern "C" fn missing() -> ! {
    eprintln!("mlx-node: MLX called a BLAS routine that no loaded library has");
    std::process::abort();
}
