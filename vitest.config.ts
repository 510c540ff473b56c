import { configDefaults, defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['__test__/**/*.test.ts'],
    exclude: [
      ...configDefaults.exclude,
      // A model of gigabytes that no clone has: docs/real-model.md.
      ...(process.env['MLX_NODE_REAL_MODEL'] ? [] : ['__test__/real/**']),
      // A Python with torch, transformers and PEFT: CONTRIBUTING.md.
      ...(process.env['MLX_NODE_TRANSFORMERS_PYTHON'] ? [] : ['__test__/parity/transformers.test.ts']),
    ],
    // Addons crash in worker threads that vitest tears down; a process per file is the supported way.
    pool: 'forks',
    // MLX uses all cores by itself.
    maxWorkers: 1,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
