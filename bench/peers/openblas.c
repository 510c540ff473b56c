/* Gives Python's MLX the OpenBLAS that mlx-node binds, so that both multiply matrices alike: preloaded, its cblas_sgemm goes before the
   reference BLAS of MLX's Linux package. Built by bench/setup.sh; OPENBLAS_LIBRARY names PyPI's scipy-openblas32. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef void (*gemm)(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);

static gemm find(void) {
  const char *path = getenv("OPENBLAS_LIBRARY");
  void *library = path ? dlopen(path, RTLD_NOW) : NULL;
  gemm found = library ? (gemm)dlsym(library, "scipy_cblas_sgemm") : NULL;
  if (!found) {
    fprintf(stderr, "OPENBLAS_LIBRARY=%s holds no scipy_cblas_sgemm: %s\n", path ? path : "", dlerror());
    exit(1);
  }
  return found;
}

void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
                 float *c, int ldc) {
  static gemm call;
  if (!call) call = find();
  call(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
