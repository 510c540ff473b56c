//! Binds MLX's BLAS and LAPACK calls to OpenBLAS.
//!
//! The Linux binaries of MLX link the reference BLAS, which is 10 to 30 times slower. This library exports the names that
//! libmlx imports; the dynamic linker finds ours first, and each jumps to OpenBLAS (`scipy-openblas32`, whose own names
//! carry the prefix `scipy_`). Where OpenBLAS is not there (an MLX of the user's), the jump goes to the library that MLX links.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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
        static EXPORTS: ([unsafe extern "C" fn(); NAMES.len()], Gemm<f32>, Gemm<f64>) = ([$($name),*], cblas_sgemm, cblas_dgemm);
    };
}

routines! {
    0 cblas_cgemm
    1 sgeev_ 2 dgeev_ 3 cgeev_
    4 sgesdd_ 5 dgesdd_ 6 cgesdd_
    7 ssyevd_ 8 dsyevd_ 9 cheevd_
    10 sgeqrf_ 11 dgeqrf_ 12 sorgqr_ 13 dorgqr_
    14 sgetrf_ 15 dgetrf_ 16 sgetri_ 17 dgetri_
    18 spotrf_ 19 dpotrf_ 20 strtri_ 21 dtrtri_
}

type Gemm<T> = unsafe extern "C" fn(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: T,
    a: *const T,
    lda: c_int,
    b: *const T,
    ldb: c_int,
    beta: T,
    c: *mut T,
    ldc: c_int,
);

/// The products behind `cblas_sgemm` and `cblas_dgemm`.
static SGEMM: OnceLock<Gemm<f32>> = OnceLock::new();
static DGEMM: OnceLock<Gemm<f64>> = OnceLock::new();

macro_rules! products {
    ($($name:ident $type:ty: $target:ident)*) => {$(
        /// # Safety
        /// As CBLAS demands: matrices of the sizes given.
        #[allow(clippy::too_many_arguments)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            order: c_int,
            transpose_a: c_int,
            transpose_b: c_int,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: $type,
            a: *const $type,
            lda: c_int,
            b: *const $type,
            ldb: c_int,
            beta: $type,
            c: *mut $type,
            ldc: c_int,
        ) {
            let Some(&gemm) = $target.get() else { missing() };
            let matrices = Matrices { a, b, c };
            // SAFETY: the caller's promise, passed on: each part lies inside the matrices.
            let part = |rows: Range, columns: Range| unsafe {
                let at = matrices.at((order, transpose_a, transpose_b), (lda, ldb, ldc), rows.start, columns.start);
                gemm(
                    order, transpose_a, transpose_b, rows.count, columns.count, k, alpha, at.a, lda, at.b, ldb, beta, at.c, ldc,
                );
            };
            in_parts(m, n, k, &part);
        }
    )*};
}

products! {
    cblas_sgemm f32: SGEMM
    cblas_dgemm f64: DGEMM
}

struct Matrices<T> {
    a: *const T,
    b: *const T,
    c: *mut T,
}

// SAFETY: threads that share them write to different parts of `c`.
unsafe impl<T> Sync for Matrices<T> {}

impl<T> Matrices<T> {
    /// The corners of the part of a product that starts at a row and a column of `c`.
    ///
    /// # Safety
    /// The row and the column must exist.
    unsafe fn at(
        &self,
        (order, transpose_a, transpose_b): (c_int, c_int, c_int),
        (lda, ldb, ldc): (c_int, c_int, c_int),
        row: c_int,
        column: c_int,
    ) -> Matrices<T> {
        const ROW_MAJOR: c_int = 101;
        const PLAIN: c_int = 111;
        let step = |apart: bool, leading: c_int| if apart { leading as isize } else { 1 };
        // Whether neighbouring rows are a leading dimension apart; where they are not, neighbouring columns are.
        let rows_apart = |transpose: c_int| (order == ROW_MAJOR) == (transpose == PLAIN);
        let (row, column) = (row as isize, column as isize);
        // SAFETY: the caller's promise.
        unsafe {
            Matrices {
                a: self.a.offset(row * step(rows_apart(transpose_a), lda)),
                b: self.b.offset(column * step(!rows_apart(transpose_b), ldb)),
                c: self.c.offset(row * step(rows_apart(PLAIN), ldc) + column * step(!rows_apart(PLAIN), ldc)),
            }
        }
    }
}

/// Some rows or columns.
#[derive(Clone, Copy)]
struct Range {
    start: c_int,
    count: c_int,
}

/// Runs a product `[m, k] x [k, n]` part by part, each on a thread of our pool where the build has one.
///
/// OpenBLAS's own threads wait for each other without sleeping, several times in each product: they burn half of the processor's time,
/// and where another program holds a core they make a product tens of times slower.
fn in_parts(m: c_int, n: c_int, k: c_int, part: &(dyn Fn(Range, Range) + Sync)) {
    #[cfg(kernels)]
    {
        let (down, across) = parts(m, n, k, crate::kernels::threads());
        if down * across > 1 {
            return crate::kernels::parallel((down * across) as usize, &|index: usize| {
                part(share(m, down, index as c_int / across), share(n, across, index as c_int % across));
            });
        }
    }
    #[cfg(not(kernels))]
    let _ = k;
    part(Range { start: 0, count: m }, Range { start: 0, count: n });
}

/// Multiplications that pay for handing a part of a product to another thread: some 20 microseconds of one core.
#[cfg(kernels)]
const WORTH_A_THREAD: i64 = 1 << 21;

/// Borders between the parts of a product are multiples of this, which the kernels of all processors work in.
#[cfg(kernels)]
const GRAIN: c_int = 48;

/// Into how many parts the rows and the columns of a product `[m, k] x [k, n]` are cut.
#[cfg(kernels)]
fn parts(m: c_int, n: c_int, k: c_int, threads: usize) -> (c_int, c_int) {
    let work = m as i64 * n as i64 * k as i64;
    let most = (work / WORTH_A_THREAD).min(threads as i64) as c_int;
    let fits = |size: c_int| (size / GRAIN).max(1);
    // Every part packs its share of both matrices, which the parts in its row or column pack as well: the squarer the better.
    let packed = |&(down, across): &(c_int, c_int)| m as f64 / down as f64 + n as f64 / across as f64;
    (1..=most.min(fits(m)))
        .map(|down| (down, (most / down).clamp(1, fits(n))))
        .max_by(|x, y| (x.0 * x.1).cmp(&(y.0 * y.1)).then(packed(y).total_cmp(&packed(x))))
        .unwrap_or((1, 1))
}

/// The `index`-th of `count` shares of `size`, none of them empty where `count` is at most `size / GRAIN`.
#[cfg(kernels)]
fn share(size: c_int, count: c_int, index: c_int) -> Range {
    let border = |index: c_int| {
        let even = (size as i64 * index as i64 / count as i64) as c_int;
        if index == count { size } else { even / GRAIN * GRAIN }
    };
    Range { start: border(index), count: border(index + 1) - border(index) }
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
    let find = |name: &str| {
        let own = openblas.and_then(|library| symbol(library, &format!("scipy_{name}")));
        own.or_else(|| symbol(libc::RTLD_NEXT, name))
    };
    // SAFETY: these symbols have these signatures in CBLAS and in OpenBLAS.
    unsafe {
        if let Some(sgemm) = find("cblas_sgemm") {
            let _ = SGEMM.set(std::mem::transmute::<*const c_void, Gemm<f32>>(sgemm));
        }
        if let Some(dgemm) = find("cblas_dgemm") {
            let _ = DGEMM.set(std::mem::transmute::<*const c_void, Gemm<f64>>(dgemm));
        }
        #[cfg(kernels)]
        if let Some(set_threads) = openblas.and_then(|library| symbol(library, "scipy_openblas_set_num_threads")) {
            std::mem::transmute::<*const c_void, extern "C" fn(c_int)>(set_threads)(1);
        }
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

#[cfg(all(test, kernels))]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_product_once() {
        let sizes = [1, 47, 48, 95, 96, 97, 1000, 6000];
        for threads in [1, 2, 3, 7, 16] {
            for (m, n) in sizes.iter().flat_map(|&m| sizes.iter().map(move |&n| (m, n))) {
                for k in [1, 64, 5000] {
                    let (down, across) = parts(m, n, k, threads);
                    assert!(down >= 1 && across >= 1 && (down * across) as usize <= threads, "{m} {n} {k}: {down} x {across}");
                    for (size, count) in [(m, down), (n, across)] {
                        let shares: Vec<Range> = (0..count).map(|index| share(size, count, index)).collect();
                        assert!(shares.iter().all(|share| share.count > 0), "{m} {n} {k}: {down} x {across}");
                        let mut end = 0;
                        for share in shares {
                            assert_eq!(share.start, end);
                            end += share.count;
                        }
                        assert_eq!(end, size);
                    }
                }
            }
        }
        assert_eq!(parts(1024, 1024, 1024, 4), (2, 2), "square parts pack least");
        assert_eq!(parts(4096, 128, 512, 4), (4, 1));
        assert_eq!(parts(64, 64, 64, 4), (1, 1), "not worth a thread");
    }
}
