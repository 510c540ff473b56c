"""A float32 product of two 1024 x 1024 matrices."""

import numpy

from common import median_ms, report

size = 1024
generator = numpy.random.default_rng(0)
a = generator.standard_normal((size, size), dtype=numpy.float32)
b = generator.standard_normal((size, size), dtype=numpy.float32)
ms = median_ms(lambda: [a @ b for _ in range(10)]) / 10
report(f"numpy {numpy.__version__}", sgemm_ms=ms, sgemm_gflops=2 * size**3 / ms / 1e6)
